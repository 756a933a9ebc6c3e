"""Whitening: initializes the first convolution to whiten image patches."""

from typing import Annotated, Any

import torch
from annotated_types import Gt
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.classifier import LitClassifier


@torch.no_grad()
def second_moments(inputs: Tensor, kernel_size: tuple[int, ...]) -> Tensor:
    """The mean of p·pᵀ over all patches p of images `[N, C, H, W]`: float32 `[D, D]`, D = C · kernel height · width."""
    height, width = kernel_size
    patches = inputs.float().unfold(2, height, 1).unfold(3, width, 1)  # [N, C, H', W', height, width]
    patches = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2)  # [N · H' · W', D]
    return patches.T @ patches / len(patches)


@torch.no_grad()
def whiten_(conv: nn.Conv2d, moments: Tensor, eps: float) -> None:
    """Sets the weights to the scaled eigenvectors of the second moments and their negatives, in place.

    Each eigenvector is divided by √(eigenvalue + eps). Jordan, arXiv:2404.00498, section 3.2.

    Args:
        conv: convolution with 2·D output channels.
        moments: see `second_moments`.
        eps: limits the scale of directions with little variance.
    """
    values, vectors = torch.linalg.eigh(moments)  # vectors in columns
    directions = (vectors / (values + eps).sqrt()).T.unflatten(1, conv.weight.shape[1:])  # [D, C, height, width]
    conv.weight.copy_(torch.cat([directions, -directions]))


class Whitening(Callback):
    """Whitens with the first batch of training, over all ranks; a resumed run loads its weights.

    Args:
        layer: name of the convolution in the network; freeze its weight to keep it whitened.
        eps: see `whiten_`.
    """

    needs_whole_network = True

    def __init__(self, layer: str, eps: Annotated[float, Gt(0)]) -> None:
        self.layer = layer
        self.eps = eps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        conv = dict(self._net(pl_module).named_modules()).get(self.layer)
        if not isinstance(conv, nn.Conv2d) or conv.out_channels != 2 * conv.weight[0].numel():
            problem = f"{self.layer} is not a 2-D convolution with 2 · (values per patch) output channels"
            raise UserError(f"callbacks.whitening.layer: {problem}; choose lit_module/net=speedrun")
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
