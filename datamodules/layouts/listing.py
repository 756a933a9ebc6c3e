"""Listing: the labelled samples of a source before they are loaded, and how they were recognised."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
from PIL import Image

from conf.errors import UserError
from conf.text import is_number
from datamodules.layouts.folder import Item
from datamodules.splits import SPLIT_NAMES, Samples, by_split

# More classes than this, all numbers and some with decimals, are measurements.
MAX_DECIMAL_CLASSES = 20
# Between several labels in one cell.
Separator = Literal["pipe", "semicolon", "comma", "blank"]
SEPARATORS: dict[Separator, str] = {"pipe": "|", "semicolon": ";", "comma": ",", "blank": " "}
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
        self._label_sets: dict[tuple[str, ...], int] = {}  # by first appearance
        self._splits: list[str | None] = []
        self._groups: list[int] = []
        self._group_names: dict[str | None, int] = {}

    def add(
        self,
        item: Item,
        file: str,
        label: str | tuple[str, ...],
        split: str | None = None,
        group: str | None = None,
    ) -> None:
        """Adds a sample.

        Args:
            item: what is decoded.
            file: its name to be displayed.
            label: the name of its class, or of several.
            split: train, val or test; None for all samples if the source has no splits.
            group: see `Samples.groups`; None for all samples if there are none.
        """
        self._items.append(item)
        self._files.append(file)
        labels = (label,) if isinstance(label, str) else label
        self._labels.append(self._label_sets.setdefault(labels, len(self._label_sets)))
        self._splits.append(split)
        self._groups.append(self._group_names.setdefault(group, len(self._group_names)))

    def labelled_items(self) -> Iterator[tuple[Item, str]]:
        label_sets = list(self._label_sets)
        for item, position in zip(self._items, self._labels, strict=True):
            yield item, "".join(label_sets[position])

    def __len__(self) -> int:
        return len(self._items)

    def splits(self) -> tuple[dict[str, Samples], list[str]]:
        """The samples of each split, and the class names: those given, or the sorted labels.

        Raises:
            UserError: the labels are measurements, or several in one.
        """
        names = self.class_names
        if names is None:
            names = _in_order([name for (name,) in self._label_sets])
            _check_labels(names)
        position = {name: label for label, name in enumerate(names)}
        labels = np.array([position[name] for (name,) in self._label_sets], np.int64)[self._labels]
        return self._by_split(labels), names

    def multi_label_splits(self, separator: Separator) -> tuple[dict[str, Samples], list[str]]:
        """The same with a row of a 0/1 matrix as the labels of each image.

        Args:
            separator: between the labels of one cell. An image that is listed several times has the labels of all.

        Raises:
            UserError: another separator is used, or an image is listed in two splits or groups.
        """
        label_sets = [self._parted(given, SEPARATORS[separator]) for given in self._label_sets]
        names = self.class_names
        if names is None:
            names = _in_order(sorted(set().union(*label_sets) - {""}))
            _check_separator(names, separator)
        position = {name: label for label, name in enumerate(names)}
        rows = np.zeros((len(label_sets), len(names)), np.int64)
        for row, label_set in zip(rows, label_sets, strict=True):
            row[[position[name] for name in label_set if name]] = 1
        labels = rows[self._labels]
        first: dict[Item, int] = {}
        for i, item in enumerate(self._items):
            if isinstance(item, Image.Image):
                continue
            original = first.setdefault(item, i)
            if (self._splits[i], self._groups[i]) != (self._splits[original], self._groups[original]):
                raise UserError(f"{self._files[i]}: is in two splits or groups; keep it in one")
            labels[original] |= labels[i]
        repeated = [i for i, item in enumerate(self._items) if not isinstance(item, Image.Image) and first[item] != i]
        kept = np.setdiff1d(np.arange(len(self._items)), repeated)
        return self._by_split(labels, kept if repeated else None), names

    def _parted(self, given: tuple[str, ...], letter: str) -> set[str]:
        """The labels of a cell; a class that the source names is one label, whatever its name."""
        labels: set[str] = set()
        for name in given:
            labels |= {name} if name in (self.class_names or ()) else {part.strip() for part in name.split(letter)}
        return labels

    def _by_split(self, labels: np.ndarray, kept: np.ndarray | None = None) -> dict[str, Samples]:
        groups = None if None in self._group_names else np.array(self._groups)
        whole, splits = Samples(self._items, labels, self._files, groups), np.array(self._splits)
        if kept is not None:
            whole, splits = whole.take(kept), splits[kept]
        return {"train": whole} if None in self._splits else by_split(whole, splits)

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
    several = _several_in_one(names)
    if several:
        name, separator = several
        fix = f"write datamodule.multi_label=true datamodule.label_separator={separator}, or leave one"
        raise UserError(f"datamodule.columns.label: '{name}' looks like several labels, but an image has one; {fix}")


def _check_separator(names: list[str], separator: Separator) -> None:
    numbers = [name for name in names if re.fullmatch(r"\d+( \d+)+", name)]  # a list of numbers in JSON
    several = (numbers[0], "blank") if numbers else _several_in_one(names)
    if several:
        problem = f"'{several[0]}' looks like several labels, but the separator is {separator}"
        raise UserError(f"datamodule.label_separator: {problem}; write datamodule.label_separator={several[1]}")


def _several_in_one(names: list[str]) -> tuple[str, Separator] | None:
    """A label that consists of others, and the separator between them."""
    for name in names:
        for separator, letter in SEPARATORS.items():
            parts = name.split(letter)
            if len(parts) > 1 and all(part.strip() in names for part in parts):
                return name, separator
    return None
