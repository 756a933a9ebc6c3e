"""Exports a Predictor to a file that does not need Litmus, and verifies it."""

import json
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

import torch
from torch import Tensor

from conf.errors import UserError
from conf.files import make_output, write_durably
from lit_modules.inference.export_example import example
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.normalize import Normalize

ARRAYS = {"uint8": "as trained on", "float32": "as trained on, uint8 divided by 255"}
NUM_SAMPLES = 1000  # for verification
TOLERANCE = 1e-5  # absolute, of float32 probabilities
REQUIRED_PACKAGES = {"torch_export": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "safetensors": ["safetensors"]}

# Runs an exported file: inputs → probabilities.
Runnable = Callable[[Tensor], Tensor]


def export(
    predictor: Predictor, inputs: Tensor, expected: Tensor, metadata: dict[str, Any], file_format: str, output: Path
) -> float:
    """Writes `model.*` and `example_*.py` to a folder, after the files were reloaded and verified.

    Args:
        predictor: on the CPU.
        inputs: uint8 or float32 `[N, C, *spatial]`, N ≥ 2; the export takes inputs of this dtype.
        expected: probabilities computed by the LitClassifier, float32 `[N, num_classes]`.
        metadata: saved in the file as JSON, with the input and output specification; needs `class_names` and `resize`
            (None unless the inputs are images).
        file_format: torch_export, onnx, or safetensors. safetensors contains only the weights; the graph is in
            model.pt2 next to it.
        output: created if needed.

    Raises:
        UserError: a package is missing, or a probability differs by more than `TOLERANCE`. Nothing is written.

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
    with TemporaryDirectory() as staging:
        run = WRITERS[file_format](predictor, inputs[:2], json.dumps(contract), Path(staging))
        with torch.inference_mode():  # batch sizes 1 and 256: the batch dimension must be dynamic
            outputs = torch.cat([run(part) for part in (inputs[:1], *inputs[1:].split(256))])
        difference = float((outputs - expected).abs().max())
        if not difference <= TOLERANCE:  # also if NaN
            raise UserError(
                f"format: probabilities of the {file_format} export differ by {difference:.1e}, more than "
                f"{TOLERANCE:.0e}, so nothing was written; choose another format"
            )
        make_output(output)
        (Path(staging) / f"example_{file_format}.py").write_text(example(file_format, contract), encoding="utf-8")
        for path in Path(staging).iterdir():
            write_durably(output / path.name, partial(_copy, path))
    return difference


def _copy(path: Path, file: BinaryIO) -> None:
    file.write(path.read_bytes())


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


def _torch_export(predictor: Predictor, inputs: Tensor, contract: str, folder: Path) -> Runnable:
    dynamic_shapes = {"inputs": {0: torch.export.Dim("batch")}}
    program = torch.export.export(predictor, (inputs,), dynamic_shapes=dynamic_shapes)
    torch.export.save(program, folder / "model.pt2", extra_files={"contract.json": contract})
    return torch.export.load(folder / "model.pt2").module()


def _onnx(predictor: Predictor, inputs: Tensor, contract: str, folder: Path) -> Runnable:
    import onnxruntime

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
    program.save(folder / "model.onnx")
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])

    def run(part: Tensor) -> Tensor:
        return torch.from_numpy(session.run(None, {"inputs": part.numpy()})[0])

    return run


def _safetensors(predictor: Predictor, inputs: Tensor, contract: str, folder: Path) -> Runnable:
    from safetensors.torch import load_file, save_file

    module: Any = _torch_export(predictor, inputs, contract, folder)
    weights = {name: value.contiguous() for name, value in predictor.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"contract": contract})
    with torch.no_grad():
        for value in module.state_dict().values():
            value.zero_()  # so that the weights of the file are verified
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module


WRITERS = {"torch_export": _torch_export, "onnx": _onnx, "safetensors": _safetensors}
