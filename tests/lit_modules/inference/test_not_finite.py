"""Weights or probabilities that are NaN or infinite are refused, and never written."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conf.errors import UserError
from lit_modules.inference.predict import predict
from tests.conftest import TINY
from tests.damaged_checkpoints import FIRST, change, set_weight
from tests.fits import predictor_of
from tests.runs import NAMES, rows_of, trained


@pytest.fixture(scope="module")
def folder(shared_run: Callable[..., Path]) -> Path:
    """A run of one epoch."""
    return shared_run(*TINY)


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_refused(run: Callable[..., Path], folder: Path, value: float) -> None:
    best = folder / "checkpoints" / "best.ckpt"
    change(
        best, set_weight(lambda weight: weight.masked_fill(torch.arange(weight.numel()).view_as(weight) == 1, value))
    )
    line = f"^{best}: {FIRST} holds NaN or infinity; "
    for options in (["task=test"], ["task=export", "format=safetensors"]):
        with pytest.raises(UserError, match=line):
            run(f"run={folder}", *options)
    assert not (folder / "export").exists()


def test_image_without_finite_probabilities_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    predictor = predictor_of(trained((3, 12, 10)), 1.0)
    predictor.normalize.register_forward_hook(
        lambda _module, _args, output: output.masked_fill(output > 2.9, torch.nan)
    )
    inputs = np.zeros((3, 3, 12, 10), np.uint8)
    inputs[1] = 255
    files = ["a.png", "b.png", "c.png"]
    with torch.inference_mode():
        assert predict(predictor, [(files, inputs, [])], 3, NAMES, False, tmp_path) == 1
    assert "skipped b.png: the network gives no finite probabilities\n" in capsys.readouterr().err
    assert [row["file"] for row in rows_of(tmp_path)] == ["a.png", "c.png"]
    text = (tmp_path / "predictions.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in text and [json.loads(line)["file"] for line in text.splitlines()] == ["a.png", "c.png"]
