"""The progress bar is drawn by the clock, and on a terminal alone."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from pytorch_lightning import Trainer
from pytorch_lightning.callbacks.progress import tqdm_progress

from lit_modules.callbacks import progress_bar
from lit_modules.callbacks.progress_bar import ProgressBar
from tests.conftest import TINY


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """`clock.now` is the time that a progress bar on a terminal sees."""
    clock = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress_bar, "time", SimpleNamespace(monotonic=lambda: clock.now))
    monkeypatch.setattr(progress_bar, "sys", SimpleNamespace(stderr=SimpleNamespace(isatty=lambda: True)))
    return clock


def test_bar_is_drawn_ten_times_a_second(clock: SimpleNamespace) -> None:
    bar = ProgressBar()
    drawn = []
    for step in range(1, 1000):  # a step takes a millisecond
        if bar._should_update(step, 10_000):
            drawn.append(step)
        clock.now += 0.001
    assert len(drawn) == 10
    assert drawn[0] == 1


def test_every_slow_step_is_drawn(clock: SimpleNamespace) -> None:
    bar = ProgressBar()
    for step in range(1, 6):
        assert bar._should_update(step, 10)
        clock.now += 1


def test_last_step_is_always_drawn(clock: SimpleNamespace) -> None:
    bar = ProgressBar()
    assert [bar._should_update(step, 3) for step in (1, 2, 3)] == [True, False, True]


def test_fit_draws_the_bar_rarely(
    clock: SimpleNamespace, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    monkeypatch.setattr(tqdm_progress, "_update_n", lambda bar, value: drawn.append(value))
    run(*TINY, "trainer.limit_train_batches=9", "trainer.limit_val_batches=4", "trainer.limit_test_batches=3")
    assert [value for value in drawn if value] == [1, 9, 4, 3]  # the clock stands still: the first and the last steps


def test_nothing_is_drawn_without_a_terminal(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    bar = ProgressBar()
    Trainer(callbacks=[bar], logger=False, enable_checkpointing=False, enable_model_summary=False, accelerator="cpu")
    assert bar.is_disabled and not bar._should_update(1, 1)
    run(*TINY, "trainer.limit_train_batches=2")
    out, err = capsys.readouterr()
    assert "it/s" not in out + err and "\r" not in out + err
