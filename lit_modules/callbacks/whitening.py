"""Whitening: sets a network's first convolution from the first batch of training pictures, before the first step."""

from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import nn

from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.whitening import second_moments, whiten_


class Whitening(Callback):
    """All ranks see the moments of the whole batch. A run that is resumed has its weights already.

    Args:
        layer: the name of the convolution in the network; freeze its weight to keep it.
        eps: see `whiten_`.
    """

    def __init__(self, layer: str, eps: float) -> None:
        self.layer = layer
        self.eps = eps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        conv = dict(self._net(pl_module).named_modules()).get(self.layer)
        wanted = 2 * conv.weight[0].numel() if isinstance(conv, nn.Conv2d) else 0
        if not isinstance(conv, nn.Conv2d) or conv.out_channels != wanted:
            raise UserError(
                f"callbacks.whitening.layer: {self.layer} is no first convolution with two channels for each number of "
                "a patch; choose lit_module/net=speedrun"
            )
        self._conv = conv

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch == 0 and batch_idx == 0:
            assert isinstance(pl_module, LitClassifier)
            moments = second_moments(pl_module.normalize(batch.inputs), self._conv.kernel_size)
            whiten_(self._conv, trainer.strategy.reduce(moments, reduce_op="mean"), self.eps)

    @staticmethod
    def _net(pl_module: LightningModule) -> nn.Module:
        assert isinstance(pl_module, LitClassifier)
        return pl_module.net
