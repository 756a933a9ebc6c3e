"""ProgressBar: shown on terminals only."""

import sys
import time
from typing import Any

from pytorch_lightning import Trainer
from pytorch_lightning.callbacks import TQDMProgressBar


class ProgressBar(TQDMProgressBar):
    """Redraws Lightning's bar by time instead of by step, which would take longer than a small step."""

    SECONDS = 0.1

    def __init__(self) -> None:
        super().__init__(refresh_rate=1 if sys.stderr.isatty() else 0)
        self._drawn = 0.0

    def on_train_epoch_start(self, trainer: Trainer, *arguments: Any) -> None:
        """Counts epochs from 1, like the epoch lines above the bar."""
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description(f"epoch {trainer.current_epoch + 1}")

    def on_train_batch_end(self, *arguments: Any) -> None:
        if self._refresh_rate:
            super().on_train_batch_end(*arguments)

    def _should_update(self, current: int, total: int) -> bool:
        now = time.monotonic()
        due = self.is_enabled and (now - self._drawn > self.SECONDS or current == total)
        if due:
            self._drawn = now
        return due
