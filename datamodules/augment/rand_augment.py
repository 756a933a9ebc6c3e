"""RandAugment: a few operations on each image, drawn from fourteen, for all images of a batch at once."""

import math

import torch
from torch import Tensor

from conf.errors import UserError
from datamodules.augment.transforms import blend, grey, warp

GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("color", "sharpness")
LEVELS = ("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = (*GEOMETRY, *BLENDS, *LEVELS, "identity")
LARGEST_MAGNITUDE = 30


class RandAugment:
    """`num_ops` operations one after another, drawn for each image. Cubuk et al., arXiv:1909.13719.

    Operations, strengths and random directions are those of `torchvision.transforms.v2.RandAugment`; positions between
    pixels are sampled bilinearly, and outside is black. Every image goes through one affine map, one blend and one
    table of levels, and keeps the outcome that it drew: so nothing waits for the device.

    Args:
        num_ops: operations an image.
        magnitude: strength of every operation, from 0 to 30.
    """

    def __init__(self, num_ops: int, magnitude: int) -> None:
        if num_ops < 1:
            raise UserError(f"num_ops: must be 1 or more, not {num_ops}; leave the augmentation out instead")
        if not 0 <= magnitude <= LARGEST_MAGNITUDE:
            raise UserError(f"magnitude: must be from 0 to {LARGEST_MAGNITUDE}, not {magnitude}; try 9")
        self.draws = 2 * num_ops
        self.magnitude = magnitude
        self.strength = magnitude / LARGEST_MAGNITUDE

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        for numbers in uniform.split(2, dim=1):
            operation = (numbers[:, 0] * len(OPERATIONS)).long()[:, None, None]
            sign = torch.where(numbers[:, 1] < 0.5, -1.0, 1.0)[:, None, None]
            images = self._once(images, operation, sign)
        return images

    def _once(self, images: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
        """One operation on each image, by its position in OPERATIONS; that and the sign are `[N, 1, 1]`."""
        luminance = grey(images)
        factor = 1 + 0.9 * self.strength * sign
        level = (images * 255).round().long().flatten(2)  # [N, C, H·W]
        mean = 255 * luminance.flatten(2).mean(2, keepdim=True)
        mapped = self._table(level, mean, operation, factor).gather(2, level).view_as(images)
        moved = warp(images, self._matrix(images.shape[2], images.shape[3], operation, sign))
        operation, factor = operation[..., None], factor[..., None]
        other = torch.where(operation == OPERATIONS.index("color"), luminance, _smooth(images))
        blended = blend(images, other, factor)
        images = torch.where(operation < OPERATIONS.index("identity"), mapped, images)
        images = torch.where(operation < OPERATIONS.index(LEVELS[0]), blended, images)
        return torch.where(operation < OPERATIONS.index(BLENDS[0]), moved, images)

    def _matrix(self, height: int, width: int, operation: Tensor, sign: Tensor) -> Tensor:
        """What `warp` takes, `[N, 2, 3]`. Shears keep the upper left corner, which is (-1, -1); turns the centre."""

        def amount(name: str, strength: float) -> Tensor:
            return torch.where(operation == OPERATIONS.index(name), sign * strength, 0.0)

        across = amount("shear_x", 0.3 * self.strength * height / width)
        down = amount("shear_y", 0.3 * self.strength * width / height)
        right = amount("translate_x", self._shift(width) * 2 / width)
        below = amount("translate_y", self._shift(height) * 2 / height)
        angle = amount("rotate", math.radians(30 * self.strength))
        cos, sin = angle.cos(), angle.sin()
        rows = [cos, across - sin * height / width, across - right, down + sin * width / height, cos, down - below]
        return torch.cat(rows, 2).view(-1, 2, 3)

    def _shift(self, length: int) -> int:
        """Whole pixels along an axis: at most 150 of 331."""
        return 150 * length * self.magnitude // (331 * LARGEST_MAGNITUDE)

    def _table(self, level: Tensor, mean: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
        """What each of 256 levels becomes by an operation of LEVELS, in [0, 1]: float `[N, C, 256]`."""
        every = torch.arange(256, device=level.device)
        low, high = level.amin(2, keepdim=True), level.amax(2, keepdim=True)
        step = 2 ** round(4 * self.strength)
        threshold = 255 * (LARGEST_MAGNITUDE - self.magnitude) / LARGEST_MAGNITUDE
        tables = {
            "brightness": every * factor,
            "contrast": mean + (every - mean) * factor,
            "posterize": every // step * step,
            "solarize": torch.where(every < threshold, every, 255 - every),
            "autocontrast": torch.where(low < high, (every - low) * 255 / (high - low), every),
            "equalize": _equal_shares(level, high),
        }
        table = every
        for name, changed in tables.items():
            table = torch.where(operation == OPERATIONS.index(name), changed, table)
        return (table / 255).clamp(0, 1)


def _equal_shares(level: Tensor, high: Tensor) -> Tensor:
    """The levels `[N, C, 256]` that make all equally frequent, rounded as Pillow does it."""
    counts = torch.zeros(*level.shape[:2], 256, dtype=torch.long, device=level.device)
    counts.scatter_add_(2, level, torch.ones_like(level))
    step = (level.shape[2] - counts.gather(2, high)) // 255  # pixels a level
    below = counts.cumsum(2) - counts
    shares = (below + step // 2) // step.clamp(min=1)
    # Small images and those of nearly one colour have less than a pixel for each level, and stay as they are.
    return torch.where(step > 0, shares, torch.arange(256, device=level.device))


def _smooth(images: Tensor) -> Tensor:
    """Pillow's filter of that name: 3×3 pixels of equal weight, but five for the middle; the border stays as it is."""
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (square + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return smooth
