"""CSV tables as spreadsheets write them."""

import csv
from collections.abc import Iterator
from itertools import chain
from typing import TextIO


def header_and_rows(file: TextIO) -> tuple[list[str], Iterator[list[str]]]:
    """A table's header, stripped and in lower case, and its rows. The separator is a comma, a semicolon (as in the CSV
    files of spreadsheets where the comma is the decimal separator) or a tab."""
    first = file.readline()
    unquoted = "".join(first.split('"')[::2])
    rows = csv.reader(chain([first], file), delimiter=max(",;\t", key=unquoted.count), strict=True)
    return [word.strip().lower() for word in next(rows, [])], rows
