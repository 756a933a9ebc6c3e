"""A folder of pictures, one folder a class, with or without train, val and test above them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from conf.errors import UserError, nearest
from datamodules.image_datamodule import ImageDataModule
from datamodules.store import Pictures

SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
SPLIT_WORDS = {word for words in SPLIT_NAMES.values() for word in words}


@dataclass(kw_only=True, eq=False, repr=False)
class ImageFolderDataModule(ImageDataModule):
    """`root/<class>/…` or `root/{train,val,test}/<class>/…`, every picture format that Pillow reads, at any depth.
    To be tested on, `root/test` is enough.

    Args:
        root: the folder. Names that begin with a dot are passed over, and so are files without a picture's suffix.
    """

    root: str

    def read(self) -> tuple[dict[str, Pictures], list[str]]:
        root = Path(self.root).expanduser()
        if not root.is_dir():
            problem = "is not a folder" if root.exists() else "does not exist"
            raise UserError(f"datamodule.root: {root} {problem}; give the folder that holds a folder for each class")
        folders = {name: _first_folder(root, names) for name, names in SPLIT_NAMES.items()}
        if folders["train"] is None and folders["test"] is None:
            folders = {"train": root}
        names = [folder.name for folder in _folders(folders["train"] or folders["test"] or root)]
        if any(name.lower() in SPLIT_WORDS for name in names):
            raise UserError(f"datamodule.root: {root} holds splits but no train; name them train, val and test")
        if len(names) < 2 and folders["train"]:
            raise UserError(f"datamodule.root: {root} holds {len(names)} class folders; put each class into its own")
        splits = {name: _scan(name, folder, names, root) for name, folder in folders.items() if folder is not None}
        return splits, names


def _first_folder(root: Path, names: tuple[str, ...]) -> Path | None:
    return next((root / name for name in names if (root / name).is_dir()), None)


def _folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))


def _scan(split: str, folder: Path, class_names: list[str], root: Path) -> Pictures:
    """The pictures of a split in the order of their names, labelled by the classes of the training split."""
    paths: list[Path] = []
    labels: list[int] = []
    for class_folder in _folders(folder):
        if class_folder.name not in class_names:
            hint = nearest(class_folder.name, class_names)
            raise UserError(f"{class_folder}: the training split has no class of that name; {hint}")
        found = sorted(pictures_below(class_folder, set()))
        if not found and split == "train":
            raise UserError(f"{class_folder}: holds no picture; fill or remove it")
        paths += found
        labels += [class_names.index(class_folder.name)] * len(found)
    if not paths:
        raise UserError(f"{folder}: holds no picture; fill or remove it")
    return Pictures(paths, np.array(labels, np.int64), [str(path.relative_to(root)) for path in paths])


def pictures_below(folder: Path, visited: set[Path]) -> Iterator[Path]:
    """Every picture below a folder, once: a link that leads back is not followed."""
    real = folder.resolve()
    if real in visited:
        return
    visited.add(real)
    for path in folder.iterdir():
        if path.name.startswith("."):
            continue
        if path.is_dir():
            yield from pictures_below(path, visited)
        elif path.suffix.lower() in Image.registered_extensions():
            yield path
