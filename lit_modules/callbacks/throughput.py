"""Throughput: images a second, and how much of the time training waits for data."""

import time
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_modules.classifier import LitClassifier


class Throughput(Callback):
    """Adds `images_per_second`, over all ranks, and `data_wait`, a share of the time, to each epoch's row. Validation
    is not in it. By the host's clock, which waits for no device: on a GPU, waiting is the time in which the host had no
    batch to hand over."""

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = self._latest = time.perf_counter()
        self._waited = 0.0
        self._samples = 0

    on_train_start = on_train_epoch_start  # for a run resumed within an epoch, whose start is not called again

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
        if seconds:  # an epoch resumed after its last batch has none
            pl_module.speed = {"images_per_second": self._samples / seconds, "data_wait": self._waited / seconds}
