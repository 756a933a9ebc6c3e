"""Exports a Predictor to a file that does not need Litmus, and verifies it."""

import json
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from importlib.util import find_spec
from io import BytesIO
from operator import methodcaller
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conf.errors import UserError
from conf.files import make_output, write_durably, write_text
from lit_modules.inference.export_example import example
from lit_modules.inference.hub import write_hub
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.normalize import Normalize

ARRAYS = {"uint8": "as trained on", "float32": "as trained on, uint8 divided by 255"}
NUM_SAMPLES = 1000  # for verification
TOLERANCE = 1e-5  # absolute, of float32 probabilities
REQUIRED_PACKAGES = {
    "torch_export": [],
    "onnx": ["onnx", "onnxscript", "onnxruntime"],
    "safetensors": ["safetensors"],
    "hub": ["safetensors"],  # and timm, for its networks
}

MAX_ONNX_BYTES = 2**31 - 2**20  # of weights: an ONNX file is one protobuf message, which 2 GiB limit

# Bytes by file name, and how they compute when loaded: inputs → probabilities.
Exported = tuple[dict[str, bytes], Callable[[Tensor], Tensor]]


def export(
    predictor: Predictor, inputs: Tensor, expected: Tensor, metadata: dict[str, Any], file_format: str, output: Path
) -> float:
    """Writes `model.*` and `example_*.py` to a folder, after the model was reloaded and verified.

    Args:
        predictor: on the CPU.
        inputs: uint8 or float32 `[N, C, *spatial]`, N ≥ 2; the export takes inputs of this dtype.
        expected: probabilities computed by the LitClassifier, float32 `[N, num_classes]`.
        metadata: saved in the file as JSON, with the input and output specification; needs `class_names` and `resize`
            (None unless the inputs are images).
        file_format: torch_export, onnx, safetensors, or hub. safetensors contains only the weights; the graph is in
            model.pt2 next to it. hub needs `hub_metadata`.
        output: created if needed.

    Raises:
        UserError: a package is missing, or a probability differs by more than `TOLERANCE`: nothing is written. Or a
            file cannot be written.

    Returns:
        The largest absolute difference of a probability.
    """
    missing = [package for package in REQUIRED_PACKAGES[file_format] if find_spec(package) is None]
    if missing:
        raise UserError(f'format: {file_format} needs {", ".join(missing)}; pip install -e ".[onnx]"')
    dtype, maximum = ("uint8", 255) if inputs.dtype == torch.uint8 else ("float32", 1)
    meaning = f"images, channels first, grey or RGB, 0 to {maximum}" if metadata["resize"] else ARRAYS[dtype]
    contract = metadata | {
        "inputs": {"shape": ["batch", *inputs.shape[1:]], "dtype": dtype, "meaning": meaning},
        "outputs": {"shape": ["batch", *expected.shape[1:]], "dtype": "float32", "meaning": "probabilities"},
        "temperature": float(predictor.temperature),
    }
    predictor = deepcopy(predictor).to(memory_format=torch.contiguous_format)  # required by torch.export.save
    files, run = WRITERS[file_format](predictor, inputs[:2], json.dumps(contract))
    with torch.inference_mode():  # batch sizes 1 and 256: the batch dimension must be dynamic
        outputs = torch.cat([run(part) for part in (inputs[:1], *inputs[1:].split(256))])
    difference = float((outputs - expected).abs().max())
    if not difference <= TOLERANCE:  # also if NaN
        raise UserError(
            f"format: probabilities of the {file_format} export differ by {difference:.1e}, more than "
            f"{TOLERANCE:.0e}, so nothing was written; choose another format"
        )
    make_output(output)
    for name, content in files.items():
        write_durably(output / name, methodcaller("write", content))
    if file_format != "hub":  # its README.md holds one
        write_text(output / f"example_{file_format}.py", example(file_format, contract))
    return difference


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


def _torch_export(predictor: Predictor, inputs: Tensor, contract: str) -> Exported:
    dynamic_shapes = {"inputs": {0: torch.export.Dim("batch")}}
    program = torch.export.export(predictor, (inputs,), dynamic_shapes=dynamic_shapes)
    file = BytesIO()
    torch.export.save(program, file, extra_files={"contract.json": contract})
    file.seek(0)
    return {"model.pt2": file.getvalue()}, torch.export.load(file).module()


def _onnx(predictor: Predictor, inputs: Tensor, contract: str) -> Exported:
    import onnxruntime

    if sum(value.nbytes for value in predictor.state_dict().values()) > MAX_ONNX_BYTES:
        raise UserError("format: an onnx file holds at most 2 GB, which the weights exceed; choose torch_export")
    program = torch.onnx.export(
        predictor,
        (inputs,),
        dynamo=True,
        dynamic_shapes={"inputs": {0: torch.export.Dim("batch")}},
        input_names=["inputs"],
        output_names=["probabilities"],
        verbose=False,
    )
    assert program is not None
    program.model.metadata_props["contract"] = contract
    content = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])

    def run(part: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": part.numpy()})[0])

    return {"model.onnx": content}, run


def _safetensors(predictor: Predictor, inputs: Tensor, contract: str) -> Exported:
    from safetensors.torch import load, save

    files, module = _torch_export(predictor, inputs, contract)
    assert isinstance(module, torch.nn.Module)
    weights = {name: value.contiguous() for name, value in predictor.state_dict().items()}
    content = save(weights, {"contract": contract})
    with torch.no_grad():
        for value in module.state_dict().values():
            value.zero_()  # so that the weights of the file are verified
    module.load_state_dict(load(content))
    return files | {"model.safetensors": content}, module


WRITERS: dict[str, Callable[[Predictor, Tensor, str], Exported]] = {
    "torch_export": _torch_export,
    "onnx": _onnx,
    "safetensors": _safetensors,
    "hub": write_hub,
}
