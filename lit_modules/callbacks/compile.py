"""Compile: compiles the network with torch.compile."""

from typing import Literal

from pytorch_lightning import Callback, LightningModule, Trainer

from lit_modules.classifier import LitClassifier


class Compile(Callback):
    """Compiles the network in place, so that checkpoint keys do not change.

    Useful for long runs on a GPU: compilation needs a C++ compiler and up to a minute. On a CPU, small convolutional
    networks become slower.

    Args:
        mode: of torch.compile; modes with CUDA graphs are excluded, because each step overwrites the previous logits.
    """

    def __init__(self, mode: Literal["default", "max-autotune-no-cudagraphs"]) -> None:
        self.mode = mode

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        pl_module.net.compile(mode=self.mode)
