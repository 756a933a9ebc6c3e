"""Header, size and camera of image files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from datamodules.storage.image_header import READ_ERRORS, ImageHeader, Item, header_of, open_image, reason
from datamodules.storage.stored_file import fetch, size_of

EXIF_MAKE, EXIF_MODEL = 0x010F, 0x0110


class ImageFile(NamedTuple):
    """An image file without its pixels."""

    header: ImageHeader
    size: int
    """In bytes; 0 for an image in memory"""
    camera: str
    """Make and model of the EXIF data; empty without"""


def read_image_files(items: Sequence[Item]) -> list[ImageFile | str]:
    """Reads a batch of items; the reason in the place of an unreadable one."""
    return [_read(item) for item in fetch(items)]


def _read(item: Item) -> ImageFile | str:
    try:
        with open_image(item) as image:
            header = header_of(image)
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}  # see `header_of`
            camera = " ".join(str(exif[tag]) for tag in (EXIF_MAKE, EXIF_MODEL) if tag in exif)
        return ImageFile(header, _size(item), camera)
    except READ_ERRORS as error:
        return reason(error)


def _size(item: Item) -> int:
    if isinstance(item, Image.Image):
        return 0
    return size_of(Path(item)) if isinstance(item, str) else len(item.read_bytes())
