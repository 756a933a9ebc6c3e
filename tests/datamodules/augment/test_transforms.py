"""Transforms equal torchvision or slow independent implementations."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from conf.errors import UserError
from datamodules.augment.transforms import (
    AlternatingFlip,
    ColorJitter,
    Cutout,
    HorizontalFlip,
    RandomAffine,
    RandomCrop,
    RandomResizedCrop,
)
from tests.datamodules.augment.uniform import images, numbers


def test_flip_equals_a_slow_implementation() -> None:
    inputs, drawn = images(40), numbers(40, 1)
    expected = [image[:, :, ::-1] if u < 0.3 else image for image, u in zip(inputs.numpy(), drawn[:, 0], strict=True)]
    assert np.array_equal(HorizontalFlip(0.3)(inputs, drawn), np.stack(expected))


@pytest.mark.parametrize(("p", "flipped"), [(0.0, False), (1.0, True)])
def test_flip_with_p_0_and_1(p: float, flipped: bool) -> None:
    inputs = images(40)
    assert torch.equal(HorizontalFlip(p)(inputs, numbers(40, 1)), inputs.flip(3) if flipped else inputs)


def flipped(seed: int, epoch: int, index: Tensor) -> Tensor:
    """Which of 1,000 images AlternatingFlip flips; the others must be unchanged."""
    inputs = images(1000, 1, 4, 4)[index]
    flip = AlternatingFlip()
    outputs = flip(inputs, flip.numbers(index, seed, epoch))
    is_flipped = (outputs == inputs.flip(-1)).all((1, 2, 3))
    assert torch.equal(outputs[~is_flipped], inputs[~is_flipped])
    return is_flipped


def test_alternating_flip_flips_every_other_epoch() -> None:
    index = torch.arange(1000)
    even = flipped(0, 0, index)
    assert torch.equal(flipped(0, 1, index), ~even)
    assert torch.equal(flipped(0, 6, index), even)


def test_alternating_flip_starts_with_half_of_the_images() -> None:
    index = torch.arange(1000)
    first = flipped(0, 0, index)
    assert 400 < first.sum() < 600
    assert torch.equal(flipped(0, 0, index[7:300]), first[7:300]), "whatever batch they are in"
    assert not torch.equal(flipped(1, 0, index), first)


@pytest.mark.parametrize(("fill", "mode"), [("reflect", "reflect"), ("black", "constant")])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_equals_a_slow_implementation(fill: str, mode: str, channels: int) -> None:
    inputs, drawn = images(40, channels), numbers(40, 2)
    expected = []
    for image, (down, right) in zip(inputs.numpy(), drawn.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode=mode)
        top, left = math.floor(down * 7), math.floor(right * 7)
        expected.append(padded[:, top : top + 7, left : left + 10])
    assert np.array_equal(RandomCrop(3, fill)(inputs, drawn), np.stack(expected))


def test_cutout_equals_a_slow_implementation() -> None:
    inputs, drawn = images(40), numbers(40, 2)
    for size in (1, 3, 4, 30):
        expected = inputs.numpy().copy()
        for image, (down, right) in zip(expected, drawn.tolist(), strict=True):
            top, left = math.floor(down * 7) - size // 2, math.floor(right * 10) - size // 2
            for y in range(7):
                for x in range(10):
                    if top <= y < top + size and left <= x < left + size:
                        image[:, y, x] = 0
        assert np.array_equal(Cutout(size)(inputs, drawn), expected)


def color_numbers(*factors: float, strength: float = 0.5) -> Tensor:
    """The uniform numbers that ColorJitter turns into these factors, and a hue of zero."""
    return torch.tensor([[((factor - 1) / strength + 1) / 2 for factor in factors] + [0.5]])


@pytest.mark.parametrize("factors", [(0.6, 1, 1), (1.4, 1, 1), (1, 0.5, 1), (1, 1.4, 1), (1, 1, 0.5), (1, 1, 1.4)])
def test_color_equals_torchvision_for_each_factor(factors: tuple[float, float, float]) -> None:
    image = images(1)
    outputs = ColorJitter(0.5, 0.5, 0.5, 0)(image, color_numbers(*factors))
    expected = tv.adjust_brightness(image, factors[0])
    expected = tv.adjust_contrast(expected, factors[1])
    expected = tv.adjust_saturation(expected, factors[2])
    # torchvision's luminance counts 0.2989 of red, not 0.299: at most 1e-4 · |1 - factor|.
    assert torch.allclose(outputs, expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_equals_torchvision_for_all_factors(channels: int) -> None:
    image, factors = images(1, channels), (1.3, 0.7, 1.4)
    outputs = ColorJitter(0.5, 0.5, 0.5, 0)(image, color_numbers(*factors))
    expected = tv.adjust_contrast(tv.adjust_brightness(image, factors[0]), factors[1])
    expected = tv.adjust_saturation(expected, factors[2]) if channels == 3 else expected
    assert torch.allclose(outputs, expected, rtol=0, atol=3e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_without_strength_changes_nothing(channels: int) -> None:
    inputs = images(20, channels)
    assert torch.allclose(ColorJitter(0, 0, 0, 0)(inputs, numbers(20, 4)), inputs, rtol=0, atol=2**-22)


def test_hue_rotates_the_chrominance_plane() -> None:
    # Muted colours, so that nothing is clamped. Coefficients from Wikipedia, "YIQ" (FCC NTSC of 1953 and 1987).
    inputs = 0.4 + 0.2 * images(1)
    hue, number = 0.2, 0.9
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    y, i, q = np.tensordot(to_yiq, inputs[0].double().numpy(), 1)
    turned = (i + 1j * q) * np.exp(2j * np.pi * hue * (2 * number - 1))
    expected = np.tensordot(np.linalg.inv(to_yiq), np.stack([y, turned.real, turned.imag]), 1)
    outputs = ColorJitter(0, 0, 0, hue)(inputs, torch.tensor([[0.5, 0.5, 0.5, number]]))
    assert np.abs(outputs[0].numpy() - expected).max() < 1e-6


def test_saturation_and_hue_keep_grey_images() -> None:
    grey = images(20, 1).repeat(1, 3, 1, 1)
    assert torch.allclose(ColorJitter(0, 0, 1, 0.5)(grey, numbers(20, 4)), grey, rtol=0, atol=1e-3)


def affine_numbers(turn: float = 0, zoom: float = 0, shear: float = 0, x: float = 0, y: float = 0) -> Tensor:
    """The uniform numbers for these fractions of the largest change, each in [-1, 1)."""
    return (torch.tensor([[turn, zoom, shear, x, y]]) + 1) / 2


@pytest.mark.parametrize("numbers_given", [affine_numbers(), affine_numbers(0.9, -0.9, 0.3, 0.7, -0.2)])
def test_affine_without_strength_changes_nothing(numbers_given: Tensor) -> None:
    inputs = images(1)
    assert torch.allclose(RandomAffine(0, 0, 0, 0)(inputs, numbers_given), inputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("quarters", [-1, 1])
def test_quarter_turn_equals_rot90(quarters: int) -> None:
    square = images(1, 3, 8, 8)
    outputs = RandomAffine(180, 0, 0, 0)(square, affine_numbers(turn=quarters / 2))
    assert torch.allclose(outputs, torch.rot90(square, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_half_turn_flips_both_axes() -> None:
    inputs = images(1)
    outputs = RandomAffine(180, 0, 0, 0)(inputs, affine_numbers(turn=-1))
    assert torch.allclose(outputs, inputs.flip(2, 3), rtol=0, atol=1e-5)


def test_shift_by_whole_pixels_moves_the_image() -> None:
    inputs = images(1, 3, 8, 16)
    # A quarter of the size at most: half of that is 1 of 8 rows, and 2 of 16 columns.
    right = RandomAffine(0, 0.25, 0, 0)(inputs, affine_numbers(x=-0.5))
    assert torch.allclose(right[..., 2:], inputs[..., :-2], rtol=0, atol=1e-5) and (right[..., :2] == 0).all()
    down = RandomAffine(0, 0.25, 0, 0)(inputs, affine_numbers(y=-0.5))
    assert torch.allclose(down[..., 1:, :], inputs[..., :-1, :], rtol=0, atol=1e-5) and (down[..., :1, :] == 0).all()


@pytest.mark.parametrize(
    ("uniform", "changes"),
    [
        # torchvision turns clockwise.
        (affine_numbers(turn=0.5), {"angle": -20.0}),
        (affine_numbers(zoom=0.5), {"scale": 1.2}),
        (affine_numbers(zoom=-0.5), {"scale": 0.8}),
        (affine_numbers(shear=0.5), {"shear": [10.0, 0.0]}),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 16), (16, 9)])
def test_affine_equals_torchvision_on_any_shape(uniform: Tensor, changes: dict, height: int, width: int) -> None:
    inputs = images(1, 3, height, width)
    arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | changes
    expected = tv.affine(inputs, **arguments, interpolation=tv.InterpolationMode.BILINEAR)
    assert torch.allclose(RandomAffine(40, 0, 0.4, 20)(inputs, uniform), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 9), (9, 5)])
def test_affine_equals_a_slow_implementation(height: int, width: int) -> None:
    inputs = images(1, 1, height, width)
    angle, zoom, shear, x, y = 25.0, 1.25, 12.0, -0.1, 0.15  # degrees, factor, degrees, fractions of the size
    cos, sin, skew = math.cos(math.radians(angle)), math.sin(math.radians(angle)), math.tan(math.radians(shear))
    source = inputs[0, 0].numpy()
    expected = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            # From the centre of the image, in pixels: shear, then turn and zoom, then shift, to where it comes from.
            across, down = column - (width - 1) / 2, row - (height - 1) / 2
            across += skew * down
            across, down = (cos * across - sin * down) / zoom, (sin * across + cos * down) / zoom
            across, down = across + x * width + (width - 1) / 2, down + y * height + (height - 1) / 2
            for i in (math.floor(down), math.floor(down) + 1):
                for j in (math.floor(across), math.floor(across) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        expected[row, column] += source[i, j] * (1 - abs(down - i)) * (1 - abs(across - j))
    signed = affine_numbers(angle / 90, (zoom - 1) / 0.5, shear / 45, x / 0.4, y / 0.4)
    outputs = RandomAffine(90, 0.4, 0.5, 45)(inputs, signed)
    assert np.abs(outputs[0, 0].numpy() - expected).max() < 1e-5


def test_padding_too_large_for_the_images_is_rejected() -> None:
    with pytest.raises(UserError, match=r"^datamodule.augment: padding 7 of a crop is too large for images of 7×10; "):
        RandomCrop(7, "reflect")(images(), numbers(6, 2))


def test_resized_crop_equals_torchvision() -> None:
    inputs, drawn = images(40, 3, 24, 36), numbers(40, 4)
    outputs = RandomResizedCrop(0.3, 1.5)(inputs, drawn)
    for image, output, (area, aspect, right, down) in zip(inputs, outputs, drawn.tolist(), strict=True):
        share, ratio = 0.3 + 0.7 * area, 1.5 ** (2 * aspect - 1)
        width, height = min(1, math.sqrt(share * ratio)) * 36, min(1, math.sqrt(share / ratio)) * 24
        left, top = right * (36 - width), down * (24 - height)
        # Corners of the crop → corners of the output.
        startpoints = [[left, top], [left + width, top], [left + width, top + height], [left, top + height]]
        endpoints = [[0, 0], [36, 0], [36, 24], [0, 24]]
        expected = tv.perspective(image, startpoints, endpoints)
        inner = slice(2, -2)  # outside is black for torchvision, at the border a mixture
        torch.testing.assert_close(output[:, inner, inner], expected[:, inner, inner], rtol=0, atol=2e-2)


def test_resized_crop_of_the_whole_area_is_the_image() -> None:
    inputs = images(20)
    torch.testing.assert_close(RandomResizedCrop(1.0, 1.0)(inputs, numbers(20, 4)), inputs, rtol=0, atol=1e-5)
