"""Tables of images: a row for each, with its path or its pixels, its label, and optionally its split and group."""

import os
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from conf.errors import UserError, nearest
from datamodules import checks
from datamodules.layouts.columns import HOT, NOT_HOT, Chosen, ColumnError, Columns, choose_columns
from datamodules.layouts.folder import Folder, Item
from datamodules.layouts.listing import Listing
from datamodules.layouts.named_images import ImageFinder
from datamodules.layouts.table_file import NESTED, NumberedRow, open_table
from datamodules.splits import SPLIT_WORDS, split_of

MAX_NAMED_ROWS = 10
# Rows whose images decide how images are found.
NUM_FIRST_ROWS = 100


class Table(NamedTuple):
    """A table of the source."""

    where: str
    """Its name for messages"""
    item: Item
    folder: Folder
    """Its paths are relative to it."""
    split: str | None = None
    """Of all its rows"""


class TableOptions(NamedTuple):
    """What the user says about tables."""

    columns: Chosen
    image_dir: str | None
    """Relative to the table's folder"""
    fold: int
    """The test split, where a table has folds"""
    skip_unlabelled: bool
    multi_label: bool
    """Whether an image may have several labels, or none"""


def read_tables(tables: Sequence[Table], options: TableOptions) -> Listing:
    """The samples of one or more tables.

    Raises:
        UserError: a table cannot be read, or a row is malformed.
    """
    names = ", ".join(PurePath(table.where).name for table in tables)
    listing = Listing(f"{'table' if len(tables) == 1 else 'tables'} {names}")
    reader = _Reader(listing, options)
    for table in tables:
        with open_table(table.item, table.where) as (header, rows):
            columns = reader.read(table, header, rows)
        if table.split:
            listing.split_sources[table.split] = table.where
    listing.layout += f" ({_describe(header, columns)})"
    return listing


def label_names(table: Table, options: TableOptions) -> list[str]:
    """The names of the columns of labels.

    Raises:
        ColumnError: there is no column of images or of labels.
        UserError: the table cannot be read.
    """
    with open_table(table.item, table.where) as (header, rows):
        first = next(rows, (0, [""] * len(header)))[1]
        columns = choose_columns(table.where, header, first, options.columns)
    if table.where.lower().endswith(".txt") and not all(first):
        raise ColumnError(f"{table.where}: row 1: has no label; write it after the path")
    return [header[position] for position in columns.label]


def _describe(header: Sequence[str], columns: Columns) -> str:
    """The columns in use, as `image: id, label: breed`."""
    named = {"image": columns.path, "split": columns.split, "fold": columns.fold, "group": columns.group}
    words = [f"{role}: {header[position]}" for role, position in named.items() if position is not None]
    labels = [header[position] for position in columns.label]
    return ", ".join([*words, f"label: {labels[0]}" if len(labels) == 1 else f"labels: {len(labels)} one-hot columns"])


class _Reader:
    """Adds the rows of tables to a listing."""

    def __init__(self, listing: Listing, options: TableOptions) -> None:
        self.listing = listing
        self.options = options
        self.spelling: dict[Item, Item] = {}  # image → its path as it was first written
        self.seen: dict[Item, str | int] = {}  # image → its row, with the table's name if that is an earlier one
        self.group_splits: dict[str, str | None] = {}

    def read(self, table: Table, header: Sequence[str], rows: Iterator[NumberedRow]) -> Columns:
        """Adds the rows of a table."""
        first_rows = list(islice(rows, NUM_FIRST_ROWS))
        if not first_rows and any(header):
            raise UserError(f"{table.where}: holds no row below its header; add some")
        first = first_rows[0][1] if first_rows else []
        columns = choose_columns(table.where, header, first, self.options.columns)
        self.table, self.header, self.columns = table, header, columns
        self.folds: set[str] = set()
        self.num_pixels: int | None = None
        names = [row[columns.path] for _, row in first_rows if columns.path is not None and len(row) > columns.path]
        finder = ImageFinder(table.folder, self.options.image_dir, names) if columns.path is not None else None
        unlabelled: list[int] = []
        for number, row in chain(first_rows, rows):
            where = f"{table.where}: row {number}"
            if len(row) != len(header):
                problem = f"has {len(row)} fields, the header {len(header)}"
                raise UserError(f"{where}: {problem}; quote fields that contain a separator")
            split = self._split(where, row)
            group = self._group(where, row, split)
            if finder is None:
                file = f"{table.where}: row {number}"
                item: Item = self._image(where, row)
            else:
                file = row[columns.path or 0]
                item = self._listed_image(where, number, file, split, finder)
            label = self._label(where, row)
            if label or self.options.multi_label:
                self.listing.add(item, file, label, split, group)
            else:
                unlabelled.append(number)
        self._report(unlabelled)
        for image, place in self.seen.items():
            if isinstance(place, int):
                self.seen[image] = f"{table.where} row {place}"
        return columns

    def _split(self, where: str, row: list[str]) -> str | None:
        position = self.columns.fold if self.columns.split is None else self.columns.split
        if position is None:
            return self.table.split
        word = row[position].strip()
        split = split_of(word)
        if split is None and self.columns.split is None and word.removesuffix(".0").isdecimal():
            fold = word.removesuffix(".0")
            self.folds.add(fold)
            self.listing.has_folds = True
            return "test" if int(fold) == self.options.fold else "train"
        if split is None:
            raise UserError(f"{where}: '{word}' is not a split; {nearest(word, SPLIT_WORDS)}")
        return split

    def _group(self, where: str, row: list[str], split: str | None) -> str | None:
        if self.columns.group is None:
            return None
        group = row[self.columns.group].strip()
        if not group:
            raise UserError(f"{where}: {self.header[self.columns.group]} is empty; fill it or remove the row")
        if self.group_splits.setdefault(group, split) != split:
            problem = f"group '{group}' is in {split}, but above in {self.group_splits[group]}"
            raise UserError(f"{where}: {problem}; keep each group in one split")
        return group

    def _listed_image(self, where: str, number: int, file: str, split: str | None, finder: ImageFinder) -> Item:
        if not file.strip():
            raise UserError(f"{where}: {self.header[self.columns.path or 0]} is empty; fill it or remove the row")
        item = finder.find(where, file, split)
        key = os.path.normpath(item) if isinstance(item, str) and ("./" in file or "//" in file) else item
        first = self.seen.setdefault(key, number)
        if first != number and not self.options.multi_label:  # it could be in two splits, or have two labels
            shown = f"row {first}" if isinstance(first, int) else first
            fix = "keep one of the two, or write datamodule.multi_label=true"
            raise UserError(f"{where}: {file} is listed in {shown} already; {fix}")
        return self.spelling.setdefault(key, item)

    def _label(self, where: str, row: list[str]) -> str | tuple[str, ...]:
        """The label of a row, or several; empty if there is none."""
        if len(self.columns.label) == 1:
            label = row[self.columns.label[0]].strip()
            if label.startswith(NESTED):
                if self.options.multi_label and label != NESTED:
                    return tuple(label.split(NESTED)[1:])
                raise UserError(f"{where}: {self.header[self.columns.label[0]]} is a list or an object; give one label")
            return label
        cells = {self.header[i]: row[i].strip().lower() for i in self.columns.label}
        for name, cell in cells.items():
            if cell not in HOT | NOT_HOT:
                raise UserError(f"{where}: {name} is '{cell}', but a one-hot column is 0 or 1; choose the columns")
        hot = [name for name, cell in cells.items() if cell in HOT]
        if self.options.multi_label:
            return tuple(hot)
        if len(hot) > 1:
            problem = f"{len(hot)} of the {len(cells)} label columns are 1, but an image has one label"
            raise UserError(f"{where}: {problem}; choose the columns, or write datamodule.multi_label=true")
        return hot[0] if hot else ""

    def _image(self, where: str, row: list[str]) -> Image.Image:
        """The image of a row of pixels, 0 … 255: a square, grey, or RGB with its channels last."""
        cells = [row[position] for position in self.columns.pixels]
        try:
            pixels = np.array(cells[0].split() if len(cells) == 1 else cells, np.float32)
        except ValueError as error:
            raise UserError(f"{where}: a pixel is not a number; correct it") from error
        self.num_pixels = self.num_pixels or len(pixels)
        if len(pixels) != self.num_pixels or not len(pixels):
            raise UserError(f"{where}: has {len(pixels)} pixels, not {self.num_pixels or 'any'}; correct it")
        channels = 1 if round(len(pixels) ** 0.5) ** 2 == len(pixels) else 3
        side = round((len(pixels) / channels) ** 0.5)
        if side * side * channels != len(pixels):
            raise UserError(f"{where}: {len(pixels)} pixels are not a square image, grey or RGB; use datamodule=arrays")
        if (pixels != pixels.clip(0, 255).round()).any():
            raise UserError(f"{where}: a pixel is not an integer from 0 to 255; use datamodule=arrays")
        shape = (side, side) if channels == 1 else (side, side, 3)
        return Image.fromarray(pixels.astype(np.uint8).reshape(shape))

    def _report(self, unlabelled: list[int]) -> None:
        """Raises UserError, or warns, of rows without a label; raises UserError if no row is in the test fold."""
        if self.folds and str(self.options.fold) not in self.folds:
            folds = ", ".join(sorted(self.folds, key=int))
            problem = f"{self.table.where} has no fold {self.options.fold}"
            raise UserError(f"datamodule.fold: {problem}; choose from {folds}")
        if not unlabelled:
            return
        named = ", ".join(map(str, unlabelled[:MAX_NAMED_ROWS]))
        more = f" and {len(unlabelled) - MAX_NAMED_ROWS} more" if len(unlabelled) > MAX_NAMED_ROWS else ""
        rows = f"row {named}" if len(unlabelled) == 1 else f"rows {named}{more}"
        if not self.options.skip_unlabelled:
            fix = "fill it, remove the row, or set datamodule.on_error=skip"
            raise UserError(f"{self.table.where}: {rows}: {self.header[self.columns.label[0]]} is empty; {fix}")
        checks.warn(f"{self.table.where}: skipped {rows} without a label")
