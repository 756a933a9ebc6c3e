"""One image file → uint8 CHW, whatever its mode. Needs no torch, so that worker processes start fast.

What each mode becomes, before it is brought to the wanted number of channels:

| mode                        | becomes                                                             |
|-----------------------------|---------------------------------------------------------------------|
| L, RGB                      | itself                                                              |
| 1                           | L: 0 or 255                                                         |
| I;16, I (16-bit grey)       | L: value · 255 / 65535, rounded (torchvision saturates instead)     |
| P                           | the colours of its palette; over white where it has transparency    |
| LA, La, PA, RGBA, RGBa      | L or RGB over white (dropping alpha would show hidden pixels)       |
| CMYK, YCbCr, HSV, LAB       | RGB as Pillow converts it                                           |
| F (floating point)          | refused: its range is unknown                                       |

EXIF rotation is applied. Of an animation the first frame is taken.
"""

import hashlib
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from datamodules.storage.image_header import DAMAGE, EXIF_ORIENTATION, open_image, reason

Resize = Literal["pad", "crop", "stretch"]
SIXTEEN_BIT_MODES = {"I", "I;16", "I;16L", "I;16B", "I;16N"}
ALPHA_MODES = {"LA": "L", "La": "L", "PA": "RGB", "RGBA": "RGB", "RGBa": "RGB"}


class ImageSpec(NamedTuple):
    """What an image is brought to."""

    channels: int
    """1 or 3"""
    size: tuple[int, int]
    """height, width in pixels"""
    resize: Resize
    """For an image of another size: `pad` keeps all of it inside black borders, `crop` fills the size with its centre,
    `stretch` changes its aspect ratio. Bilinear with antialiasing."""
    jpeg_draft: bool
    """Whether a JPEG of at least twice that size is decoded at 1/2, 1/4 or 1/8 of its own, which is faster."""


def decode(item: str | Image.Image, form: ImageSpec) -> np.ndarray | str:
    """The pixels as `to_array` gives them; for a damaged file the reason."""
    try:
        with open_image(item, whole=True) as image:
            if form.jpeg_draft:
                image.draft("", (max(form.size), max(form.size)))  # which other formats pass over
            return to_array(image, form)
    except DAMAGE as error:
        return reason(error)


class Decoded(NamedTuple):
    """Some images, one after another."""

    pixels: np.ndarray
    """uint8 `[N, channels, height, width]`; black where damaged, none where they were written to a file"""
    digests: np.ndarray
    """See `digests`"""
    bad: dict[int, str]
    """The reason at the position of each damaged one"""


def decode_all(items: Sequence[str | Image.Image], form: ImageSpec, latest: float = math.inf) -> Decoded:
    """`decode` for a worker process, to which many images are sent at once. A file changed after `latest`, in seconds
    since 1970, counts as damaged."""
    pixels = np.zeros((len(items), form.channels, *form.size), np.uint8)
    bad = {}
    for i, item in enumerate(items):
        found = decode(item, form)
        if isinstance(found, str):
            bad[i] = found
        elif isinstance(item, str) and latest < math.inf and Path(item).stat().st_mtime > latest:
            bad[i] = "changed while it was in use"
        else:
            pixels[i] = found
    return Decoded(pixels, digests(pixels), bad)


def decode_to(file: Path, form: ImageSpec, task: tuple[int, Sequence[str | Image.Image]]) -> Decoded:
    """`decode_all` for a worker process that writes the pixels into a file itself, from a byte of it on: that process
    and the one that waits for it are spared from packing, sending and unpacking them."""
    start, items = task
    found = decode_all(items, form)
    with open(file, "r+b") as target:
        target.seek(start)
        target.write(found.pixels.data)
    return found._replace(pixels=found.pixels[:0])


def digests(pixels: np.ndarray) -> np.ndarray:
    """A number for the bytes of each sample, uint64 `[N]`: equal for equal samples, else different but by a chance of
    2⁻⁶⁴ a pair."""
    rows = np.ascontiguousarray(pixels).reshape(len(pixels), -1).view(np.uint8)
    found = b"".join(hashlib.blake2b(row, digest_size=8).digest() for row in rows)  # type: ignore[arg-type]
    return np.frombuffer(found, np.uint64)


def to_array(image: Image.Image, form: ImageSpec) -> np.ndarray:
    """The pixels of a PIL image of any mode: uint8 `[channels, height, width]`.

    Raises:
        OSError, ValueError, SyntaxError: the file is damaged or of a refused mode.
    """
    image.load()  # a PNG may name its rotation behind its pixels
    if image.getexif().get(EXIF_ORIENTATION, 1) != 1:
        image = ImageOps.exif_transpose(image)
    image = to_grey_or_rgb(image)
    if (image.height, image.width) != form.size:
        wanted = (form.size[1], form.size[0])
        if form.resize == "pad":
            image = _pad(image, wanted)
        elif form.resize == "crop":
            image = ImageOps.fit(image, wanted, Image.Resampling.BILINEAR)
        else:
            image = image.resize(wanted, Image.Resampling.BILINEAR)
    mode = "L" if form.channels == 1 else "RGB"
    array = np.asarray(image if image.mode == mode else image.convert(mode))
    return array[None] if form.channels == 1 else array.transpose(2, 0, 1)  # [H, W, C] → [C, H, W]


def _pad(image: Image.Image, wanted: tuple[int, int]) -> Image.Image:
    """All of an image in the middle of (width, height). Pillow's own leaves nothing of a very long one."""
    scale = min(side / own for side, own in zip(wanted, image.size, strict=True))
    inner = [max(1, round(own * scale)) for own in image.size]
    whole = Image.new(image.mode, wanted)
    corner = [round((side - kept) / 2) for side, kept in zip(wanted, inner, strict=True)]
    whole.paste(image.resize((inner[0], inner[1]), Image.Resampling.BILINEAR), (corner[0], corner[1]))
    return whole


def to_grey_or_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as mode L or RGB, by the table above."""
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
        opaque = ALPHA_MODES[mode]
        layer = image.convert("LA" if opaque == "L" else "RGBA")
        white = Image.new(opaque, image.size, "white")
        white.paste(layer.convert(opaque), mask=layer.getchannel("A"))
        return white
    return image.convert("L" if mode == "1" else "RGB")
