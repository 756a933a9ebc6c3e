"""Image files below a folder."""

import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

from PIL import Image

from conf.errors import UserError

# Pillow cannot decode these by itself, or they hold no pixels.
NO_IMAGES = {"EPS", "PDF", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS"}
# Image formats that Pillow cannot read: files of these are reported as unreadable.
UNREAD = {".heic", ".heif", ".jxl", ".svg"}


def folders_in(folder: Path) -> list[tuple[str, str]]:
    """Names and paths of the folders in a folder, sorted by name."""
    return [(entry.name, entry.path) for entry in _entries(str(folder)) if _is_folder(entry)]


def images_below(folder: str) -> Iterator[str]:
    """Every image below a folder, once: of several links to one folder only the first by name is followed, and no link
    to a parent folder."""
    yield from _below(folder, {os.path.realpath(folder)}, os.path.realpath(folder))


def _below(folder: str, visited: set[str], start: str) -> Iterator[str]:
    for entry in _entries(folder):
        if _is_folder(entry):
            real = os.path.realpath(entry.path)
            if real not in visited and not start.startswith(real.rstrip("/") + "/"):
                visited.add(real)
                yield from _below(entry.path, visited, start)
        elif is_image(entry.name):
            yield entry.path


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith((".", "__MACOSX"))]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    return sorted(entries, key=lambda entry: entry.name)


def _is_folder(entry: os.DirEntry[str]) -> bool:
    with suppress(OSError):  # a link to itself
        return entry.is_dir()
    return False


def is_image(name: str) -> bool:
    """Whether a file name has an image suffix."""
    return os.path.splitext(name)[1].lower() in _suffixes()  # noqa: PTH122  # four times as fast as Path


@cache
def _suffixes() -> set[str]:
    Image.preinit()  # first, so that Image.open keeps trying the common formats before the rare ones
    known = Image.registered_extensions()
    return UNREAD | {suffix for suffix, kind in known.items() if kind in Image.OPEN and kind not in NO_IMAGES}
