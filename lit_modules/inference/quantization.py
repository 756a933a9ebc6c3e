"""Quantizes an ONNX file to 8-bit integers, and measures what that costs and saves."""

import json
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from conf.errors import UserError
from lit_modules.evaluation.predictions import THRESHOLD
from lit_modules.evaluation.significance import all_right, wilson
from lit_modules.inference.export_formats.onnx_model import FILE, quantize, session, with_contract

NUM_CALIBRATION = 256  # training images
NUM_TIMED = 100


class Quantization(NamedTuple):
    """How an export is quantized and what it may cost."""

    calibration: Tensor
    """Inputs of the training split, see `onnx_model.quantize`"""
    validation: Iterable[Tensor]
    """Batches of inputs"""
    labels: Tensor
    """Of all of them, int64 `[N]`, or 0/1 `[N, num_classes]`"""
    tolerance: float
    """Accuracy that may be lost; of several labels subset accuracy"""


def quantization_plan(datamodule: Any, raw: bool, tolerance: float) -> Quantization:
    """The plan for the data of a run.

    Args:
        raw: inputs are uint8 instead of float32.
    """
    labels = datamodule.split("val").labels
    count = len(datamodule.split("train").labels)
    chosen = torch.arange(min(NUM_CALIBRATION, count)) * count // min(NUM_CALIBRATION, count)  # of all classes
    calibration = datamodule.samples("train", chosen)
    if raw:
        calibration = (calibration * 255).round().to(torch.uint8)
    batches = ((samples if raw else scaled) for samples, scaled in datamodule.batches("val"))
    return Quantization(calibration, batches, labels, tolerance)


def quantized_onnx(
    content: bytes, inputs: Tensor, plan: Quantization, contract: dict[str, Any]
) -> tuple[dict[str, bytes], Callable[[Tensor], Tensor], Tensor]:
    """An ONNX file with 8-bit integers, its function, and its outputs for some inputs; prints how it compares.

    Args:
        contract: gets the comparison.

    Raises:
        UserError: the accuracy on the validation split drops by more than the plan's tolerance.
    """
    smaller = quantize(content, plan.calibration)
    comparison = compare({"float32": content, "int8": smaller}, plan)
    accuracy = comparison["accuracy"]
    lost = accuracy["float32"] - accuracy["int8"]
    if lost > plan.tolerance:
        raise UserError(
            f"precision: int8 loses {lost:.4f} of the validation split ({described(comparison)}), more than "
            f"tolerance={plan.tolerance:g}, so nothing was written; leave precision out, or raise tolerance"
        )
    difference = comparison["largest difference of a probability"]
    print(f"{described(comparison)}; largest difference of a probability {difference:.2g}")
    for name in ("float32", "int8"):
        rate, size = comparison["images per second"][name], comparison["bytes"][name]
        print(f"{name}: {rate:.1f} images/s one at a time, {size / 1e6:.1f} MB")
    contract["quantization"] = comparison
    smaller = with_contract(smaller, json.dumps(contract))
    run = session(smaller)
    return {FILE: smaller}, run, torch.cat([run(part) for part in inputs.split(1)])


def compare(contents: dict[str, bytes], plan: Quantization) -> dict[str, Any]:
    """Accuracy on the validation split with intervals, size and speed of ONNX files by name."""
    runs = {name: session(content) for name, content in contents.items()}
    correct, start, difference = dict.fromkeys(runs, 0), 0, 0.0
    for inputs in plan.validation:
        labels = plan.labels[start : start + len(inputs)]
        start += len(inputs)
        probabilities = {name: run(inputs) for name, run in runs.items()}
        for name in runs:
            predicted = probabilities[name] >= THRESHOLD if labels.ndim == 2 else probabilities[name].argmax(1)
            correct[name] += int(all_right(labels.numpy(), predicted.numpy()).sum())
        difference = max(difference, float((probabilities["int8"] - probabilities["float32"]).abs().max()))
    return {
        "calibrated on": f"{len(plan.calibration)} training samples",
        "validation samples": start,
        "accuracy": {name: count / start for name, count in correct.items()},
        "95% interval": {name: list(wilson(count, start)) for name, count in correct.items()},
        "largest difference of a probability": difference,
        "bytes": {name: len(content) for name, content in contents.items()},
        "images per second": {name: images_per_second(run, plan.calibration) for name, run in runs.items()},
    }


def images_per_second(run: Callable[[Tensor], Tensor], inputs: Tensor) -> float:
    """Of single samples, one after the other, after a warm-up."""
    run(inputs[:1])
    began = time.perf_counter()
    for sample in inputs[:NUM_TIMED].split(1):
        run(sample)
    return len(inputs[:NUM_TIMED]) / (time.perf_counter() - began)


def described(comparison: dict[str, Any]) -> str:
    """The accuracies of a comparison with their intervals."""
    parts = []
    for name, accuracy in comparison["accuracy"].items():
        low, high = comparison["95% interval"][name]
        parts.append(f"{name} {accuracy:.4f} [{low:.4f}, {high:.4f}]")
    return f"accuracy {', '.join(parts)} on {comparison['validation samples']} samples"
