"""Classification datasets of torchvision by name: CIFAR10, MNIST, Flowers102, …"""

import inspect
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torchvision
from PIL import Image

from conf.errors import UserError, nearest
from conf.files import file_lock, make_output
from datamodules.image_datamodule import ImageDataModule
from datamodules.splits import Samples

# How torchvision's constructors call their splits.
SPLIT_WORDS = {"train": ("train", "trainval"), "val": ("val", "valid"), "test": ("test",)}


class _Items:
    """The images of a torchvision dataset, without its labels."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Image.Image:
        if index >= len(self):
            raise IndexError(index)
        return self.dataset[index][0]


@dataclass(kw_only=True, eq=False, repr=False)
class TorchvisionDataModule(ImageDataModule):
    """A dataset of torchvision, with its official splits.

    Args:
        dataset: the name of a class in `torchvision.datasets` whose samples are (image, class).
        root: the folder of its files.
        download: downloads them if they are missing.
    """

    dataset: str
    root: str
    download: bool

    def prepare_data(self) -> None:
        """Downloads missing files, one process at a time: torchrun starts all ranks at once."""
        if self.download:
            make_output(Path(self.root), "datamodule.root")
            with file_lock(Path(self.root) / ".download.lock"):
                self._official_splits(download=True)

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        splits, names = {}, None
        for name, dataset in self._official_splits(download=False).items():
            labels = _labels(dataset)
            if labels is None:
                raise UserError(f"datamodule.dataset: {self.dataset} does not have one class per image; choose another")
            files = [f"{self.dataset}/{name}/{i:05d}" for i in range(len(dataset))]
            splits[name] = Samples(_Items(dataset), labels, files)
            names = names or getattr(dataset, "classes", None)
        count = 1 + max(int(samples.labels.max()) for samples in splits.values())
        # Imagenette's classes have several names, and two classes of ImageNet share their first name.
        firsts = [str(name[0] if isinstance(name, tuple) else name) for name in names or range(count)]
        twice = {name for name, times in Counter(firsts).items() if times > 1}
        return splits, [f"{name} {label}" if name in twice else name for label, name in enumerate(firsts)]

    def _official_splits(self, download: bool) -> dict[str, Any]:
        """The dataset's splits as train, val and test."""
        member = getattr(torchvision.datasets, self.dataset, None)
        if not inspect.isclass(member):
            hint = nearest(self.dataset, torchvision.datasets.__all__)
            raise UserError(f"datamodule.dataset: torchvision has no {self.dataset}; {hint}")
        constructor: Any = member
        parameters = inspect.signature(constructor).parameters
        needed = {name for name, parameter in parameters.items() if parameter.default is parameter.empty}
        if needed - {"root", "split", "kwargs"}:
            problem = f"{self.dataset} is not a dataset of labelled images"
            raise UserError(f"datamodule.dataset: {problem}; choose another, or use an image folder")
        options: dict[str, Any] = {"download": True} if download else {}
        try:
            if "train" in parameters:
                return {
                    "train": constructor(self.root, train=True, **options),
                    "test": constructor(self.root, train=False, **options),
                }
            splits = {}
            for name, words in SPLIT_WORDS.items():
                for word in words:
                    if name not in splits and "split" in parameters:
                        with suppress(ValueError):  # torchvision does not know the word
                            splits[name] = constructor(self.root, split=word, **options)
        except (RuntimeError, OSError) as error:
            problem = str(error).splitlines()[0].rstrip(".")
            fix = "check the network and the folder" if download else "add datamodule.download=true to fetch it"
            raise UserError(f"datamodule.root: no {self.dataset} in {self.root} ({problem}); {fix}") from error
        if "train" not in splits:
            raise UserError(f"datamodule.dataset: {self.dataset} has no training split by name; use an image folder")
        return splits


def _labels(dataset: Any) -> np.ndarray | None:
    """int64 `[N]`, from the attribute that most datasets have, else sample by sample. None: they are not classes."""
    tables = (getattr(dataset, attribute, None) for attribute in ("targets", "labels", "_labels"))
    targets = next((table for table in tables if table is not None), None)
    if targets is None:
        targets = [dataset[i][1] for i in range(len(dataset))]
    try:
        labels = np.asarray(targets, np.int64)
    except (TypeError, ValueError):  # boxes, words, images
        return None
    return labels if labels.ndim == 1 else None
