"""A Predictor as one file that needs no Litmus, checked against the network that was trained before it is kept."""

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
from lit_modules.classifier import LitClassifier
from lit_modules.inference.export_example import example
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.normalize import Normalize

ARRAYS = {"uint8": "as trained on", "float32": "as trained on, uint8 divided by 255"}
SAMPLES = 1000  # to check with
TOLERANCE = 1e-5  # of a probability, float32
NEEDED = {"torch_export": [], "onnx": ["onnx", "onnxscript", "onnxruntime"], "safetensors": ["safetensors"]}

# What runs an exported file: inputs → probabilities.
Runnable = Callable[[Tensor], Tensor]


def export(
    predictor: Predictor, inputs: Tensor, expected: Tensor, facts: dict[str, Any], file_format: str, output: Path
) -> float:
    """Writes `model.*` and `example_*.py` into the folder `output`, after the files have been read again and run.

    Args:
        predictor: on the CPU.
        inputs: uint8 or float32 `[N, C, *spatial]`, N ≥ 2; their type becomes that of the export's inputs.
        expected: what training's own path makes of them: float32 `[N, num_classes]`.
        facts: kept in the file as JSON, with what it takes and gives; `class_names` and `resize` (null: no images)
            are what the example needs.
        file_format: torch_export, onnx, or safetensors. That last one holds the weights alone, without code and for any
            language; model.pt2 beside it is the graph that they fit into.
        output: made if needed.

    Raises:
        UserError: an extra is missing, or a probability differs by more than `TOLERANCE`; nothing is written then.

    Returns:
        The largest difference between two probabilities.
    """
    if missing := [package for package in NEEDED[file_format] if find_spec(package) is None]:
        raise UserError(f'format: {file_format} needs {", ".join(missing)}; pip install -e ".[onnx]"')
    kind, largest = ("uint8", 255) if inputs.dtype == torch.uint8 else ("float32", 1)
    meaning = f"images, channels first, grey or RGB, 0 to {largest}" if facts["resize"] else ARRAYS[kind]
    contract = facts | {
        "inputs": {"shape": ["batch", *inputs.shape[1:]], "dtype": kind, "meaning": meaning},
        "outputs": {"shape": ["batch", *expected.shape[1:]], "dtype": "float32", "meaning": "probabilities"},
        "temperature": float(predictor.temperature),
    }
    predictor = deepcopy(predictor).to(memory_format=torch.contiguous_format)  # torch.export's writer asks for that
    with TemporaryDirectory() as staging:
        run = WRITERS[file_format](predictor, inputs[:2], json.dumps(contract), Path(staging))
        with torch.inference_mode():  # one alone, then many: the batch must be free
            found = torch.cat([run(part) for part in (inputs[:1], *inputs[1:].split(256))])
        difference = float((found - expected).abs().max())
        if not difference <= TOLERANCE:  # or not a number
            raise UserError(
                f"format: the {file_format} export differs from the network by {difference:.1e} in a probability, more "
                f"than {TOLERANCE:.0e}; nothing was written; choose another format"
            )
        make_output(output)
        (Path(staging) / f"example_{file_format}.py").write_text(example(file_format, contract), encoding="utf-8")
        for path in Path(staging).iterdir():
            write_durably(output / path.name, partial(_copy, path))
    return difference


def _copy(path: Path, file: BinaryIO) -> None:
    file.write(path.read_bytes())


def first_samples(
    batches: Iterable[tuple[Tensor, Tensor]], classifier: LitClassifier, as_they_are: bool
) -> tuple[Tensor, Tensor]:
    """Up to `SAMPLES` inputs and their logits.

    Args:
        batches: of samples as they are (uint8), and as the classifier takes them (float32).
        as_they_are: which of the two is returned.
    """
    inputs, logits, count = [], [], 0
    for raw, scaled in batches:
        with torch.inference_mode():
            logits.append(classifier(scaled))
        inputs.append(raw if as_they_are else scaled)
        count += len(raw)
        if count >= SAMPLES:
            break
    return torch.cat(inputs)[:SAMPLES], torch.cat(logits)[:SAMPLES]


def noise(normalize: Normalize, input_shape: tuple[int, ...]) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches without end for `first_samples`, with the mean and standard deviation of the training data."""
    generator = torch.Generator().manual_seed(0)
    while True:
        wanted = torch.randn(100, *input_shape, generator=generator) * normalize.std + normalize.mean
        raw = (wanted.clamp(0, 1) * 255).round().to(torch.uint8)
        yield raw, raw / torch.tensor(255.0)


def _graph(predictor: Predictor, inputs: Tensor, contract: str, folder: Path) -> Runnable:
    batch = {"inputs": {0: torch.export.Dim("batch")}}
    program = torch.export.export(predictor, (inputs,), dynamic_shapes=batch)
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


def _weights(predictor: Predictor, inputs: Tensor, contract: str, folder: Path) -> Runnable:
    from safetensors.torch import load_file, save_file

    module: Any = _graph(predictor, inputs, contract, folder)
    weights = {name: value.contiguous() for name, value in predictor.state_dict().items()}
    save_file(weights, folder / "model.safetensors", {"contract": contract})
    with torch.no_grad():
        for value in module.state_dict().values():
            value.zero_()  # so that what is checked are the weights of the file
    module.load_state_dict(load_file(folder / "model.safetensors"))
    return module


WRITERS = {"torch_export": _graph, "onnx": _onnx, "safetensors": _weights}
