"""Augmentations of image batches: crop, flips, cutout, colour jitter, affine."""

import math
from collections.abc import Sequence
from typing import Annotated, Literal

import torch
import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor

from conf.errors import UserError
from datamodules.augment.augmentation import uniform

Fraction = Annotated[float, Interval(ge=0, le=1)]


class RandomCrop:
    """Random crop of the padded image back to its original size.

    Args:
        padding: pixels on each side; the largest shift.
        fill: `reflect` pads with the mirrored image, `black` with zeros.
    """

    draws = 2

    def __init__(self, padding: Annotated[int, Ge(1)], fill: Literal["reflect", "black"]) -> None:
        self.padding = padding
        self.mode = "reflect" if fill == "reflect" else "constant"

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        height, width = images.shape[2:]
        if self.mode == "reflect" and self.padding >= min(height, width):
            problem = f"padding {self.padding} of a crop is too large for images of {height}×{width}"
            raise UserError(f"datamodule.augment: {problem}; lower it")
        padded = F.pad(images, [self.padding] * 4, mode=self.mode)
        offset = (uniform * (2 * self.padding + 1)).long()  # [N, 2]
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # [N, C, rows, columns, H, W], a view
        return windows[torch.arange(len(images), device=images.device), :, offset[:, 0], offset[:, 1]]


class RandomResizedCrop:
    """Random crop resized to the image's size, bilinear. Szegedy et al., arXiv:1409.4842, section 6.

    Args:
        min_area: of the crop, as a fraction of the image's; the largest is 1.
        max_aspect: largest change of the aspect ratio, as a factor.
    """

    draws = 4

    def __init__(self, min_area: Annotated[float, Interval(gt=0, le=1)], max_aspect: Annotated[float, Ge(1)]) -> None:
        self.min_area = min_area
        self.max_aspect = max_aspect

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        area = self.min_area + (1 - self.min_area) * uniform[:, 0]
        aspect = self.max_aspect ** (2 * uniform[:, 1] - 1)  # log-uniform in [1 / max_aspect, max_aspect]
        sides = torch.stack([(area * aspect).sqrt(), (area / aspect).sqrt()], 1).clamp(max=1)  # [N, 2]: x, y
        centre = (1 - sides) * (2 * uniform[:, 2:] - 1)  # the image spans [-1, 1]
        return warp(images, torch.cat([torch.diag_embed(sides), centre[:, :, None]], 2))  # [N, 2, 3]


class HorizontalFlip:
    """Flips an image horizontally with probability `p`."""

    draws = 1

    def __init__(self, p: Fraction) -> None:
        self.p = p

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform[:, :, None, None] < self.p, images.flip(-1), images)


class AlternatingFlip:
    """Flips half of the images horizontally, the other half in the next epoch.

    No image is seen the same way in two consecutive epochs. Jordan, arXiv:2404.00498, section 3.3. The first half is
    drawn from (seed, sample), see `numbers`.
    """

    draws = 1

    def numbers(self, index: Tensor, seed: int, epoch: int) -> Tensor:
        """Uniform numbers `[N, 1]`: below 0.5 either in even or in odd epochs."""
        first = uniform(index, seed, 0, 1)
        return first if epoch % 2 == 0 else (first + 0.5) % 1

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return torch.where(uniform[:, :, None, None] < 0.5, images.flip(-1), images)


class Cutout:
    """Blackens a square of side `size` around a random pixel. DeVries and Taylor, arXiv:1708.04552."""

    draws = 2

    def __init__(self, size: Annotated[int, Ge(1)]) -> None:
        self.size = size

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        return images.masked_fill(box(uniform, images.shape[2:], [self.size, self.size]), 0.0)


class ColorJitter:
    """Randomly changes brightness, contrast, saturation and hue, in this order.

    Parameters are those of torchvision: brightness, contrast and saturation are scaled by a factor from [1 - x, 1 + x].
    Hue is rotated by up to `hue` turns in the chrominance plane (YIQ), which needs no per-pixel branches. Grey images
    have neither saturation nor hue.
    """

    draws = 4
    # Luminance and chrominance of RGB (ITU-R BT.601).
    YIQ = ((0.299, 0.587, 0.114), (0.5959, -0.2746, -0.3213), (0.2115, -0.5227, 0.3112))

    def __init__(
        self,
        brightness: Fraction,
        contrast: Fraction,
        saturation: Fraction,
        hue: Annotated[float, Interval(ge=0, le=0.5)],
    ) -> None:
        self.strengths = [brightness, contrast, saturation]
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
        rotation = torch.eye(3, device=images.device, dtype=images.dtype).repeat(len(images), 1, 1)
        rotation[:, 1, 1] = rotation[:, 2, 2] = angle.cos()
        rotation[:, 1, 2] = -angle.sin()
        rotation[:, 2, 1] = angle.sin()
        to_yiq = torch.tensor(self.YIQ, dtype=torch.float64)
        from_yiq = to_yiq.inverse().to(images)
        matrix = from_yiq @ rotation @ to_yiq.to(images)  # [N, 3, 3]
        return torch.einsum("nij,njhw->nihw", matrix, images).clamp(0, 1)


class RandomAffine:
    """Random rotation, translation, scaling and shear about the centre, bilinear; outside is black.

    Args:
        degrees: largest rotation in either direction.
        translate: largest shift, as a fraction of the image's size.
        scale: the scale factor is from [1 - scale, 1 + scale].
        shear: largest shear, in degrees.
    """

    draws = 5

    def __init__(
        self,
        degrees: Annotated[float, Interval(ge=0, le=180)],
        translate: Fraction,
        scale: Annotated[float, Interval(ge=0, lt=1)],
        shear: Annotated[float, Interval(ge=0, lt=90)],
    ) -> None:
        self.degrees = degrees
        self.translate = translate
        self.scale = scale
        self.shear = shear

    def __call__(self, images: Tensor, uniform: Tensor) -> Tensor:
        signed = 2 * uniform - 1  # [N, 5] in [-1, 1)
        angle = signed[:, 0] * math.radians(self.degrees)
        zoom = 1 / (1 + signed[:, 1] * self.scale)
        shear = (signed[:, 2] * math.radians(self.shear)).tan()
        shift = signed[:, 3:] * 2 * self.translate  # the grid spans [-1, 1]
        cos, sin = angle.cos() * zoom, angle.sin() * zoom
        ratio = images.shape[2] / images.shape[3]  # grid coordinates span [-1, 1] along both axes
        first_row = torch.stack([cos, (shear * cos - sin) * ratio, shift[:, 0]], 1)
        second_row = torch.stack([sin / ratio, shear * sin + cos, shift[:, 1]], 1)
        return warp(images, torch.stack([first_row, second_row], 1))  # [N, 2, 3]


def box(centre: Tensor, shape: Sequence[int], sides: Sequence[int | Tensor]) -> Tensor:
    """Mask of a random box in each image, clipped at the border: bool `[N, 1, *shape]`.

    Args:
        centre: uniform numbers `[N, axes]`; all pixels are equally likely to be the centre.
        shape: pixels along each axis of the images.
        sides: pixels along each axis of the boxes: one number for all, or int64 `[N]`.
    """
    inside = torch.ones((), dtype=torch.bool, device=centre.device)
    for axis, (length, side) in enumerate(zip(shape, sides, strict=True)):
        start = (centre[:, axis] * length).long() - side // 2
        position = torch.arange(length, device=centre.device)
        within = (position >= start[:, None]) & (position < (start + side)[:, None])  # [N, length]
        broadcast_shape = [1] * (len(shape) + 1)
        broadcast_shape[axis + 1] = length
        inside = inside & within.unflatten(1, broadcast_shape)  # [N, 1, *shape]
    return inside


def warp(images: Tensor, matrix: Tensor) -> Tensor:
    """Affine warp with bilinear sampling; outside is black.

    The matrices `[N, 2, 3]` map positions in the output to positions in `images`.
    Positions are (x, y) from the centre, in units of half the width and half the height.
    """
    grid = F.affine_grid(matrix.to(images.dtype), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False).clamp(0, 1)  # bilinear weights may round to a sum above 1


def blend(images: Tensor, degenerate: Tensor, factor: Tensor) -> Tensor:
    """Interpolates (factor < 1) or extrapolates (factor > 1) from `degenerate`.

    All broadcast to `[N, C, H, W]`.
    """
    return (degenerate + (images - degenerate) * factor).clamp(0, 1)


def grey(images: Tensor) -> Tensor:
    """Luminance `[N, 1, H, W]`."""
    if images.shape[1] != 3:
        return images.mean(1, keepdim=True)
    red, green, blue = images.unbind(1)
    return (0.299 * red + 0.587 * green + 0.114 * blue).unsqueeze(1)
