"""Plots stay within their time budget, and the last epoch is always drawn."""

import time
from types import SimpleNamespace
from typing import Any

import pytest

from lit_modules.callbacks.plot_budget import PlotBudget


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "perf_counter", clock)
    return clock


def trainer_at(epoch: int, max_epochs: int | None) -> Any:
    strategy = SimpleNamespace(reduce_boolean_decision=lambda decision, **_: decision)
    return SimpleNamespace(current_epoch=epoch, max_epochs=max_epochs, is_global_zero=True, strategy=strategy)


def drawn(budget: PlotBudget, clock: Clock, epochs: int, epoch_seconds: float, seconds: float) -> list[int]:
    """The 0-based epochs that are drawn, if one drawing takes so many seconds."""
    budget.start()
    epochs_drawn = []
    for epoch in range(epochs):
        clock.now += epoch_seconds
        if budget.due(trainer_at(epoch, epochs)):
            epochs_drawn.append(epoch)
            for _ in range(2):
                with budget.spending():
                    clock.now += seconds / 2
        with budget.spending():  # a little in each epoch
            clock.now += 1e-4
    return epochs_drawn


@pytest.mark.parametrize("epoch_seconds", [0.2, 5.0, 45.0, 600.0])
@pytest.mark.parametrize("seconds", [0.1, 0.6, 3.0])
def test_budget_is_exceeded_by_the_last_epoch_only(clock: Clock, epoch_seconds: float, seconds: float) -> None:
    budget = PlotBudget(1, 0.01)
    epochs = drawn(budget, clock, 50, epoch_seconds, seconds)
    assert epochs[-1] == 49
    slack = seconds if len(epochs) > 1 and seconds > 1 else 0  # the first estimate is one second
    assert budget.spent - seconds <= 0.01 * clock.now + slack


def test_long_epochs_are_all_drawn(clock: Clock) -> None:
    assert drawn(PlotBudget(1, 0.01), clock, 6, 300, 0.6) == [0, 1, 2, 3, 4, 5]


def test_only_every_nth_epoch_and_the_last_is_drawn(clock: Clock) -> None:
    assert drawn(PlotBudget(4, None), clock, 10, 1, 100) == [3, 7, 9]


def test_run_without_an_end_draws_too(clock: Clock) -> None:
    assert [epoch for epoch in range(4) if PlotBudget(2, None).due(trainer_at(epoch, -1))] == [1, 3]
