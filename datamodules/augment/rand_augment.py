"""RandAugment for a whole batch: random operations on each image, out of fourteen."""

import math
from typing import Annotated

import torch
from annotated_types import Ge, Interval
from torch import Tensor

from datamodules.augment.transforms import blend, grey, warp

GEOMETRY = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("color", "sharpness")
TABLES = ("brightness", "contrast", "posterize", "solarize", "autocontrast", "equalize")
OPERATIONS = (*GEOMETRY, *BLENDS, *TABLES, "identity")
MAX_MAGNITUDE = 30


class RandAugment:
    """Applies `num_ops` random operations to each image. Cubuk et al., arXiv:1909.13719.

    Operations, strengths and random signs are those of `torchvision.transforms.v2.RandAugment`, with bilinear sampling
    and black outside the image. Each image goes through one affine map, one blend and one lookup table, of which the
    drawn operation keeps one result: so nothing synchronizes with the device.

    Args:
        num_ops: operations per image.
        magnitude: strength of every operation, from 0 to 30.
    """

    def __init__(
        self, num_ops: Annotated[int, Ge(1)], magnitude: Annotated[int, Interval(ge=0, le=MAX_MAGNITUDE)]
    ) -> None:
        self.draws = 2 * num_ops
        self.magnitude = magnitude
        self.strength = magnitude / MAX_MAGNITUDE

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        for numbers in uniform.split(2, dim=1):
            operation = (numbers[:, 0] * len(OPERATIONS)).long()[:, None, None]
            sign = torch.where(numbers[:, 1] < 0.5, -1.0, 1.0)[:, None, None]
            images = self._apply(images, operation, sign)
        return images

    def _apply(self, images: Tensor, operation: Tensor, sign: Tensor) -> Tensor:
        """Applies one operation to each image.

        `operation` (indices in OPERATIONS) and `sign` are `[N, 1, 1]`.
        """
        luminance = grey(images)
        factor = 1 + 0.9 * self.strength * sign
        level = (images * 255).round().long().flatten(2)  # [N, C, H·W]
        mean = 255 * luminance.flatten(2).mean(2, keepdim=True)
        mapped = self._table(level, mean, operation, factor).gather(2, level).view_as(images)
        warped = warp(images, self._matrix(images.shape[2], images.shape[3], operation, sign))
        operation, factor = operation[..., None], factor[..., None]
        degenerate = torch.where(operation == OPERATIONS.index("color"), luminance, _smooth(images))
        blended = blend(images, degenerate, factor)
        images = torch.where(operation < OPERATIONS.index("identity"), mapped, images)
        images = torch.where(operation < OPERATIONS.index(TABLES[0]), blended, images)
        return torch.where(operation < OPERATIONS.index(BLENDS[0]), warped, images)

    def _matrix(self, height: int, width: int, operation: Tensor, sign: Tensor) -> Tensor:
        """Affine matrices `[N, 2, 3]` for `warp`. Shears fix the top left corner (-1, -1), rotations the centre."""

        def amount(name: str, strength: float) -> Tensor:
            return torch.where(operation == OPERATIONS.index(name), sign * strength, 0.0)

        x_shear = amount("shear_x", 0.3 * self.strength * height / width)
        y_shear = amount("shear_y", 0.3 * self.strength * width / height)
        x_shift = amount("translate_x", self._shift(width) * 2 / width)
        y_shift = amount("translate_y", self._shift(height) * 2 / height)
        angle = amount("rotate", math.radians(30 * self.strength))
        cos, sin = angle.cos(), angle.sin()
        first_row = [cos, x_shear - sin * height / width, x_shear - x_shift]
        second_row = [y_shear + sin * width / height, cos, y_shear - y_shift]
        return torch.cat(first_row + second_row, 2).view(-1, 2, 3)

    def _shift(self, length: int) -> int:
        """Translation in whole pixels: at most 150 of 331, as in torchvision."""
        return 150 * length * self.magnitude // (331 * MAX_MAGNITUDE)

    def _table(self, level: Tensor, mean: Tensor, operation: Tensor, factor: Tensor) -> Tensor:
        """Lookup tables of the operations in TABLES.

        Float `[N, C, 256]`: level 0 … 255 → [0, 1].
        """
        levels = torch.arange(256, device=level.device)
        low, high = level.amin(2, keepdim=True), level.amax(2, keepdim=True)
        step = 2 ** round(4 * self.strength)
        threshold = 255 * (MAX_MAGNITUDE - self.magnitude) / MAX_MAGNITUDE
        tables = {
            "brightness": levels * factor,
            "contrast": mean + (levels - mean) * factor,
            "posterize": levels // step * step,
            "solarize": torch.where(levels < threshold, levels, 255 - levels),
            "autocontrast": torch.where(low < high, (levels - low) * 255 / (high - low), levels),
            "equalize": _equalize(level, high),
        }
        table = levels
        for name, candidate in tables.items():
            table = torch.where(operation == OPERATIONS.index(name), candidate, table)
        return (table / 255).clamp(0, 1)


def _equalize(level: Tensor, high: Tensor) -> Tensor:
    """Histogram equalization: level → level `[N, C, 256]`, rounded as in Pillow."""
    counts = torch.zeros(*level.shape[:2], 256, dtype=torch.long, device=level.device)
    counts.scatter_add_(2, level, torch.ones_like(level))
    step = (level.shape[2] - counts.gather(2, high)) // 255  # pixels per level
    below = counts.cumsum(2) - counts
    equalized = (below + step // 2) // step.clamp(min=1)
    # Small images and those of nearly one colour have less than one pixel per level, and stay unchanged.
    return torch.where(step > 0, equalized, torch.arange(256, device=level.device))


def _smooth(images: Tensor) -> Tensor:
    """Pillow's SMOOTH filter; border pixels stay unchanged.

    Weights of 3×3 pixels: 5 for the centre, 1 for the others.
    """
    rows = images[:, :, :-2] + images[:, :, 1:-1] + images[:, :, 2:]
    square = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    smooth = images.clone()
    smooth[:, :, 1:-1, 1:-1] = (square + 4 * images[:, :, 1:-1, 1:-1]) / 13
    return smooth
