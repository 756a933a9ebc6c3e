"""Mixtures of two images, in parts or in boxes, and of their classes.

A mixing, like an augmentation, is a pure function of images and uniform numbers (`draws` an image), on any device.
"""

import math
from typing import Protocol

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from conf.errors import UserError
from datamodules.augment.transforms import box

# An interpolated distribution function is off by at most one part in so many.
CELLS = 2**14


class Mixing(Protocol):
    """Float images and their partners `[N, C, *spatial]`, and uniform numbers `[N, draws]` in [0, 1) → mixtures
    `[N, C, *spatial]`, and the share `[N]` in [0, 1] that the first image has in each."""

    draws: int

    def __call__(self, images: Tensor, partners: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]: ...


class Mixup:
    """The weighted mean of two images; weights from Beta(alpha, alpha). Zhang et al., arXiv:1710.09412."""

    draws = 1

    def __init__(self, alpha: float) -> None:
        self.beta = Beta(alpha)

    def __call__(self, images: Tensor, partners: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        share = self.beta(uniform[:, 0])
        return torch.lerp(partners, images, share.view(-1, *[1] * (images.ndim - 1))), share


class CutMix:
    """A box of the partner pasted over an image of one to three axes. Yun et al., arXiv:1905.04899.

    Before it is clipped at the border, the box has a part of the image from Beta(alpha, alpha) and its proportions.
    The share is what the image keeps, to the pixel.
    """

    draws = 4  # the part, and a centre on each of at most three axes

    def __init__(self, alpha: float) -> None:
        self.beta = Beta(alpha)

    def __call__(self, images: Tensor, partners: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        shape = images.shape[2:]
        part = self.beta(uniform[:, 0]) ** (1 / len(shape))  # of each axis
        inside = box(uniform[:, 1:], shape, [(part * length).long() for length in shape])  # [N, 1, *spatial]
        return torch.where(inside, partners, images), 1 - inside.flatten(1).sum(1) / math.prod(shape)


class Beta:
    """Beta(alpha, alpha) from a uniform number, by a table of the inverse of its distribution function."""

    def __init__(self, alpha: float) -> None:
        if not 0 < alpha < math.inf:
            raise UserError(f"alpha: must be a number above 0, not {alpha}; leave the mixing out instead")
        quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, CELLS + 1))
        self.table = torch.from_numpy(quantiles.astype(np.float32))

    def __call__(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1), of any shape → numbers in [0, 1] of that shape."""
        self.table = self.table.to(uniform.device, non_blocking=True)
        position = uniform * CELLS
        cell = position.long()
        return torch.lerp(self.table[cell], self.table[cell + 1], position - cell)


def soft_targets(labels: Tensor, partner_labels: Tensor, share: Tensor, num_classes: int) -> Tensor:
    """The classes of mixtures: float32 `[N, num_classes]`, from int64 `[N]` twice and the first's share `[N]`."""
    classes = torch.arange(num_classes, device=labels.device)
    first, second = ((each[:, None] == classes).float() for each in (labels, partner_labels))
    return torch.lerp(second, first, share[:, None])
