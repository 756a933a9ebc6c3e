"""A textbook LightningModule with the notes' network; `plain_lightning` runs it.

python -m tests.benchmarks.plain_script ROOT EPOCHS WORKERS SEED

It logs its loss each step, calls torchmetrics' forward, and loads by DataLoaders over ImageFolders.
"""

import sys
import tempfile
import warnings
from typing import Any

import torch
from pytorch_lightning import LightningModule, Trainer, seed_everything
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassF1Score
from torchvision.datasets import ImageFolder
from torchvision.transforms import Compose, Normalize, ToTensor

from tests.benchmarks.notes_script import MEAN, STD, network


class Textbook(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.model = network()
        self.criterion = nn.CrossEntropyLoss()
        scores = MetricCollection([MulticlassAccuracy(2, average="micro"), MulticlassF1Score(2)])
        self.train_scores, self.val_scores = scores.clone(prefix="train/"), scores.clone(prefix="val/")

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x, y = batch
        logits = self.model(x)
        loss = self.criterion(logits, y)
        self.log("train/loss", loss, prog_bar=True)
        self.train_scores(logits, y)
        self.log_dict(self.train_scores, on_step=False, on_epoch=True)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        x, y = batch
        logits = self.model(x)
        self.val_scores(logits, y)
        self.log("val/loss", self.criterion(logits, y), prog_bar=True)
        self.log_dict(self.val_scores, on_step=False, on_epoch=True)

    def on_train_epoch_end(self) -> None:
        accuracy = float(self.trainer.callback_metrics["val/MulticlassAccuracy"])
        print("epoch", self.current_epoch + 1, accuracy, flush=True)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def train(root: str, epochs: int, workers: int, seed: int) -> None:
    seed_everything(seed, verbose=False)
    prepare = Compose([ToTensor(), Normalize(MEAN.flatten().tolist(), STD.flatten().tolist())])
    training = DataLoader(ImageFolder(f"{root}/train", prepare), 64, shuffle=True, num_workers=workers)
    validation = DataLoader(ImageFolder(f"{root}/val", prepare), 64, num_workers=workers)
    with tempfile.TemporaryDirectory() as logs, warnings.catch_warnings(action="ignore"):
        logger = TensorBoardLogger(logs)
        trainer = Trainer(max_epochs=epochs, logger=logger, default_root_dir=logs, enable_progress_bar=False)
        trainer.fit(Textbook(), training, validation)


if __name__ == "__main__":
    train(sys.argv[1], *map(int, sys.argv[2:]))
