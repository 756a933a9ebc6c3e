"""Whitening: a first convolution that makes the patches of images uncorrelated, each direction of equal variance."""

from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.classifier import LitClassifier


@torch.no_grad()
def second_moments(inputs: Tensor, kernel_size: tuple[int, ...]) -> Tensor:
    """The mean of p·pᵀ over all patches p of images `[N, C, H, W]`: float32 `[D, D]`, D = C · kernel's pixels."""
    height, width = kernel_size
    patches = inputs.float().unfold(2, height, 1).unfold(3, width, 1)  # [N, C, H', W', height, width]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # [N · H' · W', D]
    return patches.T @ patches / len(patches)


@torch.no_grad()
def whiten_(conv: nn.Conv2d, moments: Tensor, eps: float) -> None:
    """Sets the weights, in place, to the eigenvectors of the patches' second moments, each divided by
    √(eigenvalue + eps), and to their opposites. Jordan, arXiv:2404.00498, section 3.2.

    Args:
        conv: with 2·D output channels.
        moments: see `second_moments`.
        eps: keeps directions in which patches hardly vary from being blown up.
    """
    values, vectors = torch.linalg.eigh(moments)  # vectors in columns
    directions = (vectors / (values + eps).sqrt()).T.unflatten(1, conv.weight.shape[1:])  # [D, C, height, width]
    conv.weight.copy_(torch.cat([directions, -directions]))


class Whitening(Callback):
    """All ranks see the moments of the whole batch. A run that is resumed has its weights already.

    Args:
        layer: the name of the convolution in the network; freeze its weight to keep it.
        eps: see `whiten_`.
    """

    needs_whole_network = True

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
