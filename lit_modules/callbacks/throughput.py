"""Throughput: images per second and the fraction of time spent waiting for data."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_modules.classifier import LitClassifier


class Throughput(Callback):
    """Adds `images_per_second` over all ranks and `data_wait` to the metrics of each epoch.

    Validation is excluded. Times are measured on the host without synchronizing the device, so `data_wait` is the
    fraction of the training time in which the host waited for the next batch.
    """

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._latest = time.perf_counter()
        self._waited = 0.0
        self._samples = 0

    on_train_start = on_train_epoch_start  # a run resumed within an epoch does not start it again

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waited += time.perf_counter() - self._latest
        self._samples += batch.size

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        self._latest = time.perf_counter()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        seconds = self._latest - self._began
        if seconds:  # zero if the epoch was resumed after its last batch
            pl_module.epoch_row |= {"images_per_second": self._samples / seconds, "data_wait": self._waited / seconds}
