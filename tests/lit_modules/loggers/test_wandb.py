"""A run of Weights & Biases has the name and the id of the run's folder, and stays on the disk."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import TINY

wandb = pytest.importorskip("wandb")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its own


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """The runs that wandb starts."""
    runs: list[Any] = []
    init = wandb.init

    def spy(**settings: Any) -> Any:
        runs.append(init(**settings))
        return runs[-1]

    monkeypatch.setattr(wandb, "init", spy)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    yield runs
    wandb.finish()


def test_resumed_run_has_the_same_id(run: Callable[..., Path], tmp_path: Path, started: list[Any]) -> None:
    tracker = ("logger=[default,wandb]", f"logs_dir={tmp_path}")
    folder = run(*TINY, *tracker, f"run_dir={tmp_path / 'digits' / 'now'}")
    first = dict(started[0].summary)
    run(f"run={folder}", *tracker, "trainer.max_epochs=2", "logger.wandb.artifacts=true")
    for tracked in started:
        assert (tracked.name, tracked.id, tracked.offline) == ("digits/now", "digits-now", True)
        assert tracked.config["lit_module.net"] == "CNN"
    assert len(started) == 2 and len(list((tmp_path / "wandb").glob("offline-run-*-digits-now"))) == 2
    assert {"train/loss", "val/f1", "lr", "val_best/f1", "test/acc"} < first.keys()
    assert not [score for score in first if "_likelihood/" in score]
    assert [*(tmp_path / "wandb").glob("offline-run-*/files/model.pt")]


def test_each_run_of_a_multirun_is_one_of_its_own(run: Callable[..., Path], tmp_path: Path, started: list[Any]) -> None:
    for number in range(2):
        run(*TINY, "logger=[default,wandb]", "test=false", f"logs_dir={tmp_path}", f"run_dir={tmp_path / str(number)}")
    assert [tracked.id for tracked in started] == ["0", "1"]


def test_lost_process_of_wandb_ends_no_training(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise ConnectionResetError("Connection lost")

    monkeypatch.setenv("WANDB_MODE", "disabled")
    monkeypatch.setattr("pytorch_lightning.loggers.WandbLogger.log_metrics", fail)
    folder = run(*TINY, "logger=[default,wandb]", f"logs_dir={tmp_path}", f"run_dir={tmp_path / 'x'}", "test=false")
    assert capfd.readouterr().err.count("wandb: Connection lost; training continues without it") == 1
    assert (folder / "model.pt").exists()
