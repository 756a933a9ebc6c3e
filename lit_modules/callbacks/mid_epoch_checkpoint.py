"""MidEpochCheckpoint: saves within an epoch by time, by step, or on a signal."""

import signal
import time
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import torch
import torch.distributed as dist
from annotated_types import Ge, Gt
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Checkpoint

from conf.command_line import PROGRAM
from conf.error_messages import STDERR, STDOUT, discard_if_closed
from lit_modules.trainer.process import STOP_SIGNALS


class MidEpochCheckpoint(Checkpoint):
    """Writes `last.ckpt` after an optimizer step.

    On SIGTERM, SIGINT or SIGHUP to any rank, all ranks finish their step and save; rank 0 exits with 143, 130 or 129,
    the others with 0. A second signal terminates the process immediately.

    Lightning calls subclasses of Checkpoint after all other callbacks, so averaged weights include the saved step. At
    the last step of an epoch nothing is saved, because the checkpoint of the epoch follows.

    Args:
        file: the checkpoint.
        every_n_steps: batches between checkpoints; null: never.
        every_n_minutes: minutes between checkpoints, by the clock of rank 0; null: never.
    """

    def __init__(
        self,
        file: str,
        every_n_steps: Annotated[int, Ge(1)] | None,
        every_n_minutes: Annotated[float, Gt(0)] | None,
    ) -> None:
        self.file = Path(file)
        self.every_n_steps = every_n_steps
        self.every_n_minutes = every_n_minutes
        self._signal = 0
        self._saved = time.monotonic()
        self._group: Any = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning restores the previous handlers at the end of fit.
        for number in STOP_SIGNALS:
            signal.signal(number, self._receive)
        self._saved = time.monotonic()
        if trainer.world_size > 1:  # on the CPU, to avoid synchronizing with the GPU
            self._group = dist.new_group(backend="gloo", timeout=trainer.strategy._timeout)  # type: ignore[attr-defined]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        is_optimizer_step = (batch_idx + 1) % trainer.accumulate_grad_batches == 0
        if trainer.fit_loop.epoch_loop.batch_progress.is_last_batch or not is_optimizer_step:
            return
        number, due = self._reduce_over_ranks(trainer, batch_idx)
        if number or due:
            trainer.save_checkpoint(self.file)
            self._saved = time.monotonic()
        if number:
            self._stop(trainer, number)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stops after a signal during validation; the checkpoint of that epoch has been saved."""
        if trainer.current_epoch == 0:
            return
        number, _ = self._reduce_over_ranks(trainer, 0)
        if number:
            self._stop(trainer, number)

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)
        for output in (STDOUT, STDERR):  # a closed terminal sends SIGHUP, and then refuses every line
            discard_if_closed(output)

    def _reduce_over_ranks(self, trainer: Trainer, batch_idx: int) -> tuple[int, bool]:
        """The signal received by any rank, or 0, and whether a checkpoint is due; equal on all ranks."""
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
            name = signal.Signals(number).name
            command = f"{PROGRAM} run={self.file.parent.parent}"
            print(f"stopped by {name} at step {trainer.global_step}; resume with: {command}", flush=True)
            raise SystemExit(128 + number)
        # Not an error code, because Lightning kills rank 0 if another rank fails before it exits.
        raise SystemExit(0)
