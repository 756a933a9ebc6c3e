"""Images a second and the wait for data are those of a clock that is known."""

import time
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
from pytorch_lightning.callbacks import Timer

from lit_modules.callbacks.throughput import Throughput
from lit_modules.classifier import LitClassifier


def trainer_of(epochs: int) -> Any:
    return SimpleNamespace(
        is_global_zero=True, num_training_batches=100, max_epochs=epochs, current_epoch=0, callbacks=[],
        lr_scheduler_configs=["a schedule"],
    )  # fmt: skip


def steps(monkeypatch: pytest.MonkeyPatch, trainer: Any) -> Any:
    """The module after an epoch whose two steps take from 1 to 3 s and from 3.5 to 4 s."""
    times = iter([0.0, 1.0, 3.0, 3.5, 4.0])
    monkeypatch.setattr(time, "perf_counter", lambda: next(times))
    module: Any = Mock(spec=LitClassifier, epoch_row={})
    throughput, batch = Throughput(), SimpleNamespace(size=8)
    throughput.on_train_start(trainer, module)
    for i in range(2):
        throughput.on_train_batch_start(trainer, module, batch, i)
        throughput.on_train_batch_end(trainer, module, None, batch, i)
    throughput.on_train_epoch_end(trainer, module)
    return module


def test_throughput_excludes_validation(monkeypatch: pytest.MonkeyPatch) -> None:
    assert steps(monkeypatch, trainer_of(1)).epoch_row == {"images_per_second": 4.0, "data_wait": 1.5 / 4}


def test_long_training_is_announced_once(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    steps(monkeypatch, trainer_of(30))  # 100 batches of 2 s
    assert capsys.readouterr().out == "about 3 min an epoch, 1.7 h in all\n"


def test_short_training_is_not_announced(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = trainer_of(1)
    trainer.num_training_batches = 10
    steps(monkeypatch, trainer)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(("done", "minutes", "fitting"), [(0, 40, 10), (6, 40, 16)])
def test_time_budget_is_told_in_epochs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], done: int, minutes: int, fitting: int
) -> None:
    trainer = trainer_of(30)  # 100 batches of 2 s: 3 min 20 s an epoch without validation
    trainer.current_epoch, trainer.callbacks = done, [Timer({"minutes": minutes})]
    steps(monkeypatch, trainer)
    stop = f"trainer.max_time stops after about {fitting} of 30 epochs, amid the schedule"
    assert capsys.readouterr().out.splitlines()[1] == f"{stop}; epochs={fitting} would end it in time"


def test_time_budget_that_is_enough_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(30)
    trainer.callbacks = [Timer({"minutes": 200})]
    steps(monkeypatch, trainer)
    assert "max_time" not in capsys.readouterr().out


def test_time_budget_without_a_schedule_is_not_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = trainer_of(30)
    trainer.callbacks, trainer.lr_scheduler_configs = [Timer({"minutes": 3})], []
    steps(monkeypatch, trainer)
    assert "max_time" not in capsys.readouterr().out
