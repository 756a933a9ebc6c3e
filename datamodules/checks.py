"""Checks of the samples before training: unreadable files, classes, groups, duplicates."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from conf.errors import UserError
from conf.text import printable
from datamodules.labels import count_labels, occurrences
from datamodules.splits import Samples
from datamodules.storage.inputs import Split


def check_splits(splits: Mapping[str, Samples], class_names: Sequence[str], test_only: bool) -> None:
    """Raises UserError if there is nothing to train on, or with `test_only` nothing to test on."""
    if "train" not in splits and "test" not in splits:
        raise UserError("datamodule.root: holds neither a training nor a test split; name one train or test")
    if "train" not in splits and not test_only:
        raise UserError("datamodule.root: holds no training split, only a test split; add one named train")
    if "train" in splits and len(class_names) < 2:
        raise UserError(f"datamodule: holds only the class {', '.join(class_names)}; a classifier needs two")


def check_class_names(class_names: Sequence[str]) -> None:
    """Raises UserError for a class name that is not UTF-8, which TensorBoard and tables cannot hold."""
    for name in class_names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # Python's surrogates for undecodable bytes
            raise UserError(f"class {name!r}: its name is not UTF-8; rename it")


def check_single_labels(splits: Mapping[str, Samples], relabel: str | None) -> None:
    """Raises UserError if samples have several labels, which neither a balanced sampler nor `relabel` can take."""
    if next(iter(splits.values())).labels.ndim == 2:
        if relabel:
            raise UserError("datamodule.relabel: gives one label a sample, these have several; correct the source")
        raise UserError("datamodule.sampler: balanced needs one label a sample; use lit_module.class_weights=auto")


def check_folds(folds: int | None, fold: int, in_source: bool) -> None:
    """Raises UserError for two kinds of folds, or a fold where there are none; see `DataModule`."""
    if folds and in_source:
        raise UserError(
            "datamodule.folds: the table has folds of its own; leave it out, and run datamodule.fold=0,1 -m"
        )
    if fold and not folds and not in_source:
        raise UserError(f"datamodule.fold: {fold} is no fold, as there are none; add datamodule.folds=5")


def handle_unreadable(
    bad: dict[int, str], on_error: Literal["raise", "skip"], files: Sequence[str], rows: dict[str, np.ndarray]
) -> None:
    """Warns of the samples that are skipped.

    Args:
        bad: the reason at the position of each unreadable sample.
        files: names for all samples.
        rows: the positions of each split that the source has.

    Raises:
        UserError: samples may not be skipped: `on_error` is raise, or they are not in the training split.
    """
    if not bad:
        return
    scored = [position for name, positions in rows.items() if name != "train" for position in positions.tolist()]
    fatal = sorted(bad if on_error == "raise" else bad.keys() & scored)
    if fatal:
        named = _shorten([f"{files[i]} ({bad[i]})" for i in fatal], most=10)
        count = "1 sample" if len(fatal) == 1 else f"{len(fatal)} samples"
        fix = ", or set datamodule.on_error=skip" if on_error == "raise" else ": a score may not leave them out"
        raise UserError(f"{named}: {count} cannot be read; repair or remove them{fix}")
    named = _shorten([f"{files[i]} ({bad[i]})" for i in sorted(bad)], most=10)
    warn(f"skipped {named}: {len(bad)} of {len(files)} samples cannot be read")


def check_training_classes(splits: dict[str, Samples], class_names: Sequence[str]) -> None:
    """Raises UserError if another split holds a class that the training split lacks."""
    in_training = count_labels(splits["train"].labels, len(class_names)) > 0
    for name, samples in splits.items():
        positions, labels = occurrences(samples.labels)
        unseen = np.flatnonzero(~in_training[labels])
        if len(unseen):
            file, label = samples.files[positions[unseen[0]]], class_names[labels[unseen[0]]]
            raise UserError(f"class {label}: {file} is in {name}, but none in train; add some there")


def check_class_sizes(splits: Mapping[str, Samples], class_names: Sequence[str]) -> None:
    """Raises UserError if a class has too few training samples to take the missing splits from."""
    missing = [name for name in ("test", "val") if name not in splits]
    if not missing or splits["train"].groups is not None:
        return
    counts = count_labels(splits["train"].labels, len(class_names))
    # A rare label may be missing from a split: it is left out of means over labels.
    needed = 1 if splits["train"].labels.ndim == 2 else 1 + len(missing)
    small = [f"{class_names[label]} ({counts[label]})" for label in np.flatnonzero(counts < needed).tolist()]
    if small:
        parts = " and ".join(missing)
        kind = "class" if len(small) == 1 else "classes"
        raise UserError(
            f"{kind} {_shorten(small, most=10)}: too few samples to take {parts} from, which needs {needed}; "
            "add some, or name the splits"
        )


@contextmanager
def mention_unreadable(bad: Mapping[int, str], files: Sequence[str]) -> Iterator[None]:
    """Adds the first unreadable sample, if any, to an error about too few samples."""
    try:
        yield
    except UserError as error:
        if not bad:
            raise
        first = min(bad)
        raise UserError(f"{error}; {len(bad)} could not be read, first {files[first]} ({bad[first]})") from error


def check_groups(splits: dict[str, Samples]) -> None:
    """Raises UserError if samples of one group are in two splits of the source."""
    for (name, samples), (other_name, other_samples) in combinations(splits.items(), 2):
        if samples.groups is None or other_samples.groups is None:
            continue
        in_both = np.intersect1d(samples.groups, other_samples.groups)
        if len(in_both):
            raise UserError(f"group {in_both[0]}: is in {name} and in {other_name}; keep each group in one split")


def warn_of_duplicates(splits: dict[str, Split], digests: np.ndarray) -> None:
    """Warns of samples that are in two splits, where a score would be of memorised samples.

    Args:
        digests: a number for the content of each sample, uint64 `[N]`.
    """
    for (name, split), (other_name, other) in combinations(splits.items(), 2):
        here, there = digests[split.rows], digests[other.rows]
        _, positions, other_positions = np.intersect1d(here, there, return_indices=True)
        if len(positions):
            pairs = zip(positions, other_positions, strict=True)
            named = _shorten([f"{split.files[i]} = {other.files[j]}" for i, j in pairs], most=3)
            copies = f"{np.isin(here, there).sum()} of {len(here)} samples of {name} are in {other_name} too"
            other_copies = f"{np.isin(there, here).sum()} of {len(there)} of {other_name} in {name}"
            warn(f"{copies}, and {other_copies}, bit for bit: {named}")


def _shorten(names: Sequence[str], most: int) -> str:
    """The first names, and how many more there are."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


@rank_zero_only
def warn(line: str) -> None:
    print(printable(f"warning: {line}"), file=sys.stderr, flush=True)
