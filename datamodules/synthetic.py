"""Synthetic series, volumes and images whose classes no linear model can separate."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge

from conf.errors import UserError
from datamodules.datamodule import DataModule
from datamodules.labels import label_sets
from datamodules.splits import Samples
from datamodules.storage.decode import digests
from datamodules.storage.inputs import InMemory, Loaded


@dataclass(kw_only=True, eq=False, repr=False)
class SyntheticDataModule(DataModule):
    """Samples that depend on (split_seed, count, noise) alone.

    In each class a sample and its negative are equally likely. So all classes have the same mean, and a linear model
    is about as good as chance.

    Args:
        count: number of samples, spread evenly over the classes.
        noise: standard deviation of the white noise; the signal is at most 1.
    """

    CLASSES: ClassVar[list[str]]

    count: int
    noise: Annotated[float, Ge(0)]

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.count < 10 * len(self.CLASSES):
            raise UserError(f"datamodule.count: must be {10 * len(self.CLASSES)} or more, not {self.count}; try 4000")

    def draw_labels(self, generator: np.random.Generator) -> np.ndarray:
        """Labels of all samples, see `Samples`."""
        return np.arange(self.count) % len(self.CLASSES)

    @abstractmethod
    def draw(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Labels → samples without noise `[N, *spatial]`."""

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        generator = np.random.default_rng(self.split_seed)
        labels = self.draw_labels(generator)
        clean = self.draw(labels, generator)
        inputs = (clean + self.noise * generator.standard_normal(clean.shape)).astype(np.float32)[:, None]
        classes, names = label_sets(labels, self.CLASSES)
        files = [f"{names[label]} {i}" for i, label in enumerate(classes.tolist())]
        return {"train": Samples(inputs, labels, files)}, list(self.CLASSES)

    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        inputs = np.stack(list(items))
        return Loaded(InMemory(inputs), digests(inputs), {})


class SeriesDataModule(SyntheticDataModule):
    """Series `[1, 128]` with a short chirp in each half, whose frequency rises or falls.

    Position and phase of each chirp are random. Rising and falling chirps are time reversals of each other, so they
    have the same power spectrum.
    """

    CLASSES: ClassVar[list[str]] = ["fall-fall", "fall-rise", "rise-fall", "rise-rise"]

    def draw(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        drawn = np.zeros((len(labels), 128))
        for half, rises in enumerate((labels // 2, labels % 2)):
            position = generator.uniform(64 * half + 14, 64 * half + 50, (len(labels), 1))
            phase = generator.uniform(0, 2 * np.pi, (len(labels), 1))
            time = np.arange(128) - position
            cycles = 0.15 * time + np.where(rises, 0.002, -0.002)[:, None] * time**2
            drawn += np.exp(-((time / 10) ** 2)) * np.cos(2 * np.pi * cycles + phase)
        return drawn


class VolumesDataModule(SyntheticDataModule):
    """Volumes `[1, 16, 16, 16]` with a solid of about 200 voxels, lighter or darker than the background."""

    CLASSES: ClassVar[list[str]] = ["ball", "cross", "cube", "shell"]

    def draw(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        centre = generator.uniform(4.5, 10.5, (len(labels), 3, 1, 1, 1)).astype(np.float32)
        axes = np.abs(np.indices((16, 16, 16), np.float32) - centre)  # [N, 3, D, H, W]: distances from the centre
        distance, largest = np.sqrt((axes**2).sum(1)), axes.max(1)
        middle = axes.sum(1) - largest - axes.min(1)
        solids = [distance < 3.6, (largest < 4.6) & (middle < 1.5), largest < 2.9, (distance > 3.4) & (distance < 4.4)]
        contrast = generator.choice([-1.0, 1.0], (len(labels), 1, 1, 1))
        return np.choose(labels[:, None, None, None], solids) * contrast


class ScenesDataModule(SyntheticDataModule):
    """Images `[1, 32, 32]` with any of four shapes, each in two of five, lighter or darker than the background.

    Positions are random, and shapes overlap where they meet.
    """

    CLASSES: ClassVar[list[str]] = ["cross", "disc", "ring", "square"]

    def draw_labels(self, generator: np.random.Generator) -> np.ndarray:
        return (generator.random((self.count, len(self.CLASSES))) < 0.4).astype(np.int64)

    def draw(self, labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        drawn = np.zeros((len(labels), 32, 32))
        for label in range(len(self.CLASSES)):
            centre = generator.uniform(5, 26, (len(labels), 2, 1, 1)).astype(np.float32)
            vertical, horizontal = np.abs(np.indices((32, 32), np.float32) - centre).transpose(1, 0, 2, 3)
            distance = np.hypot(vertical, horizontal)
            nearer, farther = np.minimum(vertical, horizontal), np.maximum(vertical, horizontal)
            inside = [
                (farther < 4.5) & (nearer < 1.2), distance < 3.4, (distance > 3) & (distance < 4.6), farther < 3
            ][label]  # fmt: skip
            contrast = generator.choice([-1.0, 1.0], (len(labels), 1, 1)) * labels[:, label, None, None]
            drawn = np.where(inside & (contrast != 0), contrast, drawn)
        return drawn
