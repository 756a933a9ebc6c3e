"""Headers agree with the decoded pixels; the default size of mixed images."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from datamodules.storage.decode import ImageSpec, decode
from datamodules.storage.image_header import ImageHeader, common_size, read_header, read_headers
from tests.datamodules.images import FOUR_COLOURS, HEIGHT, UPRIGHT, WIDTH, noise, palette_image, palette_pixels


def header(height: int, width: int) -> ImageHeader:
    return ImageHeader("PNG", "RGB", False, height, width)


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_size_is_that_after_exif_rotation(tmp_path: Path, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise(1)).save(tmp_path / "a.png", exif=exif)
    assert read_header(tmp_path / "a.png") == ImageHeader("PNG", "L", True, *UPRIGHT[orientation](noise(1)).shape)


def test_unreadable_items_give_reasons_among_headers(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    headers = read_headers([Image.fromarray(noise(3)), str(tmp_path / "a.png")])
    assert headers == [ImageHeader(None, "RGB", False, HEIGHT, WIDTH), "the file is empty"]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "I;16", "I", "RGB", "RGBA", "CMYK", "P"])
def test_header_agrees_with_the_decoded_pixels(tmp_path: Path, mode: str) -> None:
    if mode == "P":
        image = palette_image(FOUR_COLOURS)
    elif mode in ("I;16", "I"):
        image = Image.fromarray(noise(1).astype(np.uint16 if mode == "I;16" else np.int32) * 200)
    else:
        image = Image.fromarray(noise(3)).convert(mode)
    path = tmp_path / ("a.tif" if mode in ("CMYK", "I") else "a.png")
    image.save(path)
    header = read_header(path)
    assert isinstance(header, ImageHeader)
    assert header.mode == mode
    pixels = decode(path, ImageSpec(3, (header.height, header.width), "pad", False))
    assert pixels.shape == (3, HEIGHT, WIDTH)
    assert header.grey == bool((pixels == pixels[0]).all())


@pytest.mark.parametrize("suffix", ["png", "bmp", "gif", "tif", "tga"])
@pytest.mark.parametrize("grey", [False, True])
def test_header_tells_whether_a_palette_is_grey(tmp_path: Path, suffix: str, grey: bool) -> None:
    colours = [(level, level, level) for level in (10, 250, 90)] if grey else FOUR_COLOURS
    palette_image(colours).save(tmp_path / f"a.{suffix}")
    with Image.open(tmp_path / f"a.{suffix}") as image:
        pixels = np.asarray(image.convert("RGB"))
    assert np.array_equal(pixels, palette_pixels(colours))
    header = read_header(tmp_path / f"a.{suffix}")
    assert isinstance(header, ImageHeader)
    assert (header.mode, header.grey, header.height, header.width) == ("P", grey, HEIGHT, WIDTH)


def test_common_small_size_is_kept() -> None:
    assert common_size([header(28, 30)] * 3, 256) == (28, 30)
    assert common_size([header(256, 100)], 256) == (256, 100)


def test_large_or_mixed_sizes_become_a_square_of_the_median() -> None:
    assert common_size([header(257, 100)], 256) == (100, 100)
    assert common_size([header(40, 90), header(70, 60), header(50, 500)], 256) == (50, 50)
    large = [header(4000, 3000)] * 2 + [header(30, 40)]
    assert common_size(large, 256) == (224, 224)
    assert common_size(large, 96) == common_size([header(128, 128)], 96) == (96, 96)


def test_common_size_without_a_readable_image_is_224() -> None:
    assert common_size([], 256) == (224, 224)
