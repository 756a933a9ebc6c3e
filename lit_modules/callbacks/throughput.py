"""Throughput: images per second, the fraction of time spent waiting for data, and how long the training will take."""

import math
import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from tqdm import tqdm

from lit_modules.classifier import LitClassifier

MEASURED_SECONDS = 3.0  # of the first epoch, after which the rest is estimated
MIN_ANNOUNCED_SECONDS = 30.0
TRAINING = 0.9  # of the time; the rest is for validation and plots


class Throughput(Callback):
    """Adds `images_per_second` over all ranks and `data_wait` to the metrics of each epoch.

    Validation is excluded. Times are measured on the host without synchronizing the device, so `data_wait` is the
    fraction of the training time in which the host waited for the next batch. A training of half a minute or more is
    announced by an estimate after some seconds.

    If `trainer.max_time` is less, it says how many epochs fit. The schedule does not follow the clock: the learning
    rates, and so the weights, would differ in every run and after every resume.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._latest = time.perf_counter()
        self._waited = 0.0
        self._samples = self._steps = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._announced = not trainer.is_global_zero
        self.on_train_epoch_start(trainer, pl_module)  # a run resumed within an epoch does not start it again

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._latest
        self._samples += batch.size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._latest = time.perf_counter()
        self._steps += 1
        if not self._announced and self._latest - self._began > MEASURED_SECONDS:
            self._announced = True
            self._announce(trainer)

    def _announce(self, trainer: Trainer) -> None:
        epoch = (self._latest - self._began) / self._steps * float(trainer.num_training_batches)
        rest = epoch * ((trainer.max_epochs or 1) - trainer.current_epoch)
        if MIN_ANNOUNCED_SECONDS < rest < math.inf:
            tqdm.write(f"about {duration(epoch)} an epoch, {duration(rest)} in all")
        remaining = _seconds_left(trainer)
        if trainer.lr_scheduler_configs and remaining < rest < math.inf:
            fitting = trainer.current_epoch + int(TRAINING * remaining / epoch)
            stop = f"trainer.max_time stops after about {fitting} of {trainer.max_epochs} epochs, amid the schedule"
            tqdm.write(f"{stop}; epochs={fitting} would end it in time" if fitting else stop)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        seconds = self._latest - self._began
        if seconds:  # zero if the epoch was resumed after its last batch
            pl_module.epoch_row |= {"images_per_second": self._samples / seconds, "data_wait": self._waited / seconds}


def _seconds_left(trainer: Trainer) -> float:
    """Of `trainer.max_time`; infinite without one."""
    timers = [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # type: ignore[attr-defined]
    return min((timer.time_remaining() or 0.0 for timer in timers), default=math.inf)


def duration(seconds: float) -> str:
    """Such as 40 s, 5 min or 3.0 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
