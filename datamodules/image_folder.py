"""Image folders: one folder per class, optionally below train, val and test."""

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conf.errors import UserError, nearest
from datamodules import checks
from datamodules.image_datamodule import ImageDataModule
from datamodules.splits import Samples, split_of
from datamodules.storage.image_files import folders_in, images_below


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(ImageDataModule):
    """`root/<class>/…` or `root/{train,val,test}/<class>/…`, every image format that Pillow reads, at any depth.
    For task=test, `root/test` is enough. Splits may have other usual names, see `splits.split_of`, and a single folder
    around all of it is skipped.

    Args:
        root: the folder. Names that begin with a dot and files without an image suffix are skipped.
    """

    root: str

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        root = Path(self.root).expanduser()
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise UserError(f"datamodule.root: {root} {problem}; give the folder that holds a folder for each class")
        top = _unwrapped(root)
        folders = _split_folders(top)
        if "train" not in folders and "test" not in folders:
            folders = {"train": top}
        names = [name for name, _ in folders_in(folders.get("train") or folders["test"])]
        if any(split_of(name) for name in names) and folders.get("train") == top:
            fix = "name them train, val and test, or rename the class"
            raise UserError(f"datamodule.root: {top} holds splits but no train; {fix}")
        if len(names) < 2 and "train" in folders:
            raise UserError(f"datamodule.root: {top} holds {len(names)} class folders; put each class into its own")
        return {name: _scan(name, folder, names, root) for name, folder in folders.items()}, names


def _unwrapped(folder: Path) -> Path:
    """The folder that holds more than a single folder of folders, as in archive/dataset/<class>."""
    while True:
        inside = folders_in(folder)
        if len(inside) != 1 or split_of(inside[0][0]) or not folders_in(Path(inside[0][1])):
            return folder
        folder = Path(inside[0][1])


def _split_folders(root: Path) -> dict[str, Path]:
    """The folders of the splits. One without class folders is no split; what is not used beside splits is named.

    Raises:
        UserError: several folders are named like one split.
    """
    splits: dict[str, Path] = {}
    others: list[str] = []
    for name, path in folders_in(root):
        split = split_of(name)
        if split is None or not folders_in(Path(path)):
            others.append(name)
        elif split in splits:
            raise UserError(f"{path}: is named like the split {splits[split].name}; rename or remove one of them")
        else:
            inside = folders_in(Path(path))
            nested = len(inside) == 1 and split_of(inside[0][0]) == split  # seg_train/seg_train/<class>
            splits[split] = Path(inside[0][1] if nested else path)
    if "train" in splits and others:
        checks.warn(f"{root}: not used beside the splits: {', '.join(others)}")
    return splits


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
    above = "" if folder == root else f"{folder.relative_to(root).as_posix()}/"
    return Samples(paths, np.array(labels, np.int64), [above + path[start:] for path in paths])
