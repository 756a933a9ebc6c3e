"""Finds the images that a table names, which may be without a suffix or in another folder."""

import os
from pathlib import PurePath

from conf.errors import UserError
from datamodules.layouts.folder import DiskFolder, Folder, Item, is_image
from datamodules.splits import split_of
from datamodules.storage.stored_file import Missing

# Of a folder beside the table's: meta/train.txt and images/.
SIBLINGS = ("images", "imgs", "jpegs")


class ImageFinder:
    """Finds images by their path, or if none of the first ones is there, by the end of a path, without its suffix too.

    Args:
        folder: of the table.
        image_dir: where the images are, relative to it; None: in the folder or below it.
        first_names: of the table's first rows.

    Raises:
        UserError: `image_dir` is not a folder.
    """

    def __init__(self, folder: Folder, image_dir: str | None, first_names: list[str]) -> None:
        self._on_disk = isinstance(folder, DiskFolder)
        self._base = folder.path
        self._by_stem: dict[str, list[tuple[str, Item]]] | None = None  # of all images, where they are searched
        prefix = f"{image_dir.strip('./')}/" if image_dir else ""
        if self._on_disk:
            path = os.path.join(folder.path, os.path.expanduser(image_dir or ""))  # noqa: PTH111, PTH118
            self._base, prefix = os.path.abspath(path), ""  # noqa: PTH100
            if not os.path.isdir(self._base):  # noqa: PTH112
                fix = "give it relative to the table's folder"
                raise UserError(f"datamodule.image_dir: {self._base} is not a folder; {fix}")
            if any(os.path.lexists(self._path(name)) for name in first_names):
                return
            folder = _with_images(DiskFolder(self._base))
        self._by_stem = {}
        for path, item in folder.walk():
            if is_image(path) and path.startswith(prefix):
                self._by_stem.setdefault(PurePath(path).stem, []).append((path, item))

    def find(self, where: str, name: str, split: str | None) -> Item:
        """The image of a name.

        Args:
            where: the row, for messages.
            split: of the row; decides between folders of train and test images.

        Raises:
            UserError: several may be meant.
        """
        path = self._path(name)
        if self._by_stem is None or (self._on_disk and os.path.lexists(path)):
            return path
        wanted = name.strip().replace("\\", "/").removeprefix("./")
        stem = PurePath(wanted).stem if is_image(wanted) else PurePath(wanted).name
        matches = [(path, item) for path, item in self._by_stem.get(stem, []) if _ends_with(path, wanted)]
        if len(matches) > 1:
            of_split = [match for match in matches if split in map(split_of, PurePath(match[0]).parts[:-1])]
            matches = of_split or matches
        if len(matches) > 1:
            shown = " or ".join(path for path, _ in matches[:2])
            fix = f"choose by datamodule.image_dir={PurePath(matches[0][0]).parent}"
            raise UserError(f"{where}: '{name}' may be {shown}; {fix}")
        if matches:
            return matches[0][1]
        return path if self._on_disk else Missing(f"{self._base}/{name}")

    def _path(self, name: str) -> str:
        """A path on disk; backslashes are those of Windows unless a file has them in its name."""
        path = os.path.join(self._base, os.path.expanduser(name))  # noqa: PTH111, PTH118  # faster than Path
        return path.replace("\\", "/") if "\\" in name and not os.path.lexists(path) else path


def _with_images(folder: DiskFolder) -> Folder:
    """The folder that holds the images: this one, or a sibling called images."""
    if any(is_image(path) for path, _ in folder.walk()):
        return folder
    siblings = DiskFolder(os.path.dirname(folder.path)).folders  # noqa: PTH120
    return next((sibling for sibling in siblings if sibling.name.lower() in SIBLINGS), folder)


def _ends_with(path: str, wanted: str) -> bool:
    """Whether a path, or the path without its suffix, ends with whole components of another one."""
    without_suffix = os.path.splitext(path)[0]  # noqa: PTH122
    return any(f"/{whole}".endswith(f"/{wanted}") for whole in (path, without_suffix))
