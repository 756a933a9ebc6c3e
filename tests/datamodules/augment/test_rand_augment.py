"""RandAugment equals torchvision, drawn for each sample."""

import math
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from datamodules.augment.rand_augment import GEOMETRY, OPERATIONS, RandAugment
from tests.datamodules.augment.uniform import numbers

HEIGHT, WIDTH = 24, 31
BILINEAR = {"interpolation": v2.InterpolationMode.BILINEAR}
affine = partial(tv.affine, angle=0.0, scale=1.0, **BILINEAR)
unmoved: dict[str, Any] = {"translate": [0, 0], "center": [0, 0]}


def torchvision_operation(name: str, image: Tensor, magnitude: int, sign: int) -> Tensor:
    """One operation of torchvision on an image of HEIGHT × WIDTH."""
    strength = magnitude / 30
    slant = math.degrees(math.atan(sign * 0.3 * strength))
    shift = [sign * int(150 / 331 * length * strength) for length in (WIDTH, HEIGHT)]
    factor = 1 + sign * 0.9 * strength
    operations = {
        "shear_x": lambda: affine(image, shear=[slant, 0.0], **unmoved),
        "shear_y": lambda: affine(image, shear=[0.0, slant], **unmoved),
        "translate_x": lambda: affine(image, translate=[shift[0], 0], shear=[0.0, 0.0]),
        "translate_y": lambda: affine(image, translate=[0, shift[1]], shear=[0.0, 0.0]),
        "rotate": lambda: tv.rotate(image, sign * 30 * strength, **BILINEAR),
        "brightness": lambda: tv.adjust_brightness(image, factor),
        "color": lambda: tv.adjust_saturation(image, factor),
        "contrast": lambda: tv.adjust_contrast(image, factor),
        "sharpness": lambda: tv.adjust_sharpness(image, factor),
        "posterize": lambda: tv.posterize(image, 8 - round(4 * strength)),
        "solarize": lambda: tv.solarize(image, 255 * (30 - magnitude) / 30),
        "autocontrast": lambda: tv.autocontrast(image),
        "equalize": lambda: tv.equalize(image),
        "identity": lambda: image,
    }
    return operations[name]()


def bytes_of(channels: int, samples: int = 1) -> Tensor:
    """uint8 images of few levels, so that equalize and autocontrast change them."""
    pixels = np.random.default_rng(0).normal(120, 30, (samples, channels, HEIGHT, WIDTH))
    return torch.from_numpy(pixels.clip(10, 230).astype(np.uint8))


def drawing(name: str, sign: int = 1) -> Tensor:
    """Uniform numbers that draw an operation."""
    return torch.tensor([[(OPERATIONS.index(name) + 0.5) / 14, 0.25 if sign < 0 else 0.75]])


# In levels: torchvision rounds sampled values, and truncates a blend, or both images of it.
TOLERANCE = (
    dict.fromkeys(GEOMETRY, 0.51)
    | dict.fromkeys(["brightness", "color", "contrast", "sharpness"], 2)
    | {"autocontrast": 1.01}
)


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("channels", [1, 3])
def test_operation_equals_torchvision(name: str, channels: int) -> None:
    images = bytes_of(channels)
    for magnitude in range(31):
        for sign in (-1, 1):
            outputs = RandAugment(1, magnitude)(images / 255, drawing(name, sign)) * 255
            difference = (outputs - torchvision_operation(name, images, magnitude, sign)).abs().max()
            assert difference < TOLERANCE.get(name, 1e-3), (magnitude, sign)


@pytest.mark.parametrize("name", ["brightness", "color", "contrast", "sharpness", "autocontrast"])
def test_blend_equals_torchvision_without_rounding(name: str) -> None:
    images = bytes_of(3) / 255
    for sign in (-1, 1):
        outputs = RandAugment(1, 30)(images, drawing(name, sign))
        # Its luminance counts 0.2989 of red, not 0.299.
        assert torch.allclose(outputs, torchvision_operation(name, images, 30, sign), rtol=0, atol=1e-4)


def test_outcomes_are_exactly_those_of_torchvision() -> None:
    images = bytes_of(3)
    draws = torch.stack([drawing(name, sign)[0] for name in OPERATIONS for sign in (-1, 1)])
    outputs = RandAugment(1, 17)(images.repeat(len(draws), 1, 1, 1) / 255, draws) * 255
    matched = set()
    torch.manual_seed(0)
    for _ in range(300):
        outcome = v2.RandAugment(1, 17, **BILINEAR)(images[0])
        distance = (outputs - outcome).abs().amax((1, 2, 3))
        assert distance.min() < 2
        matched |= set((distance < 2).nonzero()[:, 0].tolist())
    assert matched == set(range(len(draws)))


def test_flat_and_tiny_images_keep_their_levels() -> None:
    flat, small = torch.full((1, 3, 24, 31), 100 / 255), bytes_of(3)[..., :8, :8] / 255
    for name in ("autocontrast", "equalize"):
        assert torch.allclose(RandAugment(1, 9)(flat, drawing(name)), flat, rtol=0, atol=1e-6)
    assert torch.allclose(RandAugment(1, 9)(small, drawing("equalize")), small, rtol=0, atol=1e-6)


def test_identity_keeps_every_bit() -> None:
    images = torch.rand(1, 3, 7, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(RandAugment(1, 9)(images, drawing("identity")), images)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (5, 2)])
def test_smallest_images_give_finite_values(size: tuple[int, int]) -> None:
    images = torch.rand(14, 3, *size, generator=torch.Generator().manual_seed(0))
    draws = torch.cat([drawing(name) for name in OPERATIONS])
    assert RandAugment(1, 30)(images, draws).isfinite().all()


def test_every_operation_and_direction_is_equally_frequent() -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).random((2800, 2), np.float32))
    drawn[0], drawn[1] = 0, 1 - 2**-24
    images = bytes_of(3)[..., :16] / 255
    every = torch.stack([drawing(name, sign)[0] for name in OPERATIONS for sign in (-1, 1)])
    outcomes = RandAugment(1, 15)(images.repeat(28, 1, 1, 1), every)
    drawn_outcomes = RandAugment(1, 15)(images.repeat(2800, 1, 1, 1), drawn)
    labels = torch.cdist(drawn_outcomes.flatten(1), outcomes.flatten(1)).argmin(1).tolist()
    names = Counter(OPERATIONS[label // 2] for label in labels)
    assert len(names) == 14
    assert all(abs(count - 200) < 4 * math.sqrt(200) for count in names.values())
    assert abs(sum(label % 2 for label in labels if label < 18) - 900) < 4 * math.sqrt(450)


def test_operations_apply_in_order_with_separate_numbers() -> None:
    images, drawn = bytes_of(3, samples=20) / 255, numbers(20, 4)
    once = RandAugment(1, 12)
    assert RandAugment(2, 12).draws == 4
    assert torch.equal(RandAugment(2, 12)(images, drawn), once(once(images, drawn[:, :2]), drawn[:, 2:]))


def test_no_control_flow_depends_on_tensor_values() -> None:
    images = torch.empty(6, 3, 7, 10, device="meta")  # has no values
    assert RandAugment(2, 9)(images, torch.empty(6, 4, device="meta")).shape == images.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_nothing_synchronizes_with_the_device() -> None:
    images, drawn = (bytes_of(3, samples=20) / 255).cuda(), numbers(20, 4).cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        outcome = RandAugment(2, 9)(images, drawn)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert (outcome.cpu() - RandAugment(2, 9)(images.cpu(), drawn.cpu())).abs().mean() < 1e-3
