"""What is wrong with samples, said before anything is learned from them: unreadable, parted groups, duplicates."""

import sys
from collections.abc import Sequence
from itertools import combinations
from typing import Literal

import numpy as np
from pytorch_lightning.utilities import rank_zero_only

from conf.errors import UserError
from datamodules.inputs import Split
from datamodules.splits import Samples


def answer_bad(
    bad: dict[int, str], on_bad: Literal["error", "skip"], files: Sequence[str], rows: dict[str, np.ndarray]
) -> None:
    """Says what is passed over.

    Args:
        bad: the reason at the position of each sample that cannot be read.
        files: names for all samples.
        rows: the positions of each split that the source has.

    Raises:
        UserError: it is not to be passed over.
    """
    scored = [position for name, positions in rows.items() if name != "train" for position in positions.tolist()]
    fatal = sorted(bad if on_bad == "error" else bad.keys() & scored)
    if fatal:
        what = _named([f"{files[i]} ({bad[i]})" for i in fatal], most=10)
        count = "1 picture" if len(fatal) == 1 else f"{len(fatal)} pictures"
        fix = ", or set datamodule.on_bad=skip" if on_bad == "error" else ": no score may leave them out"
        raise UserError(f"{what}: {count} cannot be read; repair or remove what is named{fix}")
    if bad:
        what = _named([f"{files[i]} ({bad[i]})" for i in sorted(bad)], most=10)
        _warn(f"passed over: {what}: {len(bad)} of {len(files)} pictures cannot be read")


def refuse_parted_groups(splits: dict[str, Samples]) -> None:
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
            what = "1 picture" if len(found) == 1 else f"{len(found)} pictures"
            _warn(f"{what} of {first} in {second} too, pixel for pixel: {pairs}")


def _named(things: Sequence[str], most: int) -> str:
    """The first of some things, and how many more there are."""
    return ", ".join(things[:most]) + (f" and {len(things) - most} more" if len(things) > most else "")


@rank_zero_only
def _warn(line: str) -> None:
    print(f"warning: {line}", file=sys.stderr, flush=True)
