"""Compile: has torch.compile make one program of the network's many small operations."""

from typing import Literal

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_modules.classifier import LitClassifier


class Compile(Callback):
    """In place, so that checkpoints are those of a network that is not compiled. Worth its while on a GPU and in long
    runs: it takes a C++ compiler and up to a minute, and on a CPU a small convolutional network gets slower by it.

    Args:
        mode: of torch.compile. Not those with CUDA graphs, whose logits are overwritten by those of the next step.
    """

    def __init__(self, mode: Literal["default", "max-autotune-no-cudagraphs"]) -> None:
        self.mode = mode

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        pl_module.net.compile(mode=self.mode)
