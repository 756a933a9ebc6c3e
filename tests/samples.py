"""Images, data modules, networks and evaluations for tests."""

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conf.errors import UserError
from datamodules.image_datamodule import ImageDataModule
from datamodules.image_folder import ImageFolderDataModule
from datamodules.splits import Samples
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.predictions import Predictions
from lit_modules.networks.cnn import CNN
from tests.conftest import PLAIN

CLASSES = ["ant", "bee", "cat"]


@dataclass(kw_only=True, eq=False, repr=False)
class InMemory(ImageDataModule):
    """Splits given as uint8 [N, H, W] or [N, H, W, 3]; labels cycle through the classes."""

    source: dict[str, np.ndarray]
    names: list[str]

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        return {
            name: Samples(
                [Image.fromarray(image) for image in images],
                np.arange(len(images)) % len(self.names),
                [f"{name}/{i}" for i in range(len(images))],
            )
            for name, images in self.source.items()
        }, list(self.names)


def noise(count: int, *shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def datamodule(source: dict[str, np.ndarray] | None = None, **changes: Any) -> InMemory:
    settings = {
        **PLAIN,
        "source": {"train": noise(48, 6, 5)} if source is None else source,
        "names": CLASSES,
    }
    return InMemory(**settings | changes)


def trainer(**changes: Any) -> Any:
    """A stand-in with the attributes of a Trainer that a data module reads."""
    progress = SimpleNamespace(current=SimpleNamespace(ready=0))
    state = {
        "world_size": 1,
        "global_rank": 0,
        "current_epoch": 0,
        "training": True,
        "overfit_batches": 0,
        "strategy": SimpleNamespace(root_device=torch.device("cpu")),
        "fit_loop": SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=progress)),
    }
    return SimpleNamespace(**state | changes)


def pixels(module: ImageDataModule, name: str) -> np.ndarray:
    """All samples of a split from its loader, sorted by index: uint8 [N, C, H, W]."""
    batches = list(loader_of(module, name))
    order = torch.cat([batch.index for batch in batches]).argsort()
    return torch.cat([batch.inputs for batch in batches])[order].numpy()


def loader_of(module: ImageDataModule, name: str) -> Any:
    module.trainer = module.trainer or trainer()
    return getattr(module, f"{name}_dataloader")()


def labels(module: ImageDataModule, name: str) -> list[int]:
    return [label for batch in loader_of(module, name) for label in batch.labels.tolist()]


def put(folder: Path, *names: str, level: int = 100, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> None:
    """Write images of one colour; RGB images are not grey."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        colour = (level, 0, 255 - level) if mode == "RGB" else level
        Image.new(mode, (size[1], size[0]), colour).save(folder / name)


def numbered(count: int, suffix: str = "png") -> list[str]:
    return [f"{i}.{suffix}" for i in range(count)]


def module_of(root: Path | str, **changes: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(**PLAIN | changes, root=str(root))


SHAPES = {"series": (2, 40), "grey": (1, 8, 12), "colour": (3, 12, 8), "channels": (5, 8, 8), "volume": (1, 8, 8, 8)}


def network(input_shape: tuple[int, ...]) -> CNN:
    return CNN(
        input_shape, 4, channels=[6, 8], kernel_size=3, pool=2, pool_type="max", norm="batch", activation="ReLU",
        dropout=0.5, head_dropout=0.0, global_pool="avg", hidden=[],
    )  # fmt: skip


def evaluation(num_classes: int, samples: int = 400, absent: tuple[int, ...] = (), decimals: int = 7) -> Evaluation:
    """Random predictions without samples of absent classes; few decimals give ties."""
    generator = np.random.default_rng(num_classes)
    true = generator.choice([i for i in range(num_classes) if i not in absent], samples)
    logits = generator.normal(size=(samples, num_classes))
    logits[np.arange(samples), true] += 1
    probabilities = torch.tensor(logits).softmax(1).numpy().round(decimals).astype(np.float32)
    none = np.zeros(0, np.int64)
    predictions = Predictions(np.arange(samples), true, logits.argmax(1), probabilities, none)
    names, files = [f"class {i}" for i in range(num_classes)], [f"{i}.png" for i in range(samples)]
    return Evaluation(names, files, predictions, np.zeros((0, 1, 2, 2)))


def read(root: Path) -> tuple[dict[str, list[str]], list[str]]:
    """The names of the files of each split, and the class names."""
    splits, names = module_of(root).read()
    return {name: list(images.files) for name, images in splits.items()}, names


def error_of(root: Path | str) -> str:
    with pytest.raises(UserError) as caught:
        module_of(root).setup()
    return str(caught.value)
