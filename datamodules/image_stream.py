"""Any number of image files: found by a name for them, decoded in batches as they are asked for."""

import csv
import os
from collections.abc import Iterator, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conf.errors import UserError, nearest
from datamodules.image_folder import images_below, is_image
from datamodules.image_table import header_and_rows
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.worker_pool import Workers


def find(source: str) -> list[str]:
    """The files that `source` names: itself, all images below a folder in the order of their names, the column `file`
    of a table such as a CSV file (from the table's folder on), or what a glob finds.

    Raises:
        UserError: none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        found = sorted(images_below(str(path)))
    elif path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        found = _listed(path)
    elif path.is_file():
        found = [str(path)]
    else:
        found = [each for each in sorted(glob(str(path), recursive=True)) if is_image(each)]  # noqa: PTH207
    if not found:
        raise UserError(f"input: {source} names no image; give a file, a folder, a table of files, or a glob")
    return found


def _listed(table: Path) -> list[str]:
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            header, rows = header_and_rows(file)
            if "file" not in header:
                raise UserError(f"input: {table} has no column 'file'; {nearest('file', header)}")
            at = header.index("file")
            found = [os.path.expanduser(row[at]) for row in rows if row]  # noqa: PTH111  # Path's would refuse ~$a.png
            return [str(table.parent / file) for file in found if file]
    except (UnicodeDecodeError, csv.Error, IndexError) as error:
        raise UserError(f"input: {table} is no CSV table in UTF-8 ({error}); correct it") from error


class DecodedBatch(NamedTuple):
    """Images of some files."""

    files: list[str]
    """Those that could be read"""
    inputs: np.ndarray
    """uint8 `[N, channels, height, width]`, one for each of `files`"""
    problems: list[tuple[str, str]]
    """The other files, and why"""


def read_in_batches(
    files: Sequence[str], form: ImageSpec, batch_size: int, num_workers: int | None, device: str
) -> Iterator[DecodedBatch]:
    """Decodes the files in their order. Never more than three batches a process are held, whatever their number.

    Args:
        num_workers: see `Workers`.
        device: where a network works meanwhile: to one on a `cpu`, processes leave the cores.

    Raises:
        UserError: `batch_size` is none.
    """
    if batch_size < 1:
        raise UserError(f"datamodule.batch_size: must be 1 or more, not {batch_size}; try 64")
    workers = Workers(num_workers, files, niceness=19 if device == "cpu" else 0)
    return _decoded(files, form, batch_size, workers)


def _decoded(files: Sequence[str], form: ImageSpec, batch_size: int, workers: Workers) -> Iterator[DecodedBatch]:
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with workers:
        for batch, found in zip(batches, workers.map(partial(decode_all, spec=form), batches), strict=True):
            sound = [i for i in range(len(batch)) if i not in found.bad]
            problems = [(batch[i], reason) for i, reason in found.bad.items()]
            yield DecodedBatch([batch[i] for i in sound], found.pixels[sound], problems)
