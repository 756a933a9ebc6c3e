"""What is wrong with samples, said before anything is learned from them: unreadable, parted groups, duplicates."""

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import combinations
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from conf.errors import UserError
from datamodules.splits import Samples
from datamodules.storage.inputs import Split


def check_splits(splits: Mapping[str, Samples], class_names: Sequence[str], alone: bool) -> None:
    """Raises UserError where there is nothing to learn from, or nothing to test on where that is all (`alone`)."""
    if "train" not in splits and "test" not in splits:
        raise UserError("datamodule.root: holds no split to learn from or to test on; name one train or test")
    if "train" not in splits and not alone:
        raise UserError("datamodule.root: holds no training split, only one to test on; add one named train")
    if "train" in splits and len(class_names) < 2:
        raise UserError(f"datamodule: found only the class {', '.join(class_names)}; a classifier needs two")


def check_class_names(class_names: Sequence[str]) -> None:
    """Raises UserError for the name of a class that TensorBoard and tables cannot hold."""
    for name in class_names:
        if any("\ud800" <= letter <= "\udfff" for letter in name):  # how Python keeps a byte that is no UTF-8
            raise UserError(f"class {name!r}: its name is not UTF-8; rename it")


def handle_unreadable(
    bad: dict[int, str], on_error: Literal["raise", "skip"], files: Sequence[str], rows: dict[str, np.ndarray]
) -> None:
    """Says what is passed over.

    Args:
        bad: the reason at the position of each sample that cannot be read.
        files: names for all samples.
        rows: the positions of each split that the source has.

    Raises:
        UserError: it is not to be passed over.
    """
    if not bad:
        return
    scored = [position for name, positions in rows.items() if name != "train" for position in positions.tolist()]
    fatal = sorted(bad if on_error == "raise" else bad.keys() & scored)
    if fatal:
        what = _named([f"{files[i]} ({bad[i]})" for i in fatal], most=10)
        count = "1 sample" if len(fatal) == 1 else f"{len(fatal)} samples"
        fix = ", or set datamodule.on_error=skip" if on_error == "raise" else ": no score may leave them out"
        raise UserError(f"{what}: {count} cannot be read; repair or remove what is named{fix}")
    what = _named([f"{files[i]} ({bad[i]})" for i in sorted(bad)], most=10)
    _warn(f"passed over: {what}: {len(bad)} of {len(files)} samples cannot be read")


def check_training_classes(splits: dict[str, Samples], class_names: Sequence[str]) -> None:
    """
    Raises:
        UserError: a class is in another split of the source's own, but not in the training split.
    """
    learned = np.bincount(splits["train"].labels, minlength=len(class_names)) > 0
    for name, samples in splits.items():
        if len(unlearned := np.flatnonzero(~learned[samples.labels])):
            first = unlearned[0]
            label = class_names[samples.labels[first]]
            raise UserError(f"class {label}: {samples.files[first]} is in {name}, but none in train; put some there")


@contextmanager
def mention_unreadable(bad: Mapping[int, str], files: Sequence[str]) -> Iterator[None]:
    """What is said of too few samples also names the first that could not be read, if any."""
    try:
        yield
    except UserError as error:
        if not bad:
            raise
        first = min(bad)
        raise UserError(f"{error}; {len(bad)} could not be read, first {files[first]} ({bad[first]})") from error


def check_groups(splits: dict[str, Samples]) -> None:
    """
    Raises:
        UserError: samples of one group stand in two splits of the source's own.
    """
    for (first, one), (second, other) in combinations(splits.items(), 2):
        if one.groups is None or other.groups is None:
            continue
        if len(both := np.intersect1d(one.groups, other.groups)):
            raise UserError(f"group {both[0]}: stands in {first} and in {second}; keep each group in one split")


def warn_of_duplicates(splits: dict[str, Split], digests: np.ndarray) -> None:
    """Names the samples that stand in two splits: a score on what was trained on is no score.

    Args:
        digests: a number for the content of each sample, uint64 `[N]`.
    """
    for (first, one), (second, other) in combinations(splits.items(), 2):
        found, at, there = np.intersect1d(digests[one.rows], digests[other.rows], return_indices=True)
        if len(found):
            pairs = _named([f"{one.files[i]} = {other.files[j]}" for i, j in zip(at, there, strict=True)], most=3)
            what = "1 sample" if len(found) == 1 else f"{len(found)} samples"
            _warn(f"{what} of {first} in {second} too, bit for bit: {pairs}")


def _named(things: Sequence[str], most: int) -> str:
    """The first of some things, and how many more there are."""
    return ", ".join(things[:most]) + (f" and {len(things) - most} more" if len(things) > most else "")


@rank_zero_only
def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)
