"""Averaged weights in checkpoints, validation and test."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn import functional as F

import train
from tests.conftest import configure, inputs_of
from tests.fits import SHORT, STEPS, build, copy_of


class Weights(Callback):
    """Records the weights after every optimizer step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(copy_of(pl_module.net))


EMA = (*SHORT, "callbacks=[default,ema]", "callbacks.ema.decay=0.8")


def test_checkpoints_contain_averaged_weights(tmp_path: Path) -> None:
    spy = Weights()
    datamodule, module, trainer = train.build(configure(*EMA, f"run_dir={tmp_path}"))
    trainer.callbacks.insert(0, spy)
    trainer.fit(module, datamodule)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert len(spy.seen) == STEPS
    for name in (name for name, value in spy.seen[0].items() if value.is_floating_point()):
        average = spy.seen[0][name]
        for step in spy.seen[1:]:
            average = 0.8 * average + 0.2 * step[name]
        assert torch.allclose(best[f"net.{name}"], average, rtol=1e-4, atol=1e-6), name
        assert torch.equal(model[f"net.{name}"], best[f"net.{name}"]), name
        assert not torch.equal(model[f"net.{name}"], spy.seen[-1][name]), name


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run with a moving average of the weights, and the test loss of its model.pt."""
    folder = tmp_path_factory.mktemp("averaged") / "run"
    train.fit(configure(*EMA, f"run_dir={folder}"))
    datamodule, module, _ = build()
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=False)
    inputs, labels = inputs_of(datamodule, "test")[: 2 * 64], datamodule.split("test").labels[: 2 * 64]
    with torch.no_grad():
        return folder, F.cross_entropy(module.eval()(inputs / 255), labels).item()


def test_test_metrics_are_those_of_averaged_weights(averaged: tuple[Path, float]) -> None:
    folder, expected = averaged
    assert json.loads((folder / "summary.json").read_text())["test/loss"] == pytest.approx(expected, rel=1e-5)


def test_averaged_run_can_be_tested_later(
    averaged: tuple[Path, float], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, expected = averaged
    run(f"run={folder}", "task=test")
    assert re.search(rf"^test +{expected:.4f} ", capsys.readouterr().out, re.M)
