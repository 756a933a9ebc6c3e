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
from datamodules.storage.stored_file import size_of

SUFFIXES = (".csv", ".tsv", ".jsonl", ".txt")
FIX = "give a table with a column of paths and a column of labels"
SAVE_AS = "save the table as CSV in UTF-8"

MAX_CELL = 2**31 - 1  # letters; a cell of pixels is long
NESTED = "\0"  # a cell that is a list or an object; before each item of a list of words

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
    number = 0  # of the last row that was read

    def numbered(rows: Iterator[list[str]]) -> Iterator[NumberedRow]:
        nonlocal number
        for row in rows:
            number += 1
            if row:
                yield number, row

    try:
        with _open(item) as file:
            if where.lower().endswith(".jsonl"):
                header, rows = _json_lines(file)
            elif where.lower().endswith(".txt"):
                header, rows = ["path", "label"], (_path_and_label(line) for line in file)
            else:
                header, rows = _csv_rows(file)
                number = 1
            if any("\0" in word for word in header):
                raise UserError(f"{where}: row 1: holds null bytes; {SAVE_AS}")
            yield header, numbered(rows)
    except OSError as error:
        raise UserError(f"datamodule.root: {where}: {reason(error)}; {FIX}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: row {number + 1} or later: is not UTF-8; {SAVE_AS}") from error
    except csv.Error as error:
        raise UserError(f"{where}: row {number + 1}: is not CSV ({error}); correct its quotes") from error
    except LineError as error:
        raise UserError(f"{where}: row {number + 1}: {error}") from error


class LineError(Exception):
    """A line of JSON or of a list is malformed; the text says how."""


def _open(item: Item) -> TextIO:
    if isinstance(item, str):
        size_of(item)
        file: Any = open(item, "rb")  # noqa: SIM115  # closed with its wrapper
        start = file.read(2)
        file.seek(0)
    else:
        content = item.read_bytes()
        file, start = io.BytesIO(content), content[:2]
    is_utf16 = start in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    return io.TextIOWrapper(file, encoding="utf-16" if is_utf16 else "utf-8-sig", newline="")


def _csv_rows(file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    csv.field_size_limit(MAX_CELL)
    first = file.readline()
    if first.lower().startswith("sep="):  # Excel's own line
        first = file.readline()
    unquoted = "".join(first.split('"')[::2])
    rows = csv.reader(chain([first], file), delimiter=max(",;\t", key=unquoted.count), strict=True)
    return [word.strip() for word in next(rows, [])], rows


def _path_and_label(line: str) -> list[str]:
    """The cells of `a/b.jpg 3`, `a/b.jpg,3` or `a/b`; a path may contain blanks."""
    line = line.strip()
    if not line or line.startswith("#"):
        return []
    *path, last = re.split(r"[\s,;]+", line)
    if not path or is_image(last):
        return [line, PurePath(line).parent.name]
    if len(path) > 1 and not is_image(path[-1]):
        raise LineError(f"has {len(path) + 1} fields; give a path and a label")
    return [line[: -len(last)].rstrip(" \t,;"), last]


def _json_lines(file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    """Objects of the keys of the first one; a missing value is an empty cell."""
    lines = (line for line in file if line.strip())
    first = next(lines, "{}")
    keys = list(_json_object(first))

    def rows() -> Iterator[list[str]]:
        for line in chain([first], lines):
            values = _json_object(line)
            yield [_json_cell(values.get(key)) for key in keys]

    return [key.strip() for key in keys], rows()


def _json_object(line: str) -> dict[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:  # not JSON, a number of 5,000 digits, too many brackets
        raise LineError("is not JSON; write an object in each line") from error
    if not isinstance(values, dict):
        raise LineError("is not a JSON object; write one in each line")
    return values


def _json_cell(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(number, int | float) for number in value):
        return " ".join(map(str, value))  # pixels
    if isinstance(value, list) and all(isinstance(word, str) and word for word in value):
        return "".join(NESTED + word for word in value)
    if isinstance(value, list | dict):
        return NESTED
    return "" if value is None else str(value)
