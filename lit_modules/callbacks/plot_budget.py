"""PlotBudget: how often something is drawn, so that looking at a run does not slow it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from pytorch_lightning import Trainer

from conf.errors import UserError


class PlotBudget:
    """Every n-th epoch and the last, without the epochs for which the share of the time spent would grow too large.

    Args:
        every_n_epochs: epochs between two drawings, at least.
        max_overhead: of the time since training started; an epoch that would exceed it is left out, but for the
            last. null: none is.
    """

    def __init__(self, every_n_epochs: int, max_overhead: float | None) -> None:
        if every_n_epochs < 1:
            raise UserError(f"every_n_epochs: must be 1 or more, not {every_n_epochs}; leave the callback out instead")
        if max_overhead is not None and not 0 < max_overhead <= 1:
            raise UserError(f"max_overhead: must be above 0 and at most 1, not {max_overhead}; try 0.01")
        self.every_n_epochs = every_n_epochs
        self.max_overhead = max_overhead
        self.spent = 0.0
        self._cost = 1.0  # seconds that one epoch's drawing takes; a guess before the first
        self._before: float | None = None  # what was spent when the latest one began
        self._began = time.perf_counter()

    def start(self) -> None:
        """Training starts."""
        self.spent, self._began = 0.0, time.perf_counter()

    def due(self, trainer: Trainer) -> bool:
        """Whether to draw in this epoch: the same on all ranks, each of which must ask."""
        epoch = trainer.current_epoch + 1
        if epoch == trainer.max_epochs:
            return True
        if epoch % self.every_n_epochs:
            return False
        if self.max_overhead is None:
            return True
        if self._before is not None:
            self._cost, self._before = self.spent - self._before, None
        affordable = self.spent + self._cost <= self.max_overhead * (time.perf_counter() - self._began)
        due = trainer.strategy.reduce_boolean_decision(affordable and trainer.is_global_zero, all=False)
        if due:
            self._before = self.spent
        return due

    @contextmanager
    def spending(self) -> Iterator[None]:
        """Counts the time of the block."""
        began = time.perf_counter()
        yield
        self.spent += time.perf_counter() - began
