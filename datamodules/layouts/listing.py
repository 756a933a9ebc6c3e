"""Listing: the labelled samples of a source before they are loaded, and how they were recognised."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from conf.errors import UserError
from conf.text import is_number
from datamodules.layouts.folder import Item
from datamodules.splits import SPLIT_NAMES, Samples, by_split

# More classes than this, all numbers and some with decimals, are measurements.
MAX_DECIMAL_CLASSES = 20
# Separators between several labels in one cell.
SEPARATORS = "|;, "
# Names shown of many.
MAX_NAMED_FILES = 3
INTEGER = re.compile("-?[0-9]{1,18}")


class Listing:
    """Labelled samples in the order of their source.

    Args:
        layout: how they are laid out, such as `class folders`.
    """

    def __init__(self, layout: str) -> None:
        self.layout = layout
        self.class_names: list[str] | None = None
        """In the order of the source, if it has one"""
        self.split_sources: dict[str, str] = {}
        """Split → where it comes from, if that has another name"""
        self.not_used: list[str] = []
        """Files and folders of the source that are not used"""
        self.has_folds = False
        """Whether a column of folds chooses the test split"""
        self._items: list[Item] = []
        self._files: list[str] = []
        self._labels: list[int] = []
        self._label_names: dict[str, int] = {}  # by first appearance
        self._splits: list[str | None] = []
        self._groups: list[int] = []
        self._group_names: dict[str | None, int] = {}

    def add(self, item: Item, file: str, label: str, split: str | None = None, group: str | None = None) -> None:
        """Adds a sample.

        Args:
            item: what is decoded.
            file: its name to be displayed.
            label: the name of its class.
            split: train, val or test; None for all samples if the source has no splits.
            group: see `Samples.groups`; None for all samples if there are none.
        """
        self._items.append(item)
        self._files.append(file)
        self._labels.append(self._label_names.setdefault(label, len(self._label_names)))
        self._splits.append(split)
        self._groups.append(self._group_names.setdefault(group, len(self._group_names)))

    def labelled_items(self) -> Iterator[tuple[Item, str]]:
        names = list(self._label_names)
        for item, label in zip(self._items, self._labels, strict=True):
            yield item, names[label]

    def __len__(self) -> int:
        return len(self._items)

    def splits(self) -> tuple[dict[str, Samples], list[str]]:
        """The samples of each split, and the class names: those given, or the sorted labels.

        Raises:
            UserError: the labels are measurements, or several in one.
        """
        names = self.class_names
        if names is None:
            names = _in_order(list(self._label_names))
            _check_labels(names)
        position = {name: label for label, name in enumerate(names)}
        labels = np.array([position[name] for name in self._label_names], np.int64)[self._labels]
        groups = None if None in self._group_names else np.array(self._groups)
        whole = Samples(self._items, labels, self._files, groups)
        if None in self._splits:
            return {"train": whole}, names
        return by_split(whole, np.array(self._splits)), names

    def describe(self) -> str:
        """How the source was recognised, in one line."""
        counts = Counter(self._splits)
        parts = [self.layout]
        if None not in counts:
            words = [self._named_split(split) for split in SPLIT_NAMES if split in counts]
            parts.append(f"splits: {', '.join(words)}")
        if None not in self._group_names:
            parts.append(f"{len(self._group_names):,} groups")
        if self.not_used:
            parts.append(f"not used: {shorten(self.not_used)}")
        return "; ".join(parts)

    def _named_split(self, split: str) -> str:
        source = self.split_sources.get(split, split)
        return split if source == split else f"{split} ({source})"


def shorten(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - MAX_NAMED_FILES} more" if len(names) > MAX_NAMED_FILES else ""
    return ", ".join(names[:MAX_NAMED_FILES]) + more


def _in_order(labels: list[str]) -> list[str]:
    """Labels in numeric order if all are integers, else in that of their letters."""
    if all(INTEGER.fullmatch(label) for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def _check_labels(names: list[str]) -> None:
    if len(names) > MAX_DECIMAL_CLASSES and any("." in name for name in names) and all(map(is_number, names)):
        problem = f"{len(names)} different numbers look like measurements; Litmus classifies"
        raise UserError(f"datamodule.columns.label: {problem}; give a column of classes")
    for name in names:
        for separator in SEPARATORS:
            parts = name.split(separator)
            if len(parts) > 1 and all(part.strip() in names for part in parts):
                problem = f"'{name}' looks like {len(parts)} labels, but an image has one"
                raise UserError(f"datamodule.columns.label: {problem}; leave one, or make it a class of its own")
