"""An onnx file of 8-bit integers says what it costs, or is not written."""

import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from conf.errors import UserError
from lit_modules.evaluation.significance import wilson
from lit_modules.inference import quantization
from lit_modules.inference.export import export
from lit_modules.inference.export_formats.onnx_model import session, write_onnx
from lit_modules.inference.quantization import Quantization, quantized_onnx
from tests.fits import predictor_of
from tests.runs import NAMES, trained

SHAPE = (3, 12, 10)


def samples(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, *SHAPE), dtype=torch.uint8, generator=generator)


def plan_of(labels: Tensor, images: Tensor, tolerance: float) -> Quantization:
    return Quantization(samples(64, 2), images.split(40), labels, tolerance)


def test_int8_agrees_with_float32_and_says_how_well(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnx

    images, predictor = samples(100, 1), predictor_of(trained(SHAPE), 1.0)
    with torch.inference_mode():
        expected = predictor(images)
    labels = expected.argmax(1)
    facts = {"class_names": NAMES, "resize": None, "temperature": 1.0}
    export(predictor, images, expected, facts, "onnx", tmp_path, plan=plan_of(labels, images, 0.2))
    content = (tmp_path / "model.onnx").read_bytes()
    comparison = json.loads(onnx.load_from_string(content).metadata_props[0].value)["quantization"]
    outputs = session(content)(images)
    correct = int((outputs.argmax(1) == labels).sum())
    assert 80 <= correct <= 100 and comparison["accuracy"] == {"float32": 1.0, "int8": correct / 100}
    assert comparison["95% interval"]["int8"] == pytest.approx(wilson(correct, 100))
    difference = float((outputs - expected).abs().max())  # from PyTorch's, not those of the float32 file
    assert comparison["largest difference of a probability"] == pytest.approx(difference, abs=1e-5)
    assert comparison["bytes"]["int8"] == pytest.approx(len(content), rel=0.2)
    assert "QuantizeLinear" in {node.op_type for node in onnx.load_from_string(content).graph.node}
    assert f"int8 {correct / 100:.4f} [" in capsys.readouterr().out


def test_int8_that_loses_accuracy_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    images, predictor = samples(100, 1), predictor_of(trained(SHAPE), 1.0)
    contents, run = write_onnx(predictor, images[:2], "{}")
    other, _ = write_onnx(predictor_of(trained(SHAPE), 1e9), images[:2], "{}")  # gives each class a third
    monkeypatch.setattr(quantization, "quantize", lambda *_: other["model.onnx"])
    plan = plan_of(run(images).argmax(1), images, 0.005)
    with pytest.raises(UserError, match=r"^precision: int8 loses 0\.\d+ of .* more than tolerance=0\.005, so nothing"):
        quantized_onnx(contents["model.onnx"], images, plan, {})
