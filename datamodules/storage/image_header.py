"""What the header of an image file tells: format, mode, size. Decodes no pixels."""

import warnings
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
EXIF_ORIENTATION = 0x0112
# What Pillow raises for files that it cannot read.
DAMAGE = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)
# Between its limit of pixels and twice that, from where on it refuses, Pillow warns; the image is sound.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
LARGEST_FIXED_SIZE = 256
# Bytes. Of what is larger, as a stack of frames is, most may not be needed.
ORDINARY_FILE = 32 * 2**20
DEFAULT_SIDE = 224


class Probe(NamedTuple):
    """What the header of an image tells."""

    grey: bool
    height: int
    width: int


def open_image(item: str | Image.Image, *, whole: bool = False) -> Image.Image:
    """Opens an image file, whose pixels are decoded later; an image in memory is itself.

    Args:
        whole: whether to read a file of ordinary size at once, from which Pillow decodes faster.
    """
    if isinstance(item, Image.Image):
        return item
    path = Path(item)
    if (size := path.stat().st_size) == 0:
        raise OSError("the file is empty")
    return Image.open(BytesIO(path.read_bytes()) if whole and size <= ORDINARY_FILE else path)


def probe(item: str | Image.Image) -> Probe | str:
    """Colour and size, after EXIF rotation, from the header alone where the format allows; if damaged, the reason."""
    try:
        with open_image(item) as image:
            return _probe(image)
    except DAMAGE as error:
        return reason(error)


def probe_all(items: Sequence[str | Image.Image]) -> list[Probe | str]:
    """`probe` for a worker process, to which many images are sent at once."""
    return [probe(item) for item in items]


class Header(NamedTuple):
    """What an image file is, before anything is done to it but EXIF rotation."""

    format: str | None
    """As Pillow calls it; None of an image in memory"""
    mode: str
    height: int
    width: int


def headers(items: Sequence[str | Image.Image]) -> list[Header | None]:
    """What many images are; None for those whose header cannot be read."""
    found: list[Header | None] = []
    for item in items:
        try:
            with open_image(item) as image:
                size = _probe(image)
                found.append(Header(image.format, image.mode, size.height, size.width))
        except DAMAGE:
            found.append(None)
    return found


def reason(error: BaseException) -> str:
    """Why a file could not be read, without its path, in one line."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0]


def _probe(image: Image.Image) -> Probe:
    width, height = image.size
    # Asking a PNG without EXIF for it would read all pixels.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    if exif.get(EXIF_ORIENTATION, 1) >= 5:  # 5 to 8 turn by 90 degrees
        width, height = height, width
    grey = image.mode in GREY_MODES or (image.mode == "P" and _grey_palette(image))
    return Probe(grey, height, width)


def common_size(probes: list[Probe]) -> tuple[int, int]:
    """The size images are brought to when the user names none: their own if they share one of at most 256 pixels a
    side, else a square of the median shorter side, of at most 224."""
    sizes = {(item.height, item.width) for item in probes}
    if len(sizes) == 1 and max(next(iter(sizes))) <= LARGEST_FIXED_SIZE:
        return sizes.pop()
    shorter = [min(item.height, item.width) for item in probes] or [DEFAULT_SIDE]  # none: what is damaged is said later
    side = min(DEFAULT_SIDE, int(np.median(shorter)))
    return side, side


def _grey_palette(image: Image.Image) -> bool:
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return "transparency" not in image.info and bool((colours == colours[:, :1]).all())
