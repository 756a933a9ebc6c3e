"""Decodes image files to uint8 CHW arrays. Imports no torch, so that workers start fast.

Conversion by mode, before the conversion to 1 or 3 channels:

| mode                        | converted to                                                        |
|-----------------------------|---------------------------------------------------------------------|
| L, RGB                      | unchanged                                                           |
| 1                           | L: 0 or 255                                                         |
| I;16, I (16-bit grey)       | L: value · 255 / 65535, rounded (torchvision saturates instead)     |
| P                           | the colours of its palette; over white where it has transparency    |
| LA, La, PA, RGBA, RGBa      | L or RGB over white (dropping alpha would show hidden pixels)       |
| CMYK, YCbCr, HSV, LAB       | RGB as Pillow converts it                                           |
| F (floating point)          | rejected: its range is unknown                                      |

EXIF rotation is applied. The first frame of an animation is decoded.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from datamodules.storage.image_header import EXIF_ORIENTATION, READ_ERRORS, Item, open_image, reason
from datamodules.storage.stored_file import fetch

Resize = Literal["pad", "crop", "stretch"]
Interpolation = Literal["bilinear", "bicubic"]
FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
SIXTEEN_BIT_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
ALPHA_MODES = {"LA": "L", "La": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}


class ImageSpec(NamedTuple):
    """Channels, size and resizing of decoded images."""

    channels: int
    """1 or 3"""
    size: tuple[int, int]
    """(height, width) in pixels"""
    resize: Resize
    """How an image of another size is resized: `pad` keeps all of it inside black borders, `crop` fills the size with
    its centre, `stretch` changes its aspect ratio."""
    jpeg_draft: bool
    """Decode a JPEG of at least twice that size at 1/2, 1/4 or 1/8 of its resolution, which is faster."""
    interpolation: Interpolation = "bilinear"
    """With antialiasing"""


def decode(item: Item, spec: ImageSpec) -> np.ndarray | str:
    """The pixels (see `to_array`), or the reason why the file is unreadable."""
    try:
        with open_image(item, whole=True) as image:
            if spec.jpeg_draft:
                image.draft("", (max(spec.size), max(spec.size)))  # ignored by other formats
            return to_array(image, spec)
    except READ_ERRORS as error:
        return reason(error)


class Decoded(NamedTuple):
    """A batch of decoded images."""

    pixels: np.ndarray
    """uint8 `[N, channels, height, width]`, black for unreadable images; N = 0 if written to a file"""
    digests: np.ndarray
    """uint64 `[N]`, see `digests`"""
    bad: dict[int, str]
    """Position of each unreadable image → the reason"""


def decode_all(items: Sequence[Item], spec: ImageSpec) -> Decoded:
    """Decodes a batch of items."""
    pixels = np.zeros((len(items), spec.channels, *spec.size), np.uint8)
    bad = {}
    for i, item in enumerate(fetch(items)):
        decoded = decode(item, spec)
        if isinstance(decoded, str):
            bad[i] = decoded
        else:
            pixels[i] = decoded
    return Decoded(pixels, digests(pixels), bad)


def decode_to(file: Path, spec: ImageSpec, task: tuple[int, Sequence[Item]]) -> Decoded:
    """`decode_all` that writes the pixels into a file.

    They need not be sent between processes then.

    Args:
        task: the offset in the file, in bytes, and the items.
    """
    start, items = task
    decoded = decode_all(items, spec)
    with open(file, "r+b") as target:
        target.seek(start)
        target.write(decoded.pixels.data)
    return decoded._replace(pixels=decoded.pixels[:0])


def digests(pixels: np.ndarray) -> np.ndarray:
    """64-bit BLAKE2b digest of each sample, uint64 `[N]`."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    joined = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)  # type: ignore[arg-type]
    return np.frombuffer(joined, np.uint64)


def to_array(image: Image.Image, spec: ImageSpec) -> np.ndarray:
    """Converts a PIL image of any mode: uint8 `[channels, height, width]`.

    Raises:
        OSError, ValueError, SyntaxError: the file is corrupt or its mode is not supported.
    """
    image.load()  # a PNG may store its EXIF data after the pixels
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image = to_grey_or_rgb(image)
    if (image.height, image.width) != spec.size:
        width_height = (spec.size[1], spec.size[0])
        resample = FILTERS[spec.interpolation]
        if spec.resize == "pad":
            image = _pad(image, width_height, resample)
        elif spec.resize == "crop":
            image = ImageOps.fit(image, width_height, resample)
        else:
            image = image.resize(width_height, resample)
    mode = "L" if spec.channels == 1 else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array[None] if spec.channels == 1 else array.transpose(2, 0, 1)  # [H, W, C] → [C, H, W]


def _pad(image: Image.Image, size: tuple[int, int], resample: Image.Resampling) -> Image.Image:
    """Fits an image into (width, height), centred. Unlike ImageOps.pad, keeps at least one pixel of each side."""
    scale = min(size[0] / image.width, size[1] / image.height)
    width = max(1, round(image.width * scale))
    height = max(1, round(image.height * scale))
    padded = Image.new(image.mode, size)
    left_top = (round((size[0] - width) / 2), round((size[1] - height) / 2))
    padded.paste(image.resize((width, height), resample), left_top)
    return padded


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """Converts an image to mode L or RGB by the table above."""
    mode = image.mode
    if mode in ("L", "RGB"):
        return image
    if mode in SIXTEEN_BIT_MODES:
        values = np.asarray(image).astype(np.int64)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError(f"mode {mode} with values outside 0 … 65535")
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if mode == "F":
        raise ValueError("mode F: the range of floating-point pixels is unknown")
    if mode == "P" and "transparency" in image.info:
        image, mode = image.convert("RGBA"), "RGBA"
    if mode in ALPHA_MODES:
        opaque_mode = ALPHA_MODES[mode]
        layer = image.convert("LA" if opaque_mode == "L" else "RGBA")
        composite = Image.new(opaque_mode, image.size, "white")
        composite.paste(layer.convert(opaque_mode), mask=layer.getchannel("A"))
        return composite
    return image.convert("L" if mode == "1" else "RGB")
