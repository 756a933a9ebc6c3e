"""Augmentations of a batch of images on its device."""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from conf.errors import UserError
from datamodules.augment.augmentation import uniform


class RandomCrop:
    """Moves the image by up to `padding` pixels each way; what comes in from outside is mirrored or black."""

    draws = 2

    def __init__(self, padding: int, fill: Literal["reflect", "black"]) -> None:
        if padding < 1:
            raise UserError(f"padding: must be 1 pixel or more, not {padding}; leave the augmentation out instead")
        self.padding = padding
        self.mode = "reflect" if fill == "reflect" else "constant"

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.mode == "reflect" and self.padding >= min(height, width):
            size = f"images of {height}×{width}"
            raise UserError(f"datamodule.augment: a crop's padding of {self.padding} is too much for {size}; lower it")
        padded = F.pad(images, [self.padding] * 4, mode=self.mode)
        offset = (uniform * (2 * self.padding + 1)).long()  # [N, 2]
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [N, C, rows, columns, H, W], a view
        return windows[torch.arange(len(images), device=images.device), :, offset[:, 0], offset[:, 1]]


class HorizontalFlip:
    """Mirrors an image left to right with probability `p`."""

    draws = 1

    def __init__(self, p: float) -> None:
        self.p = _probability("p", p)

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform[:, :, None, None] < self.p, images.flip(-1), images)


class Cutout:
    """Blackens a square of `size` pixels a side around a random pixel. DeVries and Taylor, arXiv:1708.04552."""

    draws = 2

    def __init__(self, size: int) -> None:
        if size < 1:
            raise UserError(f"size: must be 1 pixel or more, not {size}; leave the augmentation out instead")
        self.size = size

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return images.masked_fill(box(uniform, images.shape[2:], [self.size, self.size]), 0.0)


class ColorJitter:
    """Brightness, contrast, saturation, then hue, by random amounts; the meaning of each as in torchvision.

    Brightness, contrast and saturation are multiplied by a number from [1 - x, 1 + x]. Hue is turned by up to `hue`
    turns in the plane of chrominance (YIQ), which needs no per-pixel branches. Saturation and hue leave grey images
    alone.
    """

    draws = 4
    # Luminance and chrominance of RGB (ITU-R BT.601).
    YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

    def __init__(self, brightness: float, contrast: float, saturation: float, hue: float) -> None:
        self.strengths = [
            _probability(name, value)
            for name, value in [("brightness", brightness), ("contrast", contrast), ("saturation", saturation)]
        ]
        if not 0 <= hue <= 0.5:
            raise UserError(f"hue: must be between 0 and 0.5 turns, not {hue}; correct the value")
        self.hue = hue

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        factors = 1 + (2 * uniform[:, :3] - 1) * images.new_tensor(self.strengths)
        brightness, contrast, saturation = factors[:, :, None, None, None].unbind(1)  # each [N, 1, 1, 1]
        images = (images * brightness).clamp(0, 1)
        images = blend(images, grey(images).mean((2, 3), keepdim=True), contrast)
        if images.shape[1] != 3:
            return images
        images = blend(images, grey(images), saturation)
        if self.hue == 0:
            return images
        angle = (2 * uniform[:, 3] - 1) * self.hue * 2 * math.pi
        turn = torch.eye(3, device=images.device, dtype=images.dtype).repeat(len(images), 1, 1)
        turn[:, 1, 1] = turn[:, 2, 2] = angle.cos()
        turn[:, 1, 2], turn[:, 2, 1] = -angle.sin(), angle.sin()
        to_yiq = torch.tensor(self.YIQ, dtype=torch.float64)
        from_yiq = to_yiq.inverse().to(images)
        matrix = from_yiq @ turn @ to_yiq.to(images)  # [N, 3, 3]
        return torch.einsum("nij,njhw->nihw", matrix, images).clamp(0, 1)


class RandomAffine:
    """Turns, shifts, zooms and shears about the centre, with bilinear sampling; outside is black.

    Args:
        degrees: turn by up to this many degrees each way.
        translate: shift by up to this fraction of the image's size.
        scale: zoom by a factor from [1 - scale, 1 + scale].
        shear: shear by up to this many degrees.
    """

    draws = 5

    def __init__(self, degrees: float, translate: float, scale: float, shear: float) -> None:
        if not 0 <= scale < 1:
            raise UserError(f"scale: must be between 0 and 1, not {scale}; correct the value")
        self.degrees, self.translate, self.scale, self.shear = degrees, translate, scale, shear

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        signed = 2 * uniform - 1  # [N, 5] in [-1, 1)
        angle = signed[:, 0] * math.radians(self.degrees)
        zoom = 1 / (1 + signed[:, 1] * self.scale)
        shear = (signed[:, 2] * math.radians(self.shear)).tan()
        shift = signed[:, 3:] * 2 * self.translate  # the grid spans [-1, 1]
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        ratio = images.shape[2] / images.shape[3]  # the grid is square whatever the image is
        matrix = torch.stack(
            [
                torch.stack([cos, (shear * cos - sin) * ratio, shift[:, 0]], 1),
                torch.stack([sin / ratio, shear * sin + cos, shift[:, 1]], 1),
            ],
            1,
        )  # [N, 2, 3]
        return warp(images, matrix)


def box(centre: Tensor, shape: Sequence[int], sides: Sequence[int | Tensor]) -> Tensor:
    """Which pixels lie in a box of their image's own, clipped at the border: bool `[N, 1, *shape]`.

    Args:
        centre: uniform numbers `[N, axes]`; every pixel is the centre as often as any other.
        shape: pixels of each axis.
        sides: the box's pixels along each axis: one number, or int64 `[N]`.
    """
    inside = torch.ones((), dtype=torch.bool, device=centre.device)
    for axis, (length, side) in enumerate(zip(shape, sides, strict=True)):
        start = (centre[:, axis] * length).long() - side // 2
        position = torch.arange(length, device=centre.device)
        within = (position >= start[:, None]) & (position < (start + side)[:, None])  # [N, length]
        inside = inside & within.unflatten(1, [length if other == axis else 1 for other in range(-1, len(shape))])
    return inside


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Images sampled bilinearly where affine maps `[N, 2, 3]` lead from each position; outside is black.

    Positions are (x, y) from the centre, in halves of the image's width and height.
    """
    grid = F.affine_grid(matrix.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)  # whose weights may round to more than 1


def blend(images: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    """Away from `other` for a factor above 1, towards it below; both broadcast to `[N, C, H, W]`."""
    return (other + (images - other) * factor).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luminance `[N, 1, H, W]`."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)


def _probability(name: str, value: float) -> float:
    if not 0 <= value <= 1:
        raise UserError(f"{name}: must be between 0 and 1, not {value}; correct the value")
    return value


class AlternatingFlip:
    """Mirrors half of the images left to right, in the next epoch the other half, and so on: no image is seen the
    same way twice in a row, as a half of them are by a random flip. Jordan, arXiv:2404.00498, section 3.3.

    Which half comes first is drawn from (seed, sample) alone; see `numbers`.
    """

    draws = 1

    def numbers(self, index: Tensor, seed: int, epoch: int) -> Tensor:
        """What `__call__` takes in an epoch for samples `[N]`: in odd ones the opposite of that in even ones."""
        first = uniform(index, seed, 0, 1)
        return first if epoch % 2 == 0 else (first + 0.5) % 1

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform[:, :, None, None] < 0.5, images.flip(-1), images)
