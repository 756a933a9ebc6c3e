"""Short fits on digits in this process, and what tests compare of them."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

import train
from conf import validation
from datamodules.image_datamodule import ImageDataModule
from lit_modules.classifier import LitClassifier
from lit_modules.inference.predictor import Predictor
from lit_modules.networks.cnn import CNN
from tests.conftest import TINY, configure

STEPS = 5


SHORT = (*TINY, f"trainer.limit_train_batches={STEPS}", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2")


BARE = (
    *SHORT,
    "callbacks=[]",
    "logger=[]",
    "+trainer.enable_checkpointing=false",
    "+trainer.enable_progress_bar=false",
)


Fit = tuple[ImageDataModule, LitClassifier, Trainer]


def build(*overrides: str, spies: tuple[Callback, ...] = ()) -> Fit:
    cfg = configure(*BARE, "run_dir=nowhere", *overrides)
    validation.check(cfg)
    datamodule, module, trainer = train.build(cfg)
    trainer.callbacks[:0] = spies
    return datamodule, module, trainer


def fit(*overrides: str, spies: tuple[Callback, ...] = ()) -> Fit:
    datamodule, module, trainer = build(*overrides, spies=spies)
    trainer.fit(module, datamodule)
    return datamodule, module, trainer


def classifier(**choices: Any) -> LitClassifier:
    """A classifier of 2×8×8 images into 3 classes, without a Trainer."""
    defaults: dict[str, Any] = {
        "input_shape": (2, 8, 8),
        "class_names": ["ant", "bee", "cat"],
        "class_counts": [10, 20, 30],
        "mean": [0.5, 0.25],
        "std": [0.25, 0.5],
        "net": lambda **shape: CNN(
            **shape, channels=[4], kernel_size=3, pool=2, pool_type="max", norm="batch", activation="ReLU", dropout=0.0,
            head_dropout=0.0,
            global_pool="none", hidden=[],
        ),
        "init": None,
        "loss": nn.CrossEntropyLoss,
        "class_weights": None,
        "optimizer": torch.optim.AdamW,
        "param_groups": {},
        "layer_decay": 1.0,
        "freeze": [],
        "unfreeze_epoch": None,
        "gradient_checkpointing": False,
        "scheduler": None,
        "interval": "epoch",
        "monitor": "val/f1",
        "metrics": {},
        "seed": 0,
    }  # fmt: skip
    return LitClassifier(**(defaults | choices))


def predictor_of(module: LitClassifier, temperature: float) -> Predictor:
    return Predictor(module.normalize, module.net, temperature)


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


class Steps(Callback):
    """Records the training loss of each batch and of each epoch, and the learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.epoch_losses: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def record(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if module.training:
                self.losses.append(output.item())

        pl_module.loss.register_forward_hook(record)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > 0:
            self.epoch_losses.append(trainer.callback_metrics["train/loss"].item())
