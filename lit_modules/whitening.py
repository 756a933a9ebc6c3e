"""Whitening: a first convolution that makes the patches of pictures uncorrelated, each direction of equal variance."""

import torch
from torch import Tensor, nn


@torch.no_grad()
def second_moments(inputs: Tensor, kernel_size: tuple[int, ...]) -> Tensor:
    """The mean of p·pᵀ over all patches p of pictures `[N, C, H, W]`: float32 `[D, D]`, D = C · kernel's pixels."""
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
