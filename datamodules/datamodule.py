"""DataModule: splits, order, scaling and augmentation of labelled samples from any source."""

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from pytorch_lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import ConcatDataset

from conf.bounds import Seed
from conf.errors import UserError, nearest
from datamodules import checks
from datamodules.augment.augmentation import as_augmentation, augment, uniform
from datamodules.augment.mixing import Mixing, soft_targets
from datamodules.features import View, described, features_of, unchanged
from datamodules.loader import Batch, BatchLoader, to_float
from datamodules.splits import Samples, keep_classes, take_split
from datamodules.storage.feature_store import FeatureStore
from datamodules.storage.inputs import Inspected, Loaded, Split, channel_mean_std, resident

# Training samples from which mean and standard deviation are computed, at most.
MAX_MEASURED = 20_000


@dataclass(kw_only=True, eq=False, repr=False)
class DataModule(LightningDataModule):
    """Labelled samples. A subclass implements `read` (its source) and `load`; its fields are its parameters.

    Args:
        batch_size: samples per step, over all ranks.
        val_fraction, test_fraction: fraction of each class that is taken from the training split, where the source has
            no such split.
        split_seed: selects those samples. Not `seed`: runs with different seeds must be tested on the same samples.
        seed: of the order of each epoch, of augmentation and of mixing.
        classes: those to keep, labelled in this order; null: all.
        sampler: `shuffle`, or `balanced`, which draws all classes equally often: see `splits.balanced_order`.
        augment: augmentations of the training split by name, in this order.
        views: epoch e is augmented as epoch e - `views` was; null: each epoch anew.
        mix: mixes each training sample with another one of its batch, after augmentation.
        drop_last: in training, drops a last batch that is not full.
        on_error: `raise` or `skip` for unreadable training samples. In a validation or test split of the source they
            always raise.
        gpu_cache_fraction: a split that needs at most this fraction of a GPU's memory is kept there.
    """

    batch_size: Annotated[int, Interval(ge=1, le=1_000_000)]
    val_fraction: Annotated[float, Interval(gt=0, lt=1)]
    test_fraction: Annotated[float, Interval(gt=0, lt=1)]
    split_seed: Seed
    seed: Seed
    classes: list[str] | None
    sampler: Literal["shuffle", "balanced"]
    augment: dict[str, Any]
    mix: Mixing | None
    drop_last: bool
    on_error: Literal["raise", "skip"]
    gpu_cache_fraction: Annotated[float, Interval(ge=0, lt=1)]
    views: Annotated[int, Ge(1)] | None = None

    def __post_init__(self) -> None:
        super().__init__()
        self._augmentations = [as_augmentation(transform) for transform in self.augment.values()]
        self._mixing = self.mix
        self._splits: dict[str, Split] = {}
        self.layout = ""  # how the source was recognised, where it is not said by the config
        self.digests: dict[str, np.ndarray] = {}  # of the samples of each split, where they are known
        self._body: tuple[Callable[[Tensor], Tensor], str] | None = None  # see `precompute`
        # Of a frozen body, for each view. Filled in place, because loaders that exist by then refer to them.
        self._features: dict[str, list[Split]] = {"train": [], "val": [], "test": []}

    @abstractmethod
    def read(self) -> tuple[dict[str, Samples], list[str]]:
        """The source's own splits, `train` and perhaps `val` and `test`, and the class names.

        Raises:
            UserError: the source is missing or malformed.
        """

    @abstractmethod
    def load(self, items: Sequence[Any], files: Sequence[str], train_count: int) -> Loaded:
        """Loads the samples of all splits; the first `train_count` are those of the training split."""

    def setup(self, stage: str | None = None) -> None:
        """Reads all splits; a second call does nothing.

        For stage `test` only that split is read, if the shape of its samples does not depend on the training split.
        For stage `inspect` unreadable and duplicate samples are not reported but kept in `inspected`.
        """
        if self._splits:
            return
        test_only = stage == "test" and self.spec_is_known
        splits = self._read_splits(test_only)
        files = [name for samples in splits.values() for name in samples.files]
        items: Any = ConcatDataset([samples.items for samples in splits.values()])
        loaded = self.load(items, files, len(splits["train"].labels) if "train" in splits else 0)
        rows = self._readable_rows(splits, files, loaded, stage)
        if "train" in splits:
            self._take_missing_splits(splits, rows, files, loaded)
        if test_only:
            splits = {"test": splits["test"]}
        if self._augmentations and len(loaded.inputs.shape) != 3:
            removals = " ".join(f"~datamodule.augment.{name}" for name in self.augment)
            raise UserError(f"datamodule.augment: augmentations apply to images only; write {removals}")
        for name in ("train", "val", "test"):
            if name in splits:
                labels = torch.from_numpy(splits[name].labels)
                self._splits[name] = Split(loaded.inputs, rows[name], labels, splits[name].files)
                if loaded.digests is not None:
                    self.digests[name] = loaded.digests[rows[name]]
        if stage == "inspect":
            self.inspected = Inspected(items, files, loaded, self._splits)
        elif loaded.digests is not None:
            checks.warn_of_duplicates(self._splits, loaded.digests)

    def _read_splits(self, test_only: bool) -> dict[str, Samples]:
        """The source's splits in the order train, val, test, checked before their samples are loaded."""
        splits, self.class_names = self.read()
        if self.classes is not None:
            splits, self.class_names = keep_classes(splits, self.class_names, self.classes)
        checks.check_class_names(self.class_names)
        checks.check_splits(splits, self.class_names, test_only)
        if test_only and "test" in splits:
            splits = {"test": splits["test"]}
        if "train" in splits:
            checks.check_training_classes(splits, self.class_names)
            checks.check_class_sizes(splits, self.class_names)
        checks.check_groups(splits)
        return {name: splits[name] for name in ("train", "val", "test") if name in splits}

    def _readable_rows(
        self, splits: dict[str, Samples], files: Sequence[str], loaded: Loaded, stage: str | None
    ) -> dict[str, np.ndarray]:
        """The rows of each split among all samples. Unreadable samples raise, or are removed from `splits` too."""
        rows: dict[str, np.ndarray] = {}
        start = 0
        for name, samples in splits.items():
            stop = start + len(samples.labels)
            rows[name] = np.arange(start, stop)
            start = stop
        if not loaded.bad:
            return rows
        if stage != "inspect":
            checks.handle_unreadable(loaded.bad, self.on_error, files, rows)
        for name in rows:
            readable = np.flatnonzero(~np.isin(rows[name], list(loaded.bad)))
            rows[name], splits[name] = rows[name][readable], splits[name].take(readable)
        if "train" in rows and not len(rows["train"]):
            first = min(loaded.bad)
            raise UserError(f"{files[first]}: {loaded.bad[first]}; every training sample is unreadable; repair them")
        if "train" in rows and stage != "inspect":
            checks.check_training_classes(splits, self.class_names)
        return rows

    def _take_missing_splits(
        self, splits: dict[str, Samples], rows: dict[str, np.ndarray], files: Sequence[str], loaded: Loaded
    ) -> None:
        """Takes a test and a validation split from the training split where the source has none."""
        with checks.mention_unreadable(loaded.bad, files):
            checks.check_class_sizes(splits, self.class_names)
            for name, fraction in (("test", self.test_fraction), ("val", self.val_fraction)):
                if name in splits:
                    continue
                train = splits["train"]
                kept, taken = take_split(train.labels, train.groups, fraction, self.split_seed, self.class_names)
                splits["train"], splits[name] = train.take(kept), train.take(taken)
                rows["train"], rows[name] = rows["train"][kept], rows["train"][taken]

    @property
    def spec_is_known(self) -> bool:
        """Whether the shape of a sample does not depend on the training split."""
        return False

    def relabel(self, class_names: Sequence[str], input_shape: Sequence[int]) -> None:
        """Replaces the labels of the test split by the network's labels for the same class names.

        Args:
            class_names: those of the network: all of the split's, in any order, and possibly more.
            input_shape: of the network.

        Raises:
            UserError: the network lacks a class of the split, or takes samples of another shape.
        """
        test = self._splits["test"]
        if tuple(test.inputs.shape) != tuple(input_shape):
            here = "×".join(map(str, test.inputs.shape))
            trained = "×".join(map(str, input_shape))
            raise UserError(f"datamodule.root: samples of {here}, but the run was trained on {trained}; reshape them")
        for label in test.labels.unique().tolist():
            name = self.class_names[label]
            if name not in class_names:
                raise UserError(f"datamodule.root: the run has no class '{name}'; {nearest(name, class_names)}")
        label_of = {name: label for label, name in enumerate(class_names)}
        new_labels = torch.tensor([label_of.get(name, -1) for name in self.class_names])  # -1: not in the split
        self._splits = {"test": test._replace(labels=new_labels[test.labels])}
        self.class_names = list(class_names)

    def split(self, name: str) -> Split:
        """The samples of `train`, `val` or `test`."""
        return self._splits[name]

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
        """Mean and standard deviation of each channel in [0, 1], of at most 20,000 training samples, evenly spaced."""
        return channel_mean_std(self._splits["train"], MAX_MEASURED)

    def files(self, split: str) -> Sequence[str]:
        """The name of each sample of a split, by its index."""
        return self._splits[split].files

    def samples(self, split: str, index: Tensor, epoch: int | None = None) -> Tensor:
        """Samples of a split as a network gets them: float32 `[N, C, *spatial]` in [0, 1].

        Args:
            index: their positions, int64 `[N]`.
            epoch: whose augmentations they have; None: none.
        """
        (inputs,) = self._splits[split].read([index.cpu().numpy()])
        inputs = to_float(inputs.to(index.device))
        return inputs if epoch is None else self._augmented(inputs, index, epoch)

    @property
    def why_not_precomputed(self) -> str | None:
        """Why the inputs of a frozen body differ in each epoch; None if they do not."""
        if self._mixing and not self._overfits:
            return "datamodule.mix mixes other samples in each epoch"
        if self._augmentations and not self.views and not self._overfits:
            return "augmentations differ in each epoch; set datamodule.views=4 to repeat them"
        return None

    def precompute(self, body: Callable[[Tensor], Tensor], name: str) -> None:
        """From now on, batches hold what a frozen body makes of the samples: of the training and validation samples
        computed here, of the test samples when they are needed. A collective call.

        Args:
            body: float samples `[N, C, *spatial]` in [0, 1] → features `[N, F]`.
            name: of the body, unique to its weights.
        """
        if self._body and self._body[1] == name:  # of an earlier fit on the same data
            return
        self._body = body, name
        self._compute_features("train")
        self._compute_features("val")

    def _compute_features(self, split: str) -> None:
        assert self.trainer is not None
        body, name = self._body  # type: ignore[misc]
        views: list[View] = [unchanged]
        if split == "train" and self._augmentations and not self._overfits:
            views = [partial(self._augmented, epoch=view) for view in range(self.views or 1)]
            augmentations = described(self._augmentations)
            name = f"{name} {self.seed} {len(views)} {augmentations}" if augmentations else ""
        store = self.feature_store(name, split) if name else None
        self._features[split][:] = features_of(self._splits[split], views, body, self.trainer, store)

    def feature_store(self, name: str, split: str) -> FeatureStore | None:
        """Where features of a split are kept for later runs; `name` is unique to the body and the views."""
        return None

    def batches(self, split: str) -> Iterator[tuple[Tensor, Tensor]]:
        """The inputs of a split in order, without a Trainer: as stored, and as float32 in [0, 1]."""
        for batch in BatchLoader(self._splits[split], self.batch_size):
            yield batch.inputs, to_float(batch.inputs)

    def train_dataloader(self) -> BatchLoader:
        return self._loader("train", training=True)

    def val_dataloader(self) -> BatchLoader:
        return self._loader("val")

    def test_dataloader(self) -> BatchLoader:
        if self._body and not self._features["test"]:
            self._compute_features("test")
        return self._loader("test")

    def _loader(self, name: str, training: bool = False) -> BatchLoader:
        trainer = self.trainer
        assert trainer is not None
        if self.batch_size < trainer.world_size:
            ranks = trainer.world_size
            raise UserError(f"datamodule.batch_size: {self.batch_size} is less than the {ranks} ranks; use more")
        progress = trainer.fit_loop.epoch_loop.batch_progress

        def position() -> tuple[int, int]:
            return 0 if self._overfits else trainer.current_epoch, progress.current.ready

        split = resident(self._splits[name], trainer.strategy.root_device, self.gpu_cache_fraction)
        self._splits[name] = split
        if training:
            loader = BatchLoader(
                split,
                self.batch_size,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                seed=self.seed,
                balanced=self.sampler == "balanced",
                drop_last=self.drop_last,
                partners=self._mixing is not None and not self._overfits,
                position=position,
                views=self._features[name],
            )
        else:
            loader = BatchLoader(
                split,
                self.batch_size,
                rank=trainer.global_rank,
                world_size=trainer.world_size,
                views=self._features[name],
            )
        if len(loader) == 0:
            count = len(split.labels)
            raise UserError(f"datamodule.batch_size: {self.batch_size} is more than the {count} samples; use less")
        return loader

    @property
    def _overfits(self) -> bool:
        """Whether to repeat the same batches without augmentation, for `trainer=overfit`."""
        return bool(self.trainer.overfit_batches)  # type: ignore[union-attr]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """On the device: uint8 → float32 in [0, 1], and in training augmentations and mixing."""
        assert self.trainer is not None
        if batch.features:
            return batch
        batch = Batch(to_float(batch.inputs), *batch[1:])
        if not (self._augmentations or self._mixing) or not self.trainer.training or self._overfits:
            return batch
        epoch = self.trainer.current_epoch
        batch = batch._replace(inputs=self._augmented(batch.inputs, batch.index, epoch))
        return self._mix(batch, epoch) if self._mixing else batch

    def _augmented(self, inputs: Tensor, index: Tensor, epoch: int) -> Tensor:
        """Training samples as they are in an epoch."""
        if not self._augmentations or self._overfits:
            return inputs
        return augment(inputs, index, self.seed, epoch % self.views if self.views else epoch, self._augmentations)

    def _mix(self, batch: Batch, epoch: int) -> Batch:
        """Mixes a batch of N samples followed by their N partners: N mixtures."""
        assert self._mixing is not None
        count = len(batch.labels) // 2
        inputs, partners = batch.inputs[:count], batch.inputs[count:]
        labels, partner_labels = batch.labels[:count], batch.labels[count:]
        index = batch.index[:count]
        before = sum(augmentation.draws for augmentation in self._augmentations)
        numbers = uniform(index, self.seed, epoch, before + self._mixing.draws)[:, before:]
        mixed, lam = self._mixing(inputs, partners, numbers)
        targets = soft_targets(labels, partner_labels, lam, len(self.class_names))
        return Batch(mixed, labels, index, batch.size, targets=targets)
