"""Normalize: the first layer of a classifier."""

import torch
from torch import Tensor, nn


class Normalize(nn.Module):
    """(x - mean) / std for each channel; constant channels are only centered.

    Args:
        mean, std: of each channel.
        dimensions: number of spatial dimensions.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: list[float], std: list[float], dimensions: int) -> None:
        super().__init__()
        shape = (-1, *[1] * dimensions)
        self.register_buffer("mean", torch.tensor(mean).view(shape))
        self.register_buffer("std", torch.tensor([value or 1.0 for value in std]).view(shape))

    def forward(self, inputs: Tensor) -> Tensor:
        return (inputs - self.mean).div_(self.std)
