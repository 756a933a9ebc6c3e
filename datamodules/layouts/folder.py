"""Folders of files, on disk or inside an archive, and which of their files are images."""

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Protocol

from PIL import Image

from conf.errors import UserError
from datamodules.storage.image_header import image_formats

# Image formats that Pillow cannot read: files of these are reported as unreadable.
UNREAD = {".heic", ".heif", ".jxl", ".svg"}
# Prefixes of hidden and system files.
HIDDEN = (".", "__MACOSX")
SYSTEM_FILES = {"thumbs.db", "desktop.ini"}
# Folders within folders that are followed.
MAX_DEPTH = 64

# What is decoded: a path, or a `StoredFile`.
Item = Any
IsSample = Callable[[str], bool]


class Folder(Protocol):
    """A folder of files. Hidden files are not in it."""

    path: str
    """Where it is, for messages"""
    name: str

    @property
    def folders(self) -> "list[Folder]":
        """Sorted by name."""

    @property
    def files(self) -> dict[str, Item]:
        """By name, sorted."""

    def walk(self) -> Iterator[tuple[str, Item]]:
        """Relative path and item of each file below, in any order."""


class DiskFolder:
    """A folder on disk."""

    def __init__(self, path: str | Path) -> None:
        self.path = str(path)
        self.name = Path(path).name

    @cached_property
    def _scanned(self) -> tuple[list[os.DirEntry[str]], list[os.DirEntry[str]]]:
        """Folders and files."""
        entries = _entries(self.path)
        folders = [entry for entry in entries if _is_folder(entry)]
        return folders, [entry for entry in entries if not _is_folder(entry)]

    @cached_property
    def folders(self) -> list[Folder]:
        return [DiskFolder(entry.path) for entry in self._scanned[0]]

    @property
    def files(self) -> dict[str, Item]:
        return {entry.name: entry.path for entry in self._scanned[1]}

    def walk(self) -> Iterator[tuple[str, Item]]:
        """Each file once: of several links to one folder only the first by name is followed, and no link to a parent
        folder."""
        start = len(os.path.join(self.path, ""))  # noqa: PTH118  # of `.` and `/` too
        real = os.path.realpath(self.path)
        for path in _files_below(self.path, {real}, real, 0):
            yield path[start:], path


class StoredFolder:
    """A folder inside an archive or an object store.

    Args:
        path: see `Folder`.
        entries: relative path and item of each file.
    """

    def __init__(self, path: str, entries: Iterable[tuple[str, Item]] = ()) -> None:
        self.path = path
        self.name = Path(path).name
        self._folders: dict[str, StoredFolder] = {}
        self._files: dict[str, Item] = {}
        for name, item in entries:
            self.add(name, item)

    def add(self, path: str, item: Item) -> None:
        """Adds a file, and the folders above it.

        Raises:
            UserError: these are too many.
        """
        folder = self
        *above, name = path.split("/")
        if any(part.startswith(HIDDEN) for part in (*above, name)) or name.lower() in SYSTEM_FILES:
            return
        _check_depth(self.path, len(above))
        for part in above:
            if part not in folder._folders:
                folder._folders[part] = StoredFolder(f"{folder.path}/{part}")
            folder = folder._folders[part]
        folder._files[name] = item

    @property
    def folders(self) -> list[Folder]:
        return [self._folders[name] for name in sorted(self._folders)]

    @property
    def files(self) -> dict[str, Item]:
        return dict(sorted(self._files.items()))

    def walk(self) -> Iterator[tuple[str, Item]]:
        yield from self._files.items()
        for name, folder in self._folders.items():
            for path, item in folder.walk():
                yield f"{name}/{path}", item


def _check_depth(path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        raise UserError(f"{path}: holds more than {MAX_DEPTH} folders within each other; move its images up")


def _files_below(folder: str, visited: set[str], start: str, depth: int) -> Iterator[str]:
    _check_depth(start, depth)
    for entry in _entries(folder):
        if not _is_folder(entry):
            yield entry.path
            continue
        real = os.path.realpath(entry.path)
        if real not in visited and not start.startswith(real.rstrip("/") + "/"):
            visited.add(real)
            yield from _files_below(entry.path, visited, start, depth + 1)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as scanned:
            entries = [entry for entry in scanned if not entry.name.startswith(HIDDEN)]
    except OSError as error:
        raise UserError(f"{folder}: cannot be listed ({error.strerror}); check its permissions") from error
    entries = [entry for entry in entries if entry.name.lower() not in SYSTEM_FILES]
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
    formats = image_formats()  # first, as registered_extensions loads the rare ones before the common ones
    return UNREAD | {suffix for suffix, kind in Image.registered_extensions().items() if kind in formats}
