"""PlotBudget: limits the time spent on drawing plots."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning import Trainer


class PlotBudget:
    """Selects every n-th epoch and the last, and skips epochs that would exceed the time limit.

    Args:
        every_n_epochs: minimum number of epochs between plots.
        max_overhead: fraction of the training time so far that plots may take; never skips the last epoch. null: no
            limit.
    """

    def __init__(self, every_n_epochs: int, max_overhead: float | None) -> None:
        self.every_n_epochs = every_n_epochs
        self.max_overhead = max_overhead
        self.spent = 0.0
        self._cost = 1.0  # seconds per drawn epoch; an estimate until the first one
        self._before: float | None = None  # `spent` at the start of the latest drawn epoch
        self._began = time.perf_counter()

    def start(self) -> None:
        """Restarts the clock; to be called when training starts."""
        self.spent = 0.0
        self._began = time.perf_counter()

    def due(self, trainer: Trainer) -> bool:
        """Whether to draw in this epoch. Collective: all ranks must call it, and get the same result."""
        epoch = trainer.current_epoch + 1
        if epoch == trainer.max_epochs:
            return True
        if epoch % self.every_n_epochs:
            return False
        if self.max_overhead is None:
            return True
        if self._before is not None:
            self._cost = self.spent - self._before
            self._before = None
        within_budget = self.spent + self._cost <= self.max_overhead * (time.perf_counter() - self._began)
        due = trainer.strategy.reduce_boolean_decision(within_budget and trainer.is_global_zero, all=False)
        if due:
            self._before = self.spent
        return due

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Context manager that adds the time of its block to `spent`."""
        began = time.perf_counter()
        yield
        self.spent += time.perf_counter() - began
