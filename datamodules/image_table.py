"""Image tables: a CSV file of paths and labels, optionally splits and groups."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conf.errors import UserError, nearest
from datamodules.image_datamodule import ImageDataModule
from datamodules.splits import SPLIT_WORDS, Samples, by_split
from datamodules.storage.csv_table import header_and_rows
from datamodules.storage.image_header import reason

COLUMNS = ("path", "label", "split", "group")
FIX = "give a CSV table with the columns path and label"


class Row(NamedTuple):
    """A row of the table."""

    number: int
    """As in a spreadsheet: the header is 1"""
    path: str
    label: str
    split: str | None
    """train, val or test; None without that column"""
    group: str | None


@dataclass(kw_only=True, eq=False, repr=False)
class ImageTableDataModule(ImageDataModule):
    """A UTF-8 table as `header_and_rows` reads it, with the columns `path`, `label` and optionally `split` and `group`,
    in any order; other columns are ignored. Images of one group stay in one split. The classes are the sorted labels.

    The table is held in memory, some 300 bytes per row. Unless `channels` and `image_size` are given, the headers of
    all images are read to infer them.

    Args:
        root: the table. Its paths are absolute, begin with `~`, or are relative to the table's folder.
    """

    root: str

    def read(self) -> tuple[dict[str, Samples], list[str]]:
        table = Path(self.root).expanduser()
        folder = os.path.abspath(table.parent)  # noqa: PTH100  # rows may spell it in other ways
        names: dict[str, int] = {}  # class → number, by first appearance
        groups: dict[str | None, tuple[int, str | None]] = {}  # group → number and split
        seen: dict[str, int] = {}  # path → row
        items, files, labels, members, splits = [], [], [], [], []
        for row in _rows(table):
            item = os.path.join(folder, os.path.expanduser(row.path))  # noqa: PTH111, PTH118  # faster than Path
            plain = os.path.normpath(item) if "./" in row.path or "//" in row.path else item
            first = seen.setdefault(plain, row.number)
            if first != row.number:  # it could be in two splits, or have two labels
                where = f"{table}: row {row.number}: {row.path}"
                raise UserError(f"{where} is listed in row {first} already; keep one of the two")
            items.append(item)
            files.append(row.path)
            labels.append(names.setdefault(row.label, len(names)))
            splits.append(row.split)
            number, split = groups.setdefault(row.group, (len(groups), row.split))
            if split != row.split and row.group is not None:
                where = f"{table}: row {row.number}: group '{row.group}' is in {row.split}"
                raise UserError(f"{where}, but above in {split}; keep each group in one split")
            members.append(number)
        if not items:
            raise UserError(f"{table}: holds no row below its header; add some")
        class_names = sorted(names)
        order = {name: position for position, name in enumerate(class_names)}
        label_of = np.array([order[name] for name in names])[labels]
        whole = Samples(items, label_of, files, np.array(members) if None not in groups else None)
        if splits[0] is None:
            return {"train": whole}, class_names
        return by_split(whole, np.array(splits)), class_names


def _rows(table: Path) -> Iterator[Row]:
    """
    Raises:
        UserError: the table cannot be read, or a row is malformed.
    """
    number = 1
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            header, rows = header_and_rows(file)
            _check_header(table, header)
            path_at, label_at = header.index("path"), header.index("label")
            split_at = header.index("split") if "split" in header else None
            group_at = header.index("group") if "group" in header else None
            for number, row in zip(count(2), rows):
                if not row:
                    continue
                if len(row) != len(header):
                    problem = f"has {len(row)} fields, the header {len(header)}"
                    raise UserError(f"{table}: row {number}: {problem}; quote fields that contain a separator")
                path, label = row[path_at], row[label_at].strip()
                split = None if split_at is None else row[split_at].strip()
                group = None if group_at is None else row[group_at].strip()
                if not (path and label and group != ""):
                    cells = {"path": path, "label": label, "group": group}
                    column = next(name for name, cell in cells.items() if cell == "")
                    raise UserError(f"{table}: row {number}: {column} is empty; fill it or remove the row")
                if split is not None and split not in SPLIT_WORDS:
                    hint = nearest(split, SPLIT_WORDS)
                    raise UserError(f"{table}: row {number}: '{split}' is not a split; {hint}")
                yield Row(number, path, label, split and SPLIT_WORDS[split], group)
    except OSError as error:
        raise UserError(f"datamodule.root: {table}: {reason(error)}; {FIX}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{table}: row {number + 1} or later: is not UTF-8; save the table as UTF-8") from error
    except csv.Error as error:
        raise UserError(f"{table}: row {number + 1}: is not CSV ({error}); correct its quotes") from error


def _check_header(table: Path, header: list[str]) -> None:
    for column in ("path", "label"):
        if column not in header:
            others = [word for word in header if word and word not in COLUMNS]
            hint = nearest(column, others) if others else "write it first"
            raise UserError(f"{table}: row 1: there is no column '{column}'; {hint}")
    for word in header:
        if word in COLUMNS and header.count(word) > 1:
            raise UserError(f"{table}: row 1: column '{word}' is listed twice; remove one")
        if word not in COLUMNS and get_close_matches(word, COLUMNS, 1, cutoff=0.75):
            raise UserError(f"{table}: row 1: there is no column '{word}'; {nearest(word, COLUMNS)}")
