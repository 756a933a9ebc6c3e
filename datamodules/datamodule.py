"""DataModule: splits, order, scaling and augmentation of samples of classes, wherever they come from."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import ConcatDataset

from conf.errors import UserError, nearest
from datamodules import checks
from datamodules.augment.augmentation import as_augmentation, augment, uniform
from datamodules.augment.mixing import Mixing, soft_targets
from datamodules.loader import Batch, BatchLoader, to_float
from datamodules.splits import Samples, keep_classes, take_split
from datamodules.storage.inputs import Loaded, Split, resident

# Mean and standard deviation are those of so many training samples at most.
MEASURED = 20_000


class Found(NamedTuple):
    """What an inspection looks at."""

    items: Sequence[Any]
    """Of all splits, those that cannot be read too: paths, PIL images, rows of an array"""
    files: Sequence[str]
    """A name for each"""
    loaded: Loaded
    splits: dict[str, Split]
    """Of what can be read"""


@dataclass(kw_only=True, eq=False, repr=False)
class DataModule(LightningDataModule):
    """Samples of classes. A subclass names its source by `read`, and by `load` how samples are had from it; its fields
    are its constructor's parameters.

    Args:
        batch_size: samples a step, over all ranks.
        val_fraction, test_fraction: share of each class that is taken from the training split, where the source has
            no such split of its own.
        split_seed: which samples are taken. Not `seed`: runs with different seeds must be tested on the same samples.
        seed: of the order of each epoch, of augmentation and of mixing.
        classes: those to keep, labelled in this order; null: all.
        sampler: `shuffle`, or `balanced`, which draws all classes equally often: see `splits.balanced_order`.
        augment: augmentations of the training split by name, in this order.
        mix: mixes each training sample with another one of its batch, after augmentation.
        drop_last: in training, leaves out a last batch that is not full.
        on_error: whether a training sample that cannot be read is an error or passed over. Of a split of the source's
            own for validation or test it is always an error.
        gpu_cache_fraction: a split that takes no more than this share of a GPU's memory is kept there.
    """

    batch_size: int
    val_fraction: float
    test_fraction: float
    split_seed: int
    seed: int
    classes: list[str] | None
    sampler: Literal["shuffle", "balanced"]
    augment: dict[str, Any]
    mix: Any
    drop_last: bool
    on_error: Literal["raise", "skip"]
    gpu_cache_fraction: float

    def __post_init__(self) -> None:
        super().__init__()
        if self.batch_size < 1:
            raise UserError(f"datamodule.batch_size: must be 1 or more, not {self.batch_size}; try 64")
        for key in ("val_fraction", "test_fraction"):
            if not 0 < getattr(self, key) < 1:
                raise UserError(f"datamodule.{key}: must be between 0 and 1, not {getattr(self, key)}; try 0.1")
        if self.split_seed < 0:
            raise UserError(f"datamodule.split_seed: must be 0 or more, not {self.split_seed}; try 0")
        if not 0 <= self.gpu_cache_fraction < 1:
            raise UserError(
                f"datamodule.gpu_cache_fraction: must be from 0 to below 1, not {self.gpu_cache_fraction}; try 0.2"
            )
        self._augmentations = [as_augmentation(transform) for transform in self.augment.values()]
        self._mixing: Mixing | None = self.mix
        self._splits: dict[str, Split] = {}

    @abstractmethod
    def read(self) -> tuple[dict[str, Samples], list[str]]:
        """The source's own splits, `train` and perhaps `val` and `test`, and the class names.

        Raises:
            UserError: the source is missing or not of the expected form.
        """

    @abstractmethod
    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        """The samples of all splits; the first `train_count` are those of the training split."""

    def setup(self, stage: str | None = None) -> None:
        """Reads all splits; the second call does nothing. For the stage `test` that split alone is read, if the form
        of its samples, which is the training split's, is known. For the stage `inspect` nothing that cannot be read, or
        is there twice, is answered: what was found is kept in `found`."""
        if self._splits:
            return
        alone = stage == "test" and self.form_is_known
        splits, self.class_names = self.read()
        if self.classes is not None:
            splits, self.class_names = keep_classes(splits, self.class_names, self.classes)
        checks.check_class_names(self.class_names)
        checks.check_splits(splits, self.class_names, alone)
        if alone and "test" in splits:
            splits = {"test": splits["test"]}
        if "train" in splits:
            checks.check_training_classes(splits, self.class_names)
        checks.check_groups(splits)
        splits = {name: splits[name] for name in ("train", "val", "test") if name in splits}
        files = [name for samples in splits.values() for name in samples.files]
        items: Any = ConcatDataset([samples.items for samples in splits.values()])
        loaded = self.load(items, files, len(splits["train"].labels) if "train" in splits else 0)
        ends = accumulate(len(samples.labels) for samples in splits.values())
        rows = {name: np.arange(end - len(splits[name].labels), end) for name, end in zip(splits, ends, strict=True)}
        if stage == "inspect":
            self.found = Found(items, files, loaded, self._splits)
        else:
            checks.handle_unreadable(loaded.bad, self.on_error, files, rows)
        for name in rows if loaded.bad else ():
            sound = np.flatnonzero(~np.isin(rows[name], list(loaded.bad)))
            rows[name], splits[name] = rows[name][sound], splits[name].take(sound)
        if "train" in rows and not len(rows["train"]):
            first = min(loaded.bad)
            raise UserError(f"{files[first]}: {loaded.bad[first]}, and so is all there is to learn from; repair them")
        if loaded.bad and "train" in rows and stage != "inspect":
            checks.check_training_classes(splits, self.class_names)
        for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
            if name not in splits and "train" in splits:
                whole = splits["train"]
                with checks.mention_unreadable(loaded.bad, files):
                    kept, taken = take_split(whole.labels, whole.groups, fraction, self.split_seed, self.class_names)
                splits["train"], splits[name] = whole.take(kept), whole.take(taken)
                rows["train"], rows[name] = rows["train"][kept], rows["train"][taken]
        if alone:
            splits = {"test": splits["test"]}
        if self._augmentations and len(loaded.inputs.shape) != 3:
            removals = " ".join(f"~datamodule.augment.{name}" for name in self.augment)
            raise UserError(f"datamodule.augment: what is there is for images alone; write {removals}")
        for name in (name for name in ("train", "val", "test") if name in splits):
            labels = torch.from_numpy(splits[name].labels)
            self._splits[name] = Split(loaded.inputs, rows[name], labels, splits[name].files)
        if loaded.digests is not None and stage != "inspect":
            checks.warn_of_duplicates(self._splits, loaded.digests)

    @property
    def form_is_known(self) -> bool:
        """Whether the shape of a sample does not depend on the training split."""
        return False

    def relabel(self, class_names: Sequence[str], input_shape: Sequence[int]) -> None:
        """Labels the test split by the classes of a network, by name: they may be more, and in another order.

        Raises:
            UserError: a sample is of a class that the network does not know, or of another shape than it takes.
        """
        test = self._splits["test"]
        if tuple(test.inputs.shape) != tuple(input_shape):
            shapes = "×".join(map(str, test.inputs.shape)), "×".join(map(str, input_shape))
            raise UserError(
                f"datamodule.root: samples of {shapes[0]}, where the run learned from {shapes[1]}; reshape them"
            )
        for label in test.labels.unique().tolist():
            if (name := self.class_names[label]) not in class_names:
                raise UserError(f"datamodule.root: the run has no class '{name}'; {nearest(name, class_names)}")
        known = {name: label for label, name in enumerate(class_names)}
        labels = torch.tensor([known.get(name, -1) for name in self.class_names])[test.labels]
        self._splits = {"test": test._replace(labels=labels)}
        self.class_names = list(class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *spatial) of every sample."""
        return tuple(self._splits["train"].inputs.shape)

    @cached_property
    def class_counts(self) -> list[int]:
        """Training samples of each class."""
        return torch.bincount(self._splits["train"].labels, minlength=len(self.class_names)).tolist()

    @cached_property
    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel as a network gets it, of at most 20,000 training samples that are
        spread evenly over the split."""
        train = self._splits["train"]
        count = min(len(train.rows), MEASURED)
        evenly = np.arange(count) * len(train.rows) // count
        shift: Tensor | None = None  # near the mean, so that no digits are lost between two large sums
        total = squares = torch.zeros(())
        values = 0
        at_once = max(1, 2**22 // math.prod(self.input_shape))  # 32 MiB as double
        for part in train.read(np.array_split(evenly, -(-count // at_once))):
            scale = 255 if part.dtype == torch.uint8 else 1
            each = part.transpose(0, 1).flatten(1).double() / scale  # [C, values]
            shift = each.mean(1, keepdim=True) if shift is None else shift
            total = total + (each - shift).sum(1)
            squares = squares + (each - shift).square().sum(1)
            values += each.shape[1]
        assert shift is not None
        mean = total / values
        return (mean + shift[:, 0]).tolist(), (squares / values - mean.square()).clamp(min=0).sqrt().tolist()

    def files(self, split: str) -> Sequence[str]:
        """The name of each sample of a split, by its index."""
        return self._splits[split].files

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The samples of a split in their order, as they are and as a network takes them, without a Trainer."""
        for batch in BatchLoader(self._splits[split], self.batch_size):
            yield batch.inputs, to_float(batch.inputs)

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

        self._splits[name] = resident(self._splits[name], trainer.strategy.root_device, self.gpu_cache_fraction)
        loader = BatchLoader(
            self._splits[name],
            self.batch_size,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            seed=seed,
            balanced=self.sampler == "balanced",
            drop_last=self.drop_last and seed is not None,
            partners=self._mixing is not None and seed is not None and not self._overfits,
            **({} if seed is None else {"position": position}),
        )
        if len(loader) == 0:
            count = len(self._splits[name].labels)
            raise UserError(f"datamodule.batch_size: {self.batch_size} is more than the {count} samples; use less")
        return loader

    @property
    def _overfits(self) -> bool:
        """Whether the same samples are to be seen again and again, as `trainer=overfit` asks: neither new order nor
        augmentation."""
        return bool(self.trainer.overfit_batches)  # type: ignore[union-attr]

    def transfer_batch_to_device(self, batch: Batch, device: torch.device, dataloader_idx: int) -> Batch:
        """On a CPU there is nothing to move, which Lightning takes a tenth of a millisecond to find out."""
        if device == batch.labels.device:
            return batch
        moved: Batch = super().transfer_batch_to_device(batch, device, dataloader_idx)
        return moved

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: uint8 → float32 in [0, 1], and in training augmentations and mixing."""
        batch = Batch(to_float(batch.inputs), *batch[1:])
        assert self.trainer is not None
        if not (self._augmentations or self._mixing) or not self.trainer.training or self._overfits:
            return batch
        epoch = self.trainer.current_epoch
        if self._augmentations:
            inputs = augment(batch.inputs, batch.index, self.seed, epoch, self._augmentations)
            batch = batch._replace(inputs=inputs)
        return self._mix(batch, epoch) if self._mixing else batch

    def _mix(self, batch: Batch, epoch: int) -> Batch:
        """A batch of samples and then their partners → of their mixtures."""
        assert self._mixing is not None
        before = sum(augmentation.draws for augmentation in self._augmentations)
        inputs, labels, index = ((part[: len(part) // 2], part[len(part) // 2 :]) for part in batch[:3])
        numbers = uniform(index[0], self.seed, epoch, before + self._mixing.draws)[:, before:]
        mixed, share = self._mixing(*inputs, numbers)
        return Batch(mixed, labels[0], index[0], batch.size, soft_targets(*labels, share, len(self.class_names)))
