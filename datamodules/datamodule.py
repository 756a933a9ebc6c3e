"""DataModule: the splits of labelled samples from any source."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
from annotated_types import Ge, Interval
from torch.utils.data import ConcatDataset

from conf.bounds import Seed
from conf.errors import UserError, nearest
from datamodules import checks
from datamodules.batching import Batching
from datamodules.labels import count_labels, occurrences
from datamodules.relabelling import read_new_labels, relabel
from datamodules.splits import Samples, join, keep_classes, nested_subset, take_fold, take_split
from datamodules.storage.inputs import Inspected, Loaded, Split, channel_mean_std

# Training samples from which mean and standard deviation are computed, at most.
MAX_MEASURED = 20_000


@dataclass(kw_only=True, eq=False, repr=False)
class DataModule(Batching):
    """Labelled samples. A subclass implements `read` (its source) and `load`; its fields are its parameters.

    Args:
        val_fraction, test_fraction: fraction of each class that is taken from the training split, where the source has
            no such split.
        split_seed: selects those samples. Not `seed`: runs with different seeds must be tested on the same samples.
        folds: number of folds of a cross-validation, see `splits.take_fold`: of the training and validation splits of
            the source together. Its own test split, if any, is not used.
        fold: the test split, where there are folds.
        train_fraction: fraction of each class of the training split that is used; null: all. A smaller one is part of a
            larger one.
        classes: those to keep, labelled in this order; null: all.
        relabel: a table of new labels, see `relabelling.read_new_labels`. Which samples a split has depends on the
            labels before, so that corrected labels are scored on the same samples.
        on_error: `raise` or `skip` for unreadable training samples. In a validation or test split of the source they
            always raise.
    """

    val_fraction: Annotated[float, Interval(gt=0, lt=1)]
    test_fraction: Annotated[float, Interval(gt=0, lt=1)]
    split_seed: Seed
    classes: list[str] | None
    on_error: Literal["raise", "skip"]
    relabel: str | None = None
    folds: Annotated[int, Interval(ge=2, le=1000)] | None = None
    fold: Annotated[int, Ge(0)] = 0
    train_fraction: Annotated[float, Interval(gt=0, le=1)] | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        self.layout = ""  # how the source was recognised, where it is not said by the config
        self.has_folds = False  # whether `fold` chooses the test split in the source itself
        self._new_labels: dict[str, int] = {}
        self.digests: dict[str, np.ndarray] = {}  # of the samples of each split, where they are known
        self.items: dict[str, Any] = {}  # of each split, for stage `export`

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
        For stage `export` the items are kept too.
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
            if self.train_fraction is not None:
                subset = nested_subset(splits["train"].labels, self.train_fraction, self.split_seed)
                splits["train"], rows["train"] = splits["train"].take(subset), rows["train"][subset]
                checks.check_training_classes(splits, self.class_names)
        if test_only:
            splits = {"test": splits["test"]}
        if self._new_labels:
            relabel(splits, rows, self._new_labels, self.class_names)
        if self._augmentations and len(loaded.inputs.shape) != 3:
            removals = " ".join(f"~datamodule.augment.{name}" for name in self.augment)
            raise UserError(f"datamodule.augment: augmentations apply to images only; write {removals}")
        for name in ("train", "val", "test"):
            if name in splits:
                labels = torch.from_numpy(splits[name].labels)
                self._splits[name] = Split(loaded.inputs, rows[name], labels, splits[name].files)
                if stage == "export":
                    self.items[name] = splits[name].items
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
        if self.relabel or self.sampler == "balanced":
            checks.check_single_labels(splits, self.relabel)
        if self.relabel:
            self._new_labels = read_new_labels(Path(self.relabel).expanduser(), splits, self.class_names)
        checks.check_splits(splits, self.class_names, test_only)
        checks.check_folds(self.folds, self.fold, self.has_folds)
        if self.folds and "train" in splits:
            parts = [splits[name] for name in ("train", "val") if name in splits]
            splits = {"train": join(parts) if len(parts) > 1 else parts[0]}
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
                if name == "test" and self.folds:
                    kept, taken = take_fold(
                        train.labels, train.groups, self.folds, self.fold, self.split_seed, self.class_names
                    )
                else:
                    kept, taken = take_split(train.labels, train.groups, fraction, self.split_seed, self.class_names)
                splits["train"], splits[name] = train.take(kept), train.take(taken)
                rows["train"], rows[name] = rows["train"][kept], rows["train"][taken]

    @property
    def spec_is_known(self) -> bool:
        """Whether the shape of a sample does not depend on the training split."""
        return False

    def use_labels_of(self, class_names: Sequence[str], input_shape: Sequence[int], multi_label: bool) -> None:
        """Replaces the labels of the test split by the network's labels for the same class names.

        Args:
            class_names: those of the network: all of the split's, in any order, and possibly more.
            input_shape: of the network.
            multi_label: whether it predicts several labels.

        Raises:
            UserError: the network lacks a class of the split, takes samples of another shape, or predicts one label a
                sample where there are several.
        """
        test = self._splits["test"]
        if multi_label != self.is_multi_label:
            kinds = ("one label", "several labels") if multi_label else ("several labels", "one label")
            raise UserError(f"datamodule.root: samples of {kinds[0]}, but the run predicts {kinds[1]}; give such data")
        if tuple(test.inputs.shape) != tuple(input_shape):
            here = "×".join(map(str, test.inputs.shape))
            trained = "×".join(map(str, input_shape))
            raise UserError(f"datamodule.root: samples of {here}, but the run was trained on {trained}; reshape them")
        labels = test.labels.numpy()
        for label in np.unique(occurrences(labels)[1]).tolist():
            name = self.class_names[label]
            if name not in class_names:
                raise UserError(f"datamodule.root: the run has no class '{name}'; {nearest(name, class_names)}")
        label_of = {name: label for label, name in enumerate(class_names)}
        new_labels = np.array([label_of.get(name, -1) for name in self.class_names])  # -1: not in the split
        if multi_label:
            matrix = np.zeros((len(labels), len(class_names)), np.int64)
            matrix[:, new_labels[new_labels >= 0]] = labels[:, new_labels >= 0]
        self._splits = {"test": test._replace(labels=torch.from_numpy(matrix if multi_label else new_labels[labels]))}
        self.class_names = list(class_names)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """(C, *spatial) of every sample."""
        return tuple(self._splits["train"].inputs.shape)

    @cached_property
    def class_counts(self) -> list[int]:
        """Training samples of each class."""
        counts: list[int] = count_labels(self._splits["train"].labels.numpy(), len(self.class_names)).tolist()
        return counts

    @property
    def is_multi_label(self) -> bool:
        """Whether a sample may have several labels."""
        return next(iter(self._splits.values())).labels.ndim == 2

    @cached_property
    def mean_std(self) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel in [0, 1], of at most 20,000 training samples, evenly spaced."""
        return channel_mean_std(self._splits["train"], MAX_MEASURED)

    def files(self, split: str) -> Sequence[str]:
        """The name of each sample of a split, by its index."""
        return self._splits[split].files
