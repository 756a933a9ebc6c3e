"""Files of rows as spreadsheets, scripts and papers write them."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import PurePath
from typing import Any, TextIO

from conf.errors import UserError
from datamodules.layouts.folder import Item, is_image
from datamodules.storage.image_header import reason

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
FIX = "give a table with a column of paths and a column of labels"
SAVE_AS = "save the table as CSV in UTF-8"

# The number of a row as a spreadsheet counts, and its cells.
NumberedRow = tuple[int, list[str]]


@contextmanager
def open_table(item: Item, where: str) -> Iterator[tuple[list[str], Iterator[NumberedRow]]]:
    """The header, stripped, and the rows of a table.

    CSV with commas, semicolons (where the comma is the decimal separator) or tabs, in UTF-8 or UTF-16; JSON lines; in
    `.txt`, without a header, a path and its label, or a path below a folder of its label's name.

    Args:
        item: see `folder.Item`.
        where: its name for messages.

    Raises:
        UserError: it cannot be read, or a row is malformed.
    """
    number = 0

    def numbered(rows: Iterator[list[str]], start: int) -> Iterator[NumberedRow]:
        nonlocal number
        number = start - 1
        for row in rows:
            number += 1
            if row:
                yield number, row
        number += 1

    try:
        with _open(item) as file:
            suffix = PurePath(where).suffix.lower()
            if suffix == ".jsonl":
                header, rows = _json_lines(file)
            elif suffix == ".txt":
                header, rows = ["path", "label"], (_path_and_label(line) for line in file)
            else:
                header, rows = _csv_rows(file)
            yield header, numbered(rows, 1 if suffix in (".jsonl", ".txt") else 2)
    except OSError as error:
        raise UserError(f"datamodule.root: {where}: {reason(error)}; {FIX}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: row {number + 1} or later: is not UTF-8; {SAVE_AS}") from error
    except csv.Error as error:
        raise UserError(f"{where}: row {number + 1}: is not CSV ({error}); correct its quotes") from error
    except (json.JSONDecodeError, AttributeError) as error:
        raise UserError(f"{where}: row {number + 1}: is not a JSON object; write one in each line") from error


def _open(item: Item) -> TextIO:
    if isinstance(item, str):
        file: Any = open(item, "rb")  # noqa: SIM115  # closed with its wrapper
        start = file.read(2)
        file.seek(0)
    else:
        content = item.read_bytes()
        file, start = io.BytesIO(content), content[:2]
    is_utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(file, encoding="utf-16" if is_utf16 else "utf-8-sig", newline="")


def _csv_rows(file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    first = file.readline()
    if first.lower().startswith("sep="):  # Excel's own line
        first = file.readline()
    unquoted = "".join(first.split('"')[::2])
    rows = csv.reader(chain([first], file), delimiter=max(",;\t", key=unquoted.count), strict=True)
    return [word.strip() for word in next(rows, [])], rows


def _path_and_label(line: str) -> list[str]:
    """The cells of `a/b.jpg 3`, `a/b.jpg,3` or `a/b`; a path may contain blanks."""
    line = line.strip()
    cells = re.split(r"[\s,;]+(?=[^\s,;]+$)", line)
    if len(cells) < 2 or is_image(cells[1]):
        cells = [line, PurePath(line).parent.name]
    return cells if line else []


def _json_lines(file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    """Objects of the keys of the first one; a missing value is an empty cell."""
    lines = (line for line in file if line.strip())
    first = next(lines, "{}")
    keys = list(json.loads(first).keys())

    def rows() -> Iterator[list[str]]:
        for line in chain([first], lines):
            values = json.loads(line)
            yield ["" if values.get(key) is None else str(values[key]) for key in keys]

    return [key.strip() for key in keys], rows()
