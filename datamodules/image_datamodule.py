"""ImageDataModule: splits, decode once, loaders, ToTensor on the device. One small subclass for each source."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor

from conf.errors import UserError, nearest
from datamodules.augment import as_augmentation, augment
from datamodules.decode import Resize, common_size
from datamodules.loader import Batch, BatchLoader, Split
from datamodules.store import Pictures, decode_pictures, probe_pictures


@dataclass(kw_only=True, eq=False, repr=False)
class ImageDataModule(LightningDataModule):
    """Pictures of classes. A subclass names its source by `read`; its fields are its constructor's parameters.

    Args:
        batch_size: samples a step, over all ranks.
        val_fraction, test_fraction: share of each class that is taken from the training split, where the source has
            no such split of its own.
        split_seed: which pictures are taken. Not `seed`: runs with different seeds must be tested on the same pictures.
        seed: of the order of each epoch and of augmentation.
        channels: 1, 3, or auto: 1 if every picture is grey.
        image_size: pixels of a side or [height, width]; null: see `decode.common_size`.
        resize: how a picture of another size is brought to it: see `decode.to_array`.
        augment: augmentations of the training split by name, in this order.
        drop_last: in training, leaves out a last batch that is not full.
        num_workers: processes that decode; null: one a core. It changes speed alone.
    """

    batch_size: int
    val_fraction: float
    test_fraction: float
    split_seed: int
    seed: int
    channels: Literal["auto", 1, 3]
    image_size: int | list[int] | None
    resize: Resize
    augment: dict[str, Any]
    drop_last: bool
    num_workers: int | None

    def __post_init__(self) -> None:
        super().__init__()
        if self.batch_size < 1:
            raise UserError(f"datamodule.batch_size: must be 1 or more, not {self.batch_size}; try 64")
        for key in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise UserError(f"datamodule.{key}: must be between 0 and 1, not {getattr(self, key)}; try 0.1")
        if self.split_seed < 0:
            raise UserError(f"datamodule.split_seed: must be 0 or more, not {self.split_seed}; try 0")
        if self.num_workers is not None and self.num_workers < 0:
            raise UserError(f"datamodule.num_workers: must be 0 or more, not {self.num_workers}; leave it out")
        self._augmentations = [as_augmentation(transform) for transform in self.augment.values()]
        self._splits: dict[str, Split] = {}

    @abstractmethod
    def read(self) -> tuple[dict[str, Pictures], list[str]]:
        """The source's own splits, `train` and perhaps `val` and `test`, undecoded, and the class names.

        Raises:
            UserError: the source is missing or not of the expected form.
        """

    def setup(self, stage: str | None = None) -> None:
        """Reads all splits; the second call does nothing. For the stage `test` that split alone is read, if channels
        and size, which are those of the training split, are given."""
        if self._splits:
            return
        test_alone = stage == "test" and self.channels != "auto" and self.image_size is not None
        splits, self.class_names = self.read()
        if "train" not in splits and not test_alone:
            raise UserError("datamodule.root: holds no training split, only one to test on; add root/train")
        if "train" in splits and len(self.class_names) < 2:
            raise UserError(f"datamodule: found only the class {', '.join(self.class_names)}; a classifier needs two")
        for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            if name not in splits and "train" in splits:
                kept, taken = stratified_split(splits["train"].labels, fraction, self.split_seed, self.class_names)
                splits["train"], splits[name] = splits["train"].take(kept), splits["train"].take(taken)
        if test_alone:
            splits = {"test": splits["test"]}
        probes = {name: probe_pictures(pictures, self.num_workers) for name, pictures in splits.items()}
        every = [item for found in probes.values() for item in found]
        channels = self.channels if self.channels != "auto" else 1 if all(item.grey for item in every) else 3
        size = self._size() or common_size(probes["train"])
        for name, pictures in splits.items():
            inputs = decode_pictures(pictures, channels, size, self.resize, self.num_workers)
            self._splits[name] = Split(torch.from_numpy(inputs), torch.from_numpy(pictures.labels), pictures.files)

    def adopt(self, class_names: Sequence[str]) -> None:
        """Labels the test split by the classes of a network, by name: they may be more, and in another order.

        Raises:
            UserError: a sample is of a class that the network does not know.
        """
        test = self._splits["test"]
        for label in test.labels.unique().tolist():
            if (name := self.class_names[label]) not in class_names:
                raise UserError(f"datamodule.root: the run has no class '{name}'; {nearest(name, class_names)}")
        known = {name: label for label, name in enumerate(class_names)}
        labels = torch.tensor([known.get(name, -1) for name in self.class_names])[test.labels]
        self._splits = {"test": test._replace(labels=labels)}
        self.class_names = list(class_names)

    def _size(self) -> tuple[int, int] | None:
        if self.image_size is None:
            return None
        size = [self.image_size] * 2 if isinstance(self.image_size, int) else self.image_size
        if len(size) != 2 or min(size) < 1:
            raise UserError(f"datamodule.image_size: {self.image_size} is no size; give pixels or [height, width]")
        return size[0], size[1]

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, H, W) of every sample."""
        return tuple(self._splits["train"].inputs.shape[1:])

    @cached_property
    def class_counts(self) -> list[int]:
        """Training samples of each class."""
        return torch.bincount(self._splits["train"].labels, minlength=len(self.class_names)).tolist()

    @cached_property
    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel of the training split, in [0, 1]."""
        values = np.arange(256) / 255
        means, stds = [], []
        for channel in self._splits["train"].inputs.unbind(1):
            counts = np.zeros(256, np.int64)
            for part in channel.split(1000):  # bincount needs eight bytes a pixel
                counts += np.bincount(part.numpy().ravel(), minlength=256)
            share = counts / channel.numel()
            means.append(float(share @ values))
            stds.append(float(np.sqrt(share @ (values - means[-1]) ** 2)))
        return means, stds

    def files(self, split: str) -> Sequence[str]:
        """The name of each sample of a split, by its index."""
        return self._splits[split].files

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples of a split in their order, as they are and as a network takes them, without a Trainer."""
        for inputs in self._splits[split].inputs.split(self.batch_size):
            yield inputs, to_float(inputs)

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", self.seed)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        return self._loader("test")

    def _loader(self, name: str, seed: int | None = None) -> BatchLoader:
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size < trainer.world_size:
            ranks = trainer.world_size
            raise UserError(f"datamodule.batch_size: {self.batch_size} is less than the {ranks} ranks; use more")
        progress = trainer.fit_loop.epoch_loop.batch_progress

        def position() -> tuple[int, int]:
            return 0 if self._overfits else trainer.current_epoch, progress.current.ready

        loader = BatchLoader(
            self._splits[name],
            self.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            seed=seed,
            drop_last=self.drop_last and seed is not None,
            **({} if seed is None else {"position": position}),
        )
        if len(loader) == 0:
            count = len(self._splits[name].labels)
            raise UserError(f"datamodule.batch_size: {self.batch_size} is more than the {count} pictures; use less")
        return loader

    @property
    def _overfits(self) -> bool:
        """Whether the same samples are to be seen again and again, as `trainer=overfit` asks: neither new order nor
        augmentation."""
        return bool(self.trainer.overfit_batches)  # type: ignore[union-attr]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: uint8 → float32 in [0, 1], and in training the augmentations."""
        inputs = to_float(batch.inputs)
        assert self.trainer is not None
        if self.trainer.training and self._augmentations and not self._overfits:
            inputs = augment(inputs, batch.index, self.seed, self.trainer.current_epoch, self._augmentations)
        return batch._replace(inputs=inputs)


def to_float(inputs: Tensor) -> Tensor:
    """uint8 in 0 … 255 → float32 in [0, 1], with the bits of torchvision's ToTensor on every device.

    The divisor is a tensor: CUDA multiplies by the reciprocal of a Python number, which rounds differently.
    """
    return inputs.to(torch.float32) / torch.full((), 255.0, device=inputs.device)


def stratified_split(
    labels: np.ndarray, fraction: float, seed: int, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Takes `fraction` of each class, rounded, at least one and never all.

    Returns:
        The positions that are kept and those that are taken, both ascending.

    Raises:
        UserError: a class has fewer than two samples.
    """
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(labels), bool)
    for label, name in enumerate(class_names):
        members = np.flatnonzero(labels == label)
        if len(members) < 2:
            raise UserError(f"class {name}: too few pictures ({len(members)}) to split; add some or name the splits")
        count = min(max(1, round(len(members) * fraction)), len(members) - 1)
        taken[generator.permutation(members)[:count]] = True
    return np.flatnonzero(~taken), np.flatnonzero(taken)
