"""MidEpochCheckpoint: saves within an epoch, by the clock, by the step, or because the process is told to stop."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class MidEpochCheckpoint(Checkpoint):
    """Writes `last.ckpt` between two optimizer steps. On SIGTERM or SIGINT, whichever rank gets it, all ranks finish
    their step, save, and exit with 143 or 130; a second signal ends the process at once.

    A subclass of Lightning's Checkpoint, for those run after all other callbacks: an average of the weights must
    have taken in the step that is saved. At an epoch's last step nothing is saved, for that epoch's own checkpoint,
    with its scores, is about to be written.

    Args:
        file: the checkpoint.
        every_n_steps: batches between two of them; null: none.
        every_n_minutes: likewise; by the clock of the first rank.
    """

    def __init__(self, file: str, every_n_steps: int | None, every_n_minutes: float | None) -> None:
        self.file = Path(file)
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._signal = 0
        self._saved = time.monotonic()
        self._group: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning puts the handlers back that it found before it set its own.
        for number in SIGNALS:
            signal.signal(number, self._receive)
        self._saved = time.monotonic()
        if trainer.world_size > 1:  # on the CPU, so that a GPU need not be waited for
            self._group = dist.new_group(backend="gloo", timeout=trainer.strategy._timeout)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        stepped = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or not stepped:
            return
        number, due = self._agree(trainer, batch_idx)
        if number or due:
            trainer.save_checkpoint(self.file)
            self._saved = time.monotonic()
        if number:
            self._stop(trainer, number)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A signal that came during validation: the epoch before has been saved since."""
        if trainer.current_epoch > 0 and (number := self._agree(trainer, 0)[0]):
            self._stop(trainer, number)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)

    def _agree(self, trainer: Trainer, batch_idx: int) -> tuple[int, bool]:
        """The signal that any rank got, and whether a checkpoint is due: the same on all ranks."""
        due = bool(self.every_n_steps and (batch_idx + 1) % self.every_n_steps == 0)
        if self.every_n_minutes and time.monotonic() - self._saved > 60 * self.every_n_minutes:
            due |= trainer.is_global_zero
        if self._group is None:
            return self._signal, due
        flags = torch.tensor([self._signal, due])
        dist.all_reduce(flags, dist.ReduceOp.MAX, group=self._group)
        return int(flags[0]), bool(flags[1])

    def _stop(self, trainer: Trainer, number: int) -> None:
        if trainer.is_global_zero:
            name, folder = signal.Signals(number).name, self.file.parent.parent
            print(
                f"stopped by {name} at step {trainer.global_step}; go on with: python train.py run={folder}", flush=True
            )
            raise SystemExit(128 + number)
        # All ranks stop here. Lightning kills the first one if another ends with an error before it.
        raise SystemExit(0)
