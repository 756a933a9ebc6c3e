"""Samples before they are loaded, and which of them go where: classes kept, splits taken, classes drawn evenly."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from conf.errors import UserError, nearest

# What the splits of a source may be called.
SPLIT_NAMES = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}
SPLIT_WORDS = {word: name for name, words in SPLIT_NAMES.items() for word in words}


class Samples(NamedTuple):
    """The samples of one split of a source."""

    items: Any
    """What they are loaded from, indexable and with a length: paths, PIL images, rows of an array"""
    labels: np.ndarray
    """int64 `[N]`"""
    files: Sequence[str]
    """Names for people"""
    groups: np.ndarray | None = None
    """`[N]`: samples of equal value must not be parted, as images of one patient"""

    def take(self, index: np.ndarray) -> "Samples":
        """The samples at some positions."""
        positions = index.tolist()
        items, files = ([part[i] for i in positions] for part in (self.items, self.files))
        return Samples(items, self.labels[index], files, None if self.groups is None else self.groups[index])


def by_split(whole: Samples, names: np.ndarray) -> dict[str, Samples]:
    """The samples of each split that there is, by its name for each sample, str `[N]`."""
    positions = {name: np.flatnonzero(names == name) for name in SPLIT_NAMES}
    return {name: whole.take(index) for name, index in positions.items() if len(index)}


def keep_classes(
    splits: dict[str, Samples], class_names: Sequence[str], kept: Sequence[str]
) -> tuple[dict[str, Samples], list[str]]:
    """The samples of the classes `kept`, labelled by their position in it.

    Raises:
        UserError: there is no class of that name, or it stands there twice.
    """
    new = np.full(len(class_names), -1)
    for position, name in enumerate(kept):
        if name not in class_names:
            raise UserError(f"datamodule.classes: there is no class '{name}'; {nearest(name, class_names)}")
        if new[class_names.index(name)] >= 0:
            raise UserError(f"datamodule.classes: '{name}' stands there twice; name it once")
        new[class_names.index(name)] = position
    found = {}
    for split, samples in splits.items():
        labels = new[samples.labels]
        found[split] = samples._replace(labels=labels).take(np.flatnonzero(labels >= 0))
    return found, list(kept)


def take_split(
    labels: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Takes `fraction` of each class, as nearly as groups allow.

    Returns:
        The positions that are kept and those that are taken, both ascending.

    Raises:
        UserError: a class, or the groups, are too few to be parted.
    """
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(labels), bool)
    if groups is None:
        counts = np.bincount(labels, minlength=len(class_names))
        of_class = np.split(np.argsort(labels, kind="stable"), counts.cumsum()[:-1])
        for name, members in zip(class_names, of_class, strict=True):
            if len(members) < 2:
                raise UserError(
                    f"class {name}: too few sound samples ({len(members)}) to split; add some, or name the splits"
                )
            count = min(max(1, round(len(members) * fraction)), len(members) - 1)
            taken[generator.permutation(members)[:count]] = True
    else:
        taken = _take_groups(labels, groups, fraction, generator, len(class_names))
        if missing := set(labels.tolist()) - set(labels[~taken].tolist()):
            name = class_names[min(missing)]
            raise UserError(f"class {name}: all of it is in groups that are needed elsewhere; add groups to it")
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def _take_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, generator: np.random.Generator, num_classes: int
) -> np.ndarray:
    """Goes through the groups in random order and takes each that brings the classes nearer to their wanted counts.
    Groups that hold all of a class stay: it must be learned."""
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError("group: there is only one, which cannot be parted; name the splits instead")
    left = np.bincount(labels, minlength=num_classes).tolist()
    missing = [count * fraction for count in left]
    # The classes of each group and their counts. Most groups hold few of many classes.
    pairs, counts = np.unique(member * num_classes + labels, return_counts=True)
    held: list[list[tuple[int, int]]] = [[] for _ in names]
    for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
        held[pair // num_classes].append((pair % num_classes, count))
    taken = np.zeros(len(names), bool)
    for group in generator.permutation(len(names)).tolist():
        # The squared distance to the wanted counts would change by this much.
        change = sum(count * (count - 2 * missing[label]) for label, count in held[group])
        if change < 0 and all(count < left[label] for label, count in held[group]):
            for label, count in held[group]:
                missing[label] -= count
                left[label] -= count
            taken[group] = True
    if not taken.any():
        raise UserError("group: the groups are too large to take a split of that size from; name the splits instead")
    return taken[member]


def balanced_order(labels: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """As many positions as there are samples, in random order, with the same number of each class but for one. A class
    with fewer members goes through all of them before it repeats one; of a larger one some wait for another epoch."""
    present = generator.permutation(np.unique(labels))
    drawn = []
    for i, label in enumerate(present):
        members = np.flatnonzero(labels == label)
        wanted = len(labels) // len(present) + (i < len(labels) % len(present))
        rounds = [generator.permutation(members) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate([members[:0], *rounds])[:wanted])
    return generator.permutation(np.concatenate(drawn))
