"""Dark, empty, blurred and odd images are found; statistics equal SciPy's and scikit-learn's."""

import numpy as np
import pytest
from PIL import Image, ImageFilter
from scipy import ndimage

from datamodules.inspection.measurements import Light, light_of
from datamodules.inspection.unusual import find_unusual
from tests.datamodules.images import photographs


def light(images: list[Image.Image]) -> Light:
    return light_of(np.stack([np.asarray(image).transpose(2, 0, 1) for image in images]))


def found(images: list[Image.Image], height: float = 32, width: float = 32) -> dict[str, list[int]]:
    sides = np.full(len(images), height), np.full(len(images), width)
    return {kind: [i for i, _ in hits] for kind, hits in find_unusual(light(images), *sides).items() if hits}


@pytest.fixture
def images() -> list[Image.Image]:
    return photographs()[:40]


@pytest.mark.parametrize("channels", [1, 3])
def test_statistics_equal_a_second_implementation(channels: int) -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, channels, 9, 7), dtype=np.uint8)
    measured = light_of(images)
    for i, image in enumerate(images):
        rgb = image.astype(float) / 255
        grey = rgb[0] if channels == 1 else 0.299 * rgb[0] + 0.587 * rgb[1] + 0.114 * rgb[2]
        laplacian = ndimage.laplace(grey)[1:-1, 1:-1]
        expected = [grey.mean(), (grey > 0.25).mean(), grey.std(), laplacian.var() / grey.var()]
        np.testing.assert_allclose([values[i] for values in measured], expected, rtol=1e-4)


def test_ordinary_photographs_are_not_unusual(images: list[Image.Image]) -> None:
    assert found(images) == {}


def test_dark_empty_and_blurred_images_are_found(images: list[Image.Image]) -> None:
    images[3] = images[3].point(lambda value: value // 5)
    images[5] = Image.new("RGB", images[5].size, (200, 180, 90))
    images[7] = images[7].filter(ImageFilter.GaussianBlur(4))
    assert found(images) == {"dark": [3], "nearly empty": [5], "blurred": [7]}


def test_a_brighter_copy_is_not_sharper(images: list[Image.Image]) -> None:
    half = [image.point(lambda value: value // 2) for image in images]
    np.testing.assert_allclose(light(half).sharpness, light(images).sharpness, rtol=0.2)


def test_odd_sizes_and_aspect_ratios_are_found(images: list[Image.Image]) -> None:
    height, width = np.full(40, 480.0), np.full(40, 640.0)
    width[1::2] = 600  # no outliers, though most are equal
    height[4], width[4] = 48, 64
    height[6], width[6] = 240, 1280
    unusual = find_unusual(light(images), height, width)
    assert unusual["odd size"] == [(4, 48 * 64.0)]
    assert unusual["odd aspect ratio"] == [(6, 1280 / 240)]


def test_an_image_of_one_pixel_is_measured() -> None:
    assert light_of(np.zeros((2, 3, 1, 1), np.uint8)).sharpness.tolist() == [0, 0]
