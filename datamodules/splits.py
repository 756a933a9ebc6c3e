"""Samples before they are loaded; stratified and grouped splits; balanced sampling."""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from conf.errors import UserError, nearest
from datamodules.labels import stratify

SPLIT_NAMES = ("train", "val", "test")
# Words for them, and those that may stand beside one.
SPLIT_WORDS = {
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
    "trainval": "train", "publictest": "val", "privatetest": "test",  # of Kaggle's competitions
}  # fmt: skip
SURROUNDINGS = {"", "data", "images", "img", "imgs", "seg", "set", "split"}


def split_of(name: str) -> str | None:
    """`train`, `val` or `test` for a usual name of a split, such as Training, valid, test_set, seg_train or val2017."""
    words = [word.removesuffix("set") for word in re.findall("[a-z]+", name.lower())]
    words = [word for word in words if word not in SURROUNDINGS]
    return SPLIT_WORDS.get(words[0]) if len(words) == 1 else None


def split_of_file(name: str) -> str | None:
    """The same for the name of a table or shard, where any words may stand beside it: sign_mnist_test, val-00000."""
    words = [word.lower().removesuffix("set") for word in re.findall("[A-Z]*[a-z]+|[A-Z]+", name)]  # trainLabels
    splits = {SPLIT_WORDS[word] for word in words if word in SPLIT_WORDS}
    return splits.pop() if len(splits) == 1 else None


class Samples(NamedTuple):
    """The samples of one split of a source."""

    items: Any
    """An indexable with a length: paths, PIL images, rows of an array"""
    labels: np.ndarray
    """int64 `[N]`, or 0/1 `[N, num_classes]` where a sample may have several labels"""
    files: Sequence[str]
    """A name for each, to be displayed"""
    groups: np.ndarray | None = None
    """`[N]`: samples of one group, such as images of one patient, stay in one split"""

    def take(self, index: np.ndarray) -> "Samples":
        """The samples at some positions."""
        positions = index.tolist()
        items = [self.items[i] for i in positions]
        files = [self.files[i] for i in positions]
        return Samples(items, self.labels[index], files, None if self.groups is None else self.groups[index])


def join(parts: Sequence[Samples]) -> Samples:
    """The samples of several splits, in that order."""
    items = [item for part in parts for item in part.items]
    labels = np.concatenate([part.labels for part in parts])
    files = [name for part in parts for name in part.files]
    groups = [part.groups for part in parts if part.groups is not None]
    return Samples(items, labels, files, np.concatenate(groups) if len(groups) == len(parts) else None)


def by_split(whole: Samples, names: np.ndarray) -> dict[str, Samples]:
    """Samples by split, from the split's name of each sample, str `[N]`."""
    positions = {name: np.flatnonzero(names == name) for name in SPLIT_NAMES}
    return {name: whole.take(index) for name, index in positions.items() if len(index)}


def keep_classes(
    splits: dict[str, Samples], class_names: Sequence[str], kept: Sequence[str]
) -> tuple[dict[str, Samples], list[str]]:
    """The samples of the classes `kept`, labelled by their position in it; of several labels all samples.

    Raises:
        UserError: a name is unknown or listed twice.
    """
    new = np.full(len(class_names), -1)
    for position, name in enumerate(kept):
        if name not in class_names:
            raise UserError(f"datamodule.classes: there is no class '{name}'; {nearest(name, class_names)}")
        if new[class_names.index(name)] >= 0:
            raise UserError(f"datamodule.classes: '{name}' is listed twice; list it once")
        new[class_names.index(name)] = position
    remaining = {}
    for split, samples in splits.items():
        if samples.labels.ndim == 2:
            columns = [class_names.index(name) for name in kept]
            remaining[split] = samples._replace(labels=samples.labels[:, columns])
            continue
        labels = new[samples.labels]
        remaining[split] = samples._replace(labels=labels).take(np.flatnonzero(labels >= 0))
    return remaining, list(kept)


def take_split(
    labels: np.ndarray, groups: np.ndarray | None, fraction: float, seed: int, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Takes `fraction` of each class, as nearly as groups, or several labels of a sample, allow.

    Returns:
        The positions that are kept and those that are taken, both in ascending order.

    Raises:
        UserError: a class has too few samples, or there are too few groups.
    """
    generator = np.random.default_rng(seed)
    taken = np.zeros(len(labels), bool)
    if labels.ndim == 2:
        taken = stratify(labels, groups, (1 - fraction, fraction), generator) == 1
        _check_label_sets(labels, taken, groups, class_names)
    elif groups is None:
        counts = np.bincount(labels, minlength=len(class_names))
        of_class = np.split(np.argsort(labels, kind="stable"), counts.cumsum()[:-1])
        for name, members in zip(class_names, of_class, strict=True):
            if len(members) < 2:
                raise UserError(f"class {name}: too few samples ({len(members)}) left to split; lower test_fraction")
            count = min(max(1, round(len(members) * fraction)), len(members) - 1)
            taken[generator.permutation(members)[:count]] = True
    else:
        taken = _take_groups(labels, groups, fraction, generator, len(class_names))
        missing = set(labels.tolist()) - set(labels[~taken].tolist())
        if missing:
            name = class_names[min(missing)]
            raise UserError(f"class {name}: all its groups would leave the training split; add groups to it")
    return np.flatnonzero(~taken), np.flatnonzero(taken)


def take_fold(
    labels: np.ndarray, groups: np.ndarray | None, folds: int, fold: int, seed: int, class_names: Sequence[str]
) -> tuple[np.ndarray, np.ndarray]:
    """Takes one of the folds of a k-fold cross-validation: those of scikit-learn's StratifiedKFold, or with groups of
    its StratifiedGroupKFold; of several labels those of `labels.stratify`.

    Returns:
        The positions that are kept and those that are taken, both in ascending order.

    Raises:
        UserError: there is no such fold, or a class or the groups are too small.
    """
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold  # on demand: it takes 0.5 s

    if fold >= folds:
        raise UserError(f"datamodule.fold: there is no fold {fold} of {folds}; choose from 0 to {folds - 1}")
    if labels.ndim == 2:
        taken = stratify(labels, groups, [1 / folds] * folds, np.random.default_rng(seed)) == fold
        _check_label_sets(labels, taken, groups, class_names)
        return np.flatnonzero(~taken), np.flatnonzero(taken)
    counts = np.bincount(labels, minlength=len(class_names))
    left = counts - -(-counts // folds)
    small = np.flatnonzero((counts < folds) | (left < 2))  # one of the left ones is for validation
    if len(small):
        problem = f"class {class_names[small[0]]} has too few samples ({counts[small[0]]}) for {folds} folds"
        raise UserError(f"datamodule.folds: {problem}; add some, or choose fewer folds")
    if groups is not None and len(np.unique(groups)) <= folds:
        problem = f"{len(np.unique(groups))} groups are too few for {folds} folds"
        raise UserError(f"datamodule.folds: {problem}; choose fewer folds")
    splitter = (StratifiedKFold if groups is None else StratifiedGroupKFold)(folds, shuffle=True, random_state=seed)
    kept, taken = list(splitter.split(labels, labels, groups))[fold]
    missing = np.setdiff1d(labels[taken], labels[kept])
    if len(missing):
        raise UserError(f"class {class_names[missing[0]]}: all its groups are in one fold; add groups to it")
    return kept, taken


def _check_label_sets(
    labels: np.ndarray, taken: np.ndarray, groups: np.ndarray | None, class_names: Sequence[str]
) -> None:
    """Raises UserError if a part of the samples, or all samples with a label, would be missing from training."""
    kind = "samples" if groups is None else "groups"
    if taken.all() or not taken.any():
        raise UserError(f"datamodule: there are too few {kind} to take a split from; name the splits")
    missing = np.flatnonzero(labels.any(0) & ~labels[~taken].any(0))
    if len(missing):
        name = class_names[missing[0]]
        raise UserError(f"class {name}: all its {kind} would leave the training split; add {kind}, or name the splits")


def nested_subset(labels: np.ndarray, fraction: float, seed: int) -> np.ndarray:
    """Positions of `fraction` of each class, at least one, in ascending order; part of those of a larger fraction.

    Of samples with several labels, those of `fraction` of all.
    """
    shuffled = np.random.default_rng(seed).permutation(len(labels))
    if labels.ndim == 2:
        return np.sort(shuffled[: max(1, round(len(labels) * fraction))])
    by_class = shuffled[np.argsort(labels[shuffled], kind="stable")]
    counts = np.bincount(labels)
    members = np.split(by_class, counts.cumsum()[:-1])
    return np.sort(np.concatenate([of_class[: max(1, round(len(of_class) * fraction))] for of_class in members]))


def _take_groups(
    labels: np.ndarray, groups: np.ndarray, fraction: float, generator: np.random.Generator, num_classes: int
) -> np.ndarray:
    """Takes groups in random order, each if it brings the class counts closer to the wanted ones. A group that holds
    all training samples of a class is kept."""
    names, member = np.unique(groups, return_inverse=True)
    if len(names) < 2:
        raise UserError("group: there is only one, which cannot be split; name the splits instead")
    left = np.bincount(labels, minlength=num_classes).tolist()
    missing = [count * fraction for count in left]
    # The classes of each group and their counts, sparse: most groups hold few of many classes.
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
    """N positions in random order with equal class counts, plus or minus one. Small classes repeat samples, each only
    after all others of its class; of large classes some samples are left to later epochs."""
    present = generator.permutation(np.unique(labels))
    drawn = []
    for i, label in enumerate(present):
        members = np.flatnonzero(labels == label)
        wanted = len(labels) // len(present) + (i < len(labels) % len(present))
        rounds = [generator.permutation(members) for _ in range(-(-wanted // len(members)))]
        drawn.append(np.concatenate([members[:0], *rounds])[:wanted])
    return generator.permutation(np.concatenate(drawn))
