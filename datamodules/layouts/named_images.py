"""Finds the images that a table names, which may be without a suffix or in another folder."""

import os
from collections.abc import Callable
from pathlib import PurePath

from conf.errors import UserError
from datamodules.layouts.folder import DiskFolder, Folder, Item, is_image
from datamodules.splits import split_of
from datamodules.storage.stored_file import Missing

# (where, name, split of the row) → the image.
ImageFinder = Callable[[str, str, str | None], Item]


def image_finder(folder: Folder, image_dir: str | None) -> ImageFinder:
    """The function that finds the images of a table.

    Args:
        folder: of the table.
        image_dir: where the images are, relative to it.
    """
    if not isinstance(folder, DiskFolder):
        return _searched(folder, image_dir)
    base = os.path.abspath(os.path.join(folder.path, os.path.expanduser(image_dir or "")))  # noqa: PTH100, PTH111, PTH118
    if image_dir and not os.path.isdir(base):  # noqa: PTH112
        raise UserError(f"datamodule.image_dir: {base} is not a folder; give it relative to the table's folder")
    search: ImageFinder | None = None
    is_first = True

    def find(where: str, name: str, split: str | None) -> Item:
        nonlocal search, is_first
        if search:
            return search(where, name, split)
        path = os.path.join(base, os.path.expanduser(name))  # noqa: PTH111, PTH118  # faster than Path
        if "\\" in name and not os.path.lexists(path):
            path = path.replace("\\", "/")
        if is_first and not os.path.lexists(path):
            search = _searched(_with_images(DiskFolder(base)), None)
            return search(where, name, split)
        is_first = False
        return path

    return find


def _with_images(folder: DiskFolder) -> Folder:
    """The folder, or one beside it, as in meta/train.txt and images/."""
    if any(is_image(path) for path, _ in folder.walk()):
        return folder
    above = DiskFolder(os.path.dirname(folder.path))  # noqa: PTH120
    return next((inner for inner in above.folders if inner.name.lower() in ("images", "imgs", "jpegs")), folder)


def _searched(folder: Folder, image_dir: str | None) -> ImageFinder:
    """Finds images by the end of their path, with or without its suffix."""
    by_stem: dict[str, list[tuple[str, Item]]] = {}
    for path, item in folder.walk():
        if is_image(path) and (image_dir is None or path.startswith(f"{image_dir.strip('./')}/")):
            by_stem.setdefault(PurePath(path).stem, []).append((path, item))

    def find(where: str, name: str, split: str | None) -> Item:
        wanted = name.replace("\\", "/").removeprefix("./")
        stem = PurePath(wanted).stem if is_image(wanted) else PurePath(wanted).name
        matches = [(path, item) for path, item in by_stem.get(stem, []) if _names(wanted, path)]
        if len(matches) > 1:
            of_split = [match for match in matches if split in map(split_of, PurePath(match[0]).parts[:-1])]
            matches = of_split or matches
        if len(matches) > 1:
            shown = " or ".join(path for path, _ in matches[:2])
            folders = PurePath(matches[0][0]).parent
            raise UserError(f"{where}: '{name}' may be {shown}; choose by datamodule.image_dir={folders}")
        if matches:
            return matches[0][1]
        path = os.path.join(folder.path, os.path.expanduser(wanted))  # noqa: PTH111, PTH118
        return path if isinstance(folder, DiskFolder) else Missing(path)

    return find


def _names(wanted: str, path: str) -> bool:
    """Whether a path ends with the wanted one, with or without its suffix."""
    without_suffix = str(PurePath(path).with_suffix(""))
    return any(f"/{whole}".endswith(f"/{wanted}") for whole in (path, without_suffix))
