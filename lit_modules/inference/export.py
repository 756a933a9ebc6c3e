"""Exports a Predictor to a file that does not need Litmus, and verifies it."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from copy import deepcopy
from importlib.util import find_spec
from operator import methodcaller
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from conf.errors import UserError
from conf.files import make_output, write_durably, write_text
from conf.text import printable
from lit_modules.evaluation.predictions import probabilities_of
from lit_modules.inference.any_size import AnySize
from lit_modules.inference.export_example import example
from lit_modules.inference.export_formats.executorch_program import write_executorch
from lit_modules.inference.export_formats.onnx_model import write_onnx
from lit_modules.inference.export_formats.openvino_model import write_openvino
from lit_modules.inference.export_formats.torch_program import write_safetensors, write_torch_export
from lit_modules.inference.hub import hub_metadata, write_hub
from lit_modules.inference.hub_card import reading
from lit_modules.inference.image_reading import ANY_SIZE, preprocessing
from lit_modules.inference.predictor import Predictor
from lit_modules.inference.quantization import Quantization, quantization_plan, quantized_onnx
from lit_modules.inference.thresholds import fit_thresholds
from lit_modules.inference.web_page import check_page, write_web
from lit_modules.networks.normalize import Normalize

ARRAYS = {"uint8": "as trained on", "float32": "as trained on, uint8 divided by 255"}
NUM_SAMPLES = 1000  # for verification
NUM_FILES = 200  # of them that are read again
TOLERANCE = 1e-5  # absolute, of float32 probabilities
FILE_TOLERANCE = 1e-4
RESIZE_TOLERANCE = 1e-2  # of files with the resize in the graph, see `AnySize`
# Files by name, and what computes probabilities from them.
Exported = tuple[dict[str, bytes], Callable[[Tensor], Tensor]]
WRITERS: dict[str, Callable[[Any, Tensor, str], Exported]] = {
    "torch_export": write_torch_export,
    "onnx": write_onnx,
    "safetensors": write_safetensors,
    "openvino": write_openvino,
    "executorch": write_executorch,
    "hub": write_hub,
    "web": write_web,
}
ONE_SAMPLE = ["executorch"]  # at a time, of a fixed size: they reserve memory for the largest input
# In the extra of the format's name.
REQUIRED_PACKAGES = {
    "torch_export": [],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "safetensors": ["safetensors"],
    "openvino": ["openvino"],
    "executorch": ["executorch"],
    "hub": ["safetensors"],  # and timm, for its networks
    "web": ["onnx", "onnxscript", "onnxruntime"],
}


class Differences(NamedTuple):
    """Largest absolute differences of a probability from those expected."""

    samples: float
    files: float | None
    """Of image files as the example reads them, of the quantized network where there is one; None without files"""
    num_files: int


def check_keys(cfg: DictConfig) -> None:
    """Checks the keys of `task=export` before anything is loaded.

    Raises:
        UserError: a package is missing, or two keys exclude each other.
    """
    file_format, kind = cfg.format.name, cfg.input.name
    missing = [package for package in REQUIRED_PACKAGES[file_format] if find_spec(package) is None]
    if missing:
        extra = {"hub": "safetensors", "web": "onnx"}.get(file_format, file_format)
        raise UserError(f'format: {file_format} needs {", ".join(missing)}; pip install -e ".[{extra}]"')
    if kind == "image" and file_format in (*ONE_SAMPLE, "hub", "web"):
        raise UserError(f"input: {file_format} takes images of one size; leave it out, or choose format=onnx")
    if kind == "image" and "resize" not in cfg.datamodule:
        raise UserError("input: the run was trained on arrays, not images; leave it out")
    if file_format == "web":
        check_page(cfg)
    if cfg.precision.name == "int8" and (file_format != "onnx" or kind == "image"):
        raise UserError("precision: int8 is for format=onnx and one size of images; leave it out")


def export_run(
    cfg: DictConfig,
    predictor: Predictor,
    class_names: Sequence[str],
    spec: dict[str, Any] | None,
    read_data: Callable[[], Any],
) -> None:
    """Exports a run's predictor as the config says, verified on its validation samples, and prints how it compares.

    Args:
        spec: the fields of `datamodules.storage.decode.ImageSpec`; None unless the inputs are images.
        read_data: the data module of the run, after `setup("export")`; noise replaces images that are gone.
    """
    metadata, thresholds = hub_metadata(cfg), fit_thresholds(cfg, predictor)
    try:
        datamodule = read_data()
        batches, checked_on = datamodule.batches("val"), "validation samples"
    except UserError as error:
        if not spec or cfg.precision.name == "int8":  # noise resembles images, but no array, and has no labels
            raise
        print(printable(f"no validation samples, so the export is checked on noise: {error}"), file=sys.stderr)
        datamodule = None
        batches, checked_on = noise(predictor.normalize, (spec["channels"], *spec["size"])), "noise"
    raw = cfg.input.name != "float"
    inputs, logits = first_samples(batches, predictor.logits, raw)
    expected = probabilities_of(logits / predictor.temperature, predictor.multi_label)
    metadata |= {"class_names": list(class_names), "resize": None} | (spec or {})
    metadata |= {"checked on": checked_on, "temperature": predictor.temperature.tolist()}
    metadata |= {"coverage": cfg.coverage, "set threshold": thresholds.set, "multi_label": predictor.multi_label}
    if thresholds.labels is not None:
        metadata["thresholds"] = np.broadcast_to(thresholds.labels, len(class_names)).tolist()
    model: nn.Module = predictor
    if spec and cfg.input.name == "image":
        model = AnySize(predictor, spec["channels"], spec["size"], spec["resize"], spec["interpolation"])
        inputs = inputs.permute(0, 2, 3, 1).expand(-1, -1, -1, 3).contiguous()  # [N, C, H, W] → [N, H, W, 3]
    files = image_files(datamodule.items["val"], len(inputs)) if datamodule and spec else []
    plan = quantization_plan(datamodule, raw, cfg.tolerance) if cfg.precision.name == "int8" else None
    output = Path(cfg.output)
    differences = export(model, inputs, expected, metadata, cfg.format.name, output, files, plan)
    print(printable(f"{cfg.format.name} → {output}"))
    before = " before quantization" if plan else ""
    print(f"largest difference of a probability: {differences.samples:.1e}, on {len(inputs)} {checked_on}{before}")
    if differences.files is None:
        print("no image files of the validation split to read as the example reads them")
    else:
        print(f"read as the example reads them: {differences.files:.1e}, on {differences.num_files} files")


def export(
    model: nn.Module,
    inputs: Tensor,
    expected: Tensor,
    metadata: dict[str, Any],
    file_format: str,
    output: Path,
    files: Sequence[tuple[int, str]] = (),
    plan: Quantization | None = None,
) -> Differences:
    """Writes `model.*` and `example_*.py` to a folder, after the model was reloaded and verified.

    Args:
        model: a Predictor or AnySize, on the CPU.
        inputs: of the model, N ≥ 2; the export takes inputs of this dtype.
        expected: probabilities computed by the LitClassifier, float32 `[N, num_classes]`.
        metadata: saved with the model as JSON, with the input and output specification; needs `class_names` and
            `resize` (None unless the inputs are images; else the other fields of `ImageSpec` too); for the format hub
            `hub_metadata`.
        file_format: one of `WRITERS`. safetensors contains only the weights; the graph is in model.pt2 next to it.
        output: created if needed.
        files: image files of the inputs: position and path.
        plan: quantizes an onnx file; None for float32.

    Raises:
        UserError: a probability differs by more than `TOLERANCE`, or than that for files: nothing is written.
            Or a file cannot be written.
    """
    dtype, maximum = ("uint8", 255) if inputs.dtype == torch.uint8 else ("float32", 1)
    batch = 1 if file_format in ONE_SAMPLE else "batch"
    shape = ANY_SIZE if isinstance(model, AnySize) else [batch, *inputs.shape[1:]]
    order = "channels last, RGB" if isinstance(model, AnySize) else "channels first, grey or RGB"
    meaning = f"images, {order}, 0 to {maximum}" if metadata["resize"] else ARRAYS[dtype]
    contract = metadata | {
        "inputs": {"shape": shape, "dtype": dtype, "meaning": meaning},
        "outputs": {"shape": [batch, *expected.shape[1:]], "dtype": "float32", "meaning": "probabilities"},
    }
    if metadata["resize"]:
        contract["preprocessing"] = preprocessing(contract)
    model = deepcopy(model).to(memory_format=torch.contiguous_format)  # required by torch.export.save
    contents, run = WRITERS[file_format](model, inputs[:2], json.dumps(contract))
    with torch.inference_mode():  # batch sizes 1 and 256: the batch dimension must be dynamic
        outputs = torch.cat([run(part) for part in (inputs[:1], *inputs[1:].split(256))])
    difference = float((outputs - expected).abs().max())
    if not difference <= TOLERANCE:  # also if NaN
        raise UserError(
            f"format: probabilities of the {file_format} export differ by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}, so nothing was written; choose another format"
        )
    if plan:
        contents, run, expected = quantized_onnx(contents["model.onnx"], inputs, plan, contract)
    as_format = "onnx" if file_format == "web" else file_format
    program = reading(contract) if file_format == "hub" else example(as_format, contract)
    tolerance = RESIZE_TOLERANCE if isinstance(model, AnySize) else FILE_TOLERANCE
    differences = Differences(difference, *difference_on_files(program, run, files, expected, tolerance))
    make_output(output)
    for name, content in contents.items():
        write_durably(output / name, methodcaller("write", content))
    if file_format not in ("hub", "web"):
        write_text(output / f"example_{file_format}.py", program)
    return differences


def image_files(items: Sequence[Any], count: int) -> list[tuple[int, str]]:
    """Positions and paths of at most `NUM_FILES` of the first `count` items that are files, evenly spaced."""
    files = [(position, item) for position, item in enumerate(items[:count]) if isinstance(item, str)]
    return files[:: max(1, len(files) // NUM_FILES)][:NUM_FILES]


def difference_on_files(
    program: str,
    run: Callable[[Tensor], Tensor],
    files: Sequence[tuple[int, str]],
    expected: Tensor,
    tolerance: float,
) -> tuple[float | None, int]:
    """Largest difference of a probability of files that the text of the example reads, and the number of these files.

    Raises:
        UserError: it exceeds the tolerance.
    """
    namespace: dict[str, Any] = {"__name__": "example"}
    exec(compile(program, "example", "exec"), namespace)  # without its main part
    differences = []
    for position, path in files:
        try:
            inputs = namespace["read"](path)
        except SystemExit:  # the example refuses some modes
            continue
        with torch.inference_mode():
            differences.append(float((run(torch.tensor(inputs)) - expected[position]).abs().max()))
        if not differences[-1] <= tolerance:
            raise UserError(
                f"{path}: read as the example reads it, probabilities differ by {differences[-1]:.1e} from those of "
                f"task=predict, more than {tolerance:.0e}, so nothing was written; save it as 8-bit RGB"
            )
    return (max(differences) if differences else None), len(differences)


def first_samples(
    batches: Iterable[tuple[Tensor, Tensor]], logits_of: Callable[[Tensor], Tensor], raw: bool
) -> tuple[Tensor, Tensor]:
    """Inputs of the first `NUM_SAMPLES` samples and their logits.

    Args:
        batches: pairs of uint8 samples and the same samples in float32, as for the classifier.
        logits_of: float32 samples → logits.
        raw: returns the uint8 inputs instead of float32.
    """
    inputs, logits, count = [], [], 0
    for samples, scaled in batches:
        with torch.inference_mode():
            logits.append(logits_of(scaled))
        inputs.append(samples if raw else scaled)
        count += len(samples)
        if count >= NUM_SAMPLES:
            break
    return torch.cat(inputs)[:NUM_SAMPLES], torch.cat(logits)[:NUM_SAMPLES]


def noise(normalize: Normalize, input_shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Infinite batches for `first_samples`: Gaussian noise with the mean and std of the training data."""
    generator = torch.Generator().manual_seed(0)
    while True:
        samples = torch.randn(100, *input_shape, generator=generator) * normalize.std + normalize.mean
        raw = (samples.clamp(0, 1) * 255).round().to(torch.uint8)
        yield raw, raw / torch.tensor(255.0)
