"""Image folders: one folder per class, optionally below train, val and test."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conf.errors import UserError, nearest
from datamodules.image_datamodule import ImageDataModule
from datamodules.splits import SPLIT_NAMES, SPLIT_WORDS, Samples
from datamodules.storage.image_files import folders_in, images_below


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(ImageDataModule):
    """`root/<class>/…` or `root/{train,val,test}/<class>/…`, every image format that Pillow reads, at any depth.
    For task=test, `root/test` is enough.

    Args:
        root: the folder. Names that begin with a dot and files without an image suffix are skipped.
    """

    root: str

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        root = Path(self.root).expanduser()
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise UserError(f"datamodule.root: {root} {problem}; give the folder that holds a folder for each class")
        folders = {name: _first_folder(root, names) for name, names in SPLIT_NAMES.items()}
        if folders["train"] is None and folders["test"] is None:
            folders = {"train": root}
        names = [name for name, _ in folders_in(folders["train"] or folders["test"] or root)]
        if any(name.lower() in SPLIT_WORDS for name in names):
            raise UserError(f"datamodule.root: {root} holds splits but no train; name them train, val and test")
        if len(names) < 2 and folders["train"]:
            raise UserError(f"datamodule.root: {root} holds {len(names)} class folders; put each class into its own")
        splits = {name: _scan(name, folder, names, root) for name, folder in folders.items() if folder is not None}
        return splits, names


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _scan(split: str, folder: Path, class_names: list[str], root: Path) -> Samples:
    """The images of a split, sorted by path, labelled by the classes of the training split."""
    paths: list[str] = []
    labels: list[int] = []
    folders = folders_in(folder)
    if not folders:
        raise UserError(f"{folder}: holds no class folder; put each class into its own folder, or remove it")
    for name, class_folder in folders:
        if name not in class_names:
            hint = nearest(name, class_names)
            raise UserError(f"{class_folder}: the training split has no class of that name; {hint}")
        class_paths = sorted(images_below(class_folder))
        if not class_paths and split == "train":
            raise UserError(f"{class_folder}: contains no images; add some or remove the folder")
        paths += class_paths
        labels += [class_names.index(name)] * len(class_paths)
    if not paths:
        raise UserError(f"{folder}: contains no images; add some or remove the folder")
    start = len(os.path.join(folder, ""))  # noqa: PTH118  # of `.` and `/` too
    above = "" if folder == root else f"{folder.name}/"
    return Samples(paths, np.array(labels, np.int64), [above + path[start:] for path in paths])
