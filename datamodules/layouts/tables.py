"""Tables of images: a row for each, with its path or its pixels, its label, and optionally its split and group."""

import os
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import PurePath
from typing import NamedTuple

import numpy as np
from PIL import Image

from conf.errors import UserError, nearest
from datamodules import checks
from datamodules.layouts.columns import Chosen, Columns, choose_columns
from datamodules.layouts.folder import Folder, Item
from datamodules.layouts.listing import Listing
from datamodules.layouts.named_images import image_finder
from datamodules.layouts.table_file import NumberedRow, open_table
from datamodules.splits import SPLIT_WORDS, split_of

# Rows that a message names.
MAX_NAMED = 10


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


def read_tables(tables: Sequence[Table], options: TableOptions) -> Listing:
    """The samples of one or more tables.

    Raises:
        UserError: a table cannot be read, or a row is malformed.
    """
    names = ", ".join(PurePath(table.where).name for table in tables)
    listing = Listing(f"{'table' if len(tables) == 1 else 'tables'} {names}")
    for table in tables:
        with open_table(table.item, table.where) as (header, rows):
            first = next(rows, None)
            if first is None and any(header):
                raise UserError(f"{table.where}: holds no row below its header; add some")
            columns = choose_columns(table.where, header, (first or (1, []))[1], options.columns)
            assert first is not None  # without a header there is no column
            _add_rows(listing, table, options, header, columns, chain([first], rows))
        if table.split:
            listing.split_sources[table.split] = table.where
    listing.layout += f" ({_named(header, columns)})"
    return listing


def label_names(table: Table, options: TableOptions) -> list[str] | None:
    """The names of the columns of labels; None if the table has no columns of images and labels."""
    try:
        with open_table(table.item, table.where) as (header, rows):
            first = next(rows, (0, [""] * len(header)))[1]
            columns = choose_columns(table.where, header, first, options.columns)
    except UserError:
        return None
    return [header[position] for position in columns.label]


def first_label(table: Table, options: TableOptions) -> tuple[str, str | None]:
    """The label of the first row, and the path of its image if it is found."""
    with open_table(table.item, table.where) as (header, rows):
        number, row = next(rows)
        columns = choose_columns(table.where, header, row, options.columns)
        where = f"{table.where}: row {number}"
        label = _label_reader(header, columns)(where, row)
        if columns.path is None:
            return label, None
        item = image_finder(table.folder, options.image_dir)(where, row[columns.path], table.split)
    return label, item if isinstance(item, str) else getattr(item, "name", None)


def _named(header: Sequence[str], columns: Columns) -> str:
    """The columns in use, as `image: id, label: breed`."""
    named = {"image": columns.path, "split": columns.split, "fold": columns.fold, "group": columns.group}
    words = [f"{role}: {header[position]}" for role, position in named.items() if position is not None]
    labels = [header[position] for position in columns.label]
    return ", ".join([*words, f"label: {labels[0]}" if len(labels) == 1 else f"labels: {len(labels)} one-hot columns"])


def _add_rows(
    listing: Listing,
    table: Table,
    options: TableOptions,
    header: Sequence[str],
    columns: Columns,
    rows: Iterator[NumberedRow],
) -> None:
    label_of = _label_reader(header, columns)
    split_of_row = _split_reader(table, columns, options.fold)
    find = image_finder(table.folder, options.image_dir)
    seen: dict[Item, int] = {}  # path → row
    group_splits: dict[str, str | None] = {}
    unlabelled: list[int] = []
    for number, row in rows:
        where = f"{table.where}: row {number}"
        if len(row) != len(header):
            problem = f"has {len(row)} fields, the header {len(header)}"
            raise UserError(f"{where}: {problem}; quote fields that contain a separator")
        label = label_of(where, row)
        group = None if columns.group is None else row[columns.group].strip()
        if group == "":
            raise UserError(f"{where}: {header[columns.group or 0]} is empty; fill it or remove the row")
        split = split_of_row(where, row)
        if columns.path is None:
            item, file = _image(where, [row[position] for position in columns.pixels]), f"{table.where}: row {number}"
        else:
            file = row[columns.path]
            if not file.strip():
                raise UserError(f"{where}: {header[columns.path]} is empty; fill it or remove the row")
            item = find(where, file, split)
            key = os.path.normpath(item) if isinstance(item, str) and ("./" in file or "//" in file) else item
            first = seen.setdefault(key, number)
            if first != number:  # it could be in two splits, or have two labels
                raise UserError(f"{where}: {file} is listed in row {first} already; keep one of the two")
        if not label:
            unlabelled.append(number)
            continue
        if group is not None and group_splits.setdefault(group, split) != split:
            problem = f"group '{group}' is in {split}, but above in {group_splits[group]}"
            raise UserError(f"{where}: {problem}; keep each group in one split")
        listing.add(item, file, label, split, group)
    if unlabelled:
        named = ", ".join(map(str, unlabelled[:MAX_NAMED]))
        more = f" and {len(unlabelled) - MAX_NAMED} more" if len(unlabelled) > MAX_NAMED else ""
        rows_named = f"row {named}" if len(unlabelled) == 1 else f"rows {named}{more}"
        if not options.skip_unlabelled:
            fix = "fill it, remove the row, or set datamodule.on_error=skip"
            raise UserError(f"{table.where}: {rows_named}: {header[columns.label[0]]} is empty; {fix}")
        checks.warn(f"{table.where}: skipped {rows_named} without a label")


def _label_reader(header: Sequence[str], columns: Columns) -> Callable[[str, list[str]], str]:
    """Returns the function from a row to its label."""
    if len(columns.label) == 1:
        position = columns.label[0]
        return lambda where, row: row[position].strip()

    def one_hot(where: str, row: list[str]) -> str:
        hot = [header[i] for i in columns.label if row[i].strip() not in ("", "0", "0.0")]
        if len(hot) != 1:
            problem = f"{len(hot)} of the {len(columns.label)} label columns are not 0"
            raise UserError(f"{where}: {problem}, but an image has one label; correct it, or choose the columns")
        return hot[0]

    return one_hot


def _split_reader(table: Table, columns: Columns, fold: int) -> Callable[[str, list[str]], str | None]:
    """Returns the function from a row to its split."""
    position = columns.fold if columns.split is None else columns.split
    if position is None:
        return lambda where, row: table.split

    def split(where: str, row: list[str]) -> str:
        word = row[position].strip()
        name = split_of(word)
        if name is None and columns.split is None and word.removesuffix(".0").isdecimal():
            return "test" if int(word.removesuffix(".0")) == fold else "train"
        if name is None:
            raise UserError(f"{where}: '{word}' is not a split; {nearest(word, SPLIT_WORDS)}")
        return name

    return split


def _image(where: str, cells: list[str]) -> Image.Image:
    """The image of a row of pixels, 0 … 255: a square, grey, or RGB with its channels last."""
    numbers = cells[0].split() if len(cells) == 1 else cells
    try:
        pixels = np.array(numbers, np.float32)
    except ValueError as error:
        raise UserError(f"{where}: a pixel is not a number; correct it") from error
    side = int(np.sqrt(len(pixels)))
    if side * side == len(pixels):
        shape: tuple[int, ...] = (side, side)
    else:
        side = int(np.sqrt(len(pixels) / 3))
        shape = (side, side, 3)
        if side * side * 3 != len(pixels):
            raise UserError(f"{where}: {len(pixels)} pixels are not a square image, grey or RGB; use datamodule=arrays")
    if (pixels != pixels.clip(0, 255).round()).any():
        raise UserError(f"{where}: a pixel is not an integer from 0 to 255; use datamodule=arrays")
    return Image.fromarray(pixels.astype(np.uint8).reshape(shape))
