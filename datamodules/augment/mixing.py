"""Mixup and CutMix, and the soft targets of mixed images.

A mixing, like an augmentation, is a pure function of images and uniform numbers (`draws` per image), on any device.
"""

import math
from typing import Annotated, Protocol, runtime_checkable

import numpy as np
import torch
from annotated_types import Gt
from scipy.special import betaincinv
from torch import Tensor

from datamodules.augment.transforms import box

# Cells of the quantile table: the error of an interpolated number is at most 1 / CELLS in probability.
CELLS = 2**14
Alpha = Annotated[float, Gt(0)]


@runtime_checkable
class Mixing(Protocol):
    """Mixes each image with its partner.

    Float images and partners `[N, C, *spatial]`, uniform numbers `[N, draws]` in [0, 1) → mixed images, lambda.
    Lambda `[N]` in [0, 1] is the weight of the first image in each mixed image `[N, C, *spatial]`.
    """

    draws: int

    def __call__(self, images: Tensor, partners: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]: ...


class Mixup:
    """Mixup: weighted mean of two images, lambda from Beta(alpha, alpha). Zhang et al., arXiv:1710.09412."""

    draws = 1

    def __init__(self, alpha: Alpha) -> None:
        self.beta = Beta(alpha)

    def __call__(self, images: Tensor, partners: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        lam = self.beta(uniform[:, 0])
        return torch.lerp(partners, images, lam.view(-1, *[1] * (images.ndim - 1))), lam


class CutMix:
    """CutMix: pastes a box of the partner into the image. Yun et al., arXiv:1905.04899.

    Images have one to three spatial axes. The box has the aspect ratio of the image. The fraction of the image that it
    covers, before clipping at the border, is from Beta(alpha, alpha). Lambda is the exact fraction of pixels that the
    image keeps.
    """

    draws = 4  # the size, and the centre along each of at most three axes

    def __init__(self, alpha: Alpha) -> None:
        self.beta = Beta(alpha)

    def __call__(self, images: Tensor, partners: Tensor, uniform: Tensor) -> tuple[Tensor, Tensor]:
        shape = images.shape[2:]
        ratio = self.beta(uniform[:, 0]) ** (1 / len(shape))  # along each axis
        inside = box(uniform[:, 1:], shape, [(ratio * length).long() for length in shape])  # [N, 1, *spatial]
        lam = 1 - inside.flatten(1).sum(1) / math.prod(shape)
        return torch.where(inside, partners, images), lam


class Beta:
    """Samples Beta(alpha, alpha) from uniform numbers, by a table of its quantile function."""

    def __init__(self, alpha: Alpha) -> None:
        quantiles = betaincinv(alpha, alpha, np.linspace(0, 1, CELLS + 1))
        self.table = torch.from_numpy(quantiles.astype(np.float32))

    def __call__(self, uniform: Tensor) -> Tensor:
        """Uniform numbers in [0, 1) of any shape → quantiles in [0, 1] of that shape."""
        self.table = self.table.to(uniform.device, non_blocking=True)
        position = uniform * CELLS
        cell = position.long()
        return torch.lerp(self.table[cell], self.table[cell + 1], position - cell)


def soft_targets(labels: Tensor, partner_labels: Tensor, lam: Tensor, num_classes: int) -> Tensor:
    """Class probabilities of mixed images.

    Labels of images and of partners, int64 `[N]` or 0/1 `[N, num_classes]`, lambda `[N]` → float32 `[N, num_classes]`.
    """
    if labels.ndim == 2:
        return torch.lerp(partner_labels.float(), labels.float(), lam[:, None])
    classes = torch.arange(num_classes, device=labels.device)
    one_hot = (labels[:, None] == classes).float()
    partner_one_hot = (partner_labels[:, None] == classes).float()
    return torch.lerp(partner_one_hot, one_hot, lam[:, None])
