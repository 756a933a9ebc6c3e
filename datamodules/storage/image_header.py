"""Format, mode and size of image files, read without decoding pixels."""

import warnings
from collections.abc import Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from datamodules.storage.stored_file import StoredFile, fetch, size_of

GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16L", "I;16B", "I;16N"}
EXIF_ORIENTATION = 0x0112
# The exceptions that Pillow raises for unreadable files.
READ_ERRORS = (OSError, ValueError, SyntaxError, EOFError, RuntimeError, Image.DecompressionBombError)
# Pillow warns of images between one and two times its pixel limit, which are valid, and refuses larger ones.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
# Pillow cannot decode these by itself, or they hold no pixels. For EPS it starts Ghostscript on the file's program.
NO_IMAGES = {"EPS", "PDF", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS"}
DEFAULT_SIDE = 224
# Bytes. Of a larger file, such as a stack of frames, Pillow may need only a part.
MAX_PREREAD_BYTES = 32 * 2**20


class ImageHeader(NamedTuple):
    """Format, mode and size of an image."""

    format: str | None
    """Pillow's name of the file format, such as PNG; None for an image in memory"""
    mode: str
    """Pillow's mode, such as RGB"""
    grey: bool
    """Whether the mode, or the palette, holds grey levels only"""
    height: int
    """In pixels, after EXIF rotation"""
    width: int


# An image: its path, a file inside an archive, or itself.
Item = str | StoredFile | Image.Image


def open_image(item: Item, *, whole: bool = False) -> Image.Image:
    """Opens an image file without decoding its pixels.

    Returns an image in memory unchanged.

    Args:
        whole: read files of up to 32 MiB into memory first, from where Pillow decodes faster.
    """
    if isinstance(item, Image.Image):
        return item
    if not isinstance(item, str):
        stored = item.read_bytes()
        if not stored:
            raise OSError("the file is empty")
        return Image.open(BytesIO(stored), formats=image_formats())
    path = Path(item)
    size = size_of(path)
    if size == 0:
        raise OSError("the file is empty")
    source = BytesIO(path.read_bytes()) if whole and size <= MAX_PREREAD_BYTES else path
    return Image.open(source, formats=image_formats())


@cache
def image_formats() -> list[str]:
    """Pillow's names of the formats that are read, whatever a file's suffix; the common ones, which are tried first."""
    Image.preinit()
    common = list(Image.ID)
    Image.init()
    return [name for name in dict.fromkeys((*common, *Image.ID)) if name not in NO_IMAGES]


def content(item: Item) -> bytes | None:
    """The bytes of an image file; None for an image in memory."""
    if isinstance(item, Image.Image):
        return None
    return Path(item).read_bytes() if isinstance(item, str) else item.read_bytes()


def read_header(item: Item) -> ImageHeader | str:
    """The header of an image, or the reason why it is unreadable."""
    try:
        with open_image(item) as image:
            return header_of(image)
    except READ_ERRORS as error:
        return reason(error)


def read_headers(items: Sequence[Item]) -> list[ImageHeader | str]:
    """Reads the headers of a batch of items."""
    return [read_header(item) for item in fetch(items)]


def header_of(image: Image.Image) -> ImageHeader:
    """The header of an open image."""
    width, height = image.size
    # getexif() of a PNG without EXIF data would decode all pixels.
    exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
    if exif.get(EXIF_ORIENTATION, 1) >= 5:  # 5 to 8 rotate by 90 degrees
        width, height = height, width
    grey = image.mode in GREY_MODES or (image.mode == "P" and _has_grey_palette(image))
    return ImageHeader(image.format, image.mode, grey, height, width)


def _has_grey_palette(image: Image.Image) -> bool:
    colours = np.array(image.getpalette("RGB")).reshape(-1, 3)
    return "transparency" not in image.info and bool((colours == colours[:, :1]).all())


def common_size(headers: list[ImageHeader], max_size: int) -> tuple[int, int]:
    """(height, width) to resize images to where the user gives none.

    The size of the images if all have the same one of at most `max_size` pixels a side. Otherwise a square of the
    median shorter side, of at most 224 and at most `max_size` pixels.
    """
    sizes = {(header.height, header.width) for header in headers}
    if len(sizes) == 1 and max(next(iter(sizes))) <= max_size:
        return sizes.pop()
    if not headers:  # all files are unreadable, which is reported later
        return min(DEFAULT_SIDE, max_size), min(DEFAULT_SIDE, max_size)
    shorter_sides = [min(header.height, header.width) for header in headers]
    side = min(DEFAULT_SIDE, max_size, int(np.median(shorter_sides)))
    return side, side


def reason(error: BaseException) -> str:
    """Why a file is unreadable: one line without its path."""
    if isinstance(error, UnidentifiedImageError):
        return "not an image that Pillow reads"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return (str(error).splitlines() or [type(error).__name__])[0]
