"""Images to predict: any number of files, decoded in batches on demand."""

import os
from collections.abc import Iterator, Sequence
from functools import partial
from glob import glob
from pathlib import Path
from typing import NamedTuple

import numpy as np

from conf.errors import UserError, nearest
from datamodules.layouts.folder import DiskFolder, is_image
from datamodules.layouts.table_file import open_table
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.worker_pool import Workers


def find(source: str) -> list[str]:
    """The image files of a source: a file, all images below a folder, the column `file` of a CSV table (relative to the
    table's folder), or the matches of a glob, sorted.

    Raises:
        UserError: there are none.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        files = sorted(item for name, item in DiskFolder(path).walk() if is_image(name))
    elif path.suffix.lower() in (".csv", ".tsv") and path.is_file():
        files = _listed(path)
    elif path.is_file():
        files = [str(path)]
    else:
        files = [file for file in sorted(glob(str(path), recursive=True)) if is_image(file)]  # noqa: PTH207
    if not files:
        raise UserError(f"input: {source} matches no images; give a file, a folder, a table of files, or a glob")
    return files


def _listed(table: Path) -> list[str]:
    with open_table(str(table), str(table)) as (header, rows):
        names = [word.lower() for word in header]
        if "file" not in names:
            raise UserError(f"input: {table} has no column 'file'; {nearest('file', header)}")
        cells = [row[names.index("file")] for _, row in rows if len(row) > names.index("file")]
    files = [os.path.expanduser(cell) for cell in cells if cell]  # noqa: PTH111  # Path's fails for ~$a.png
    return [str(table.parent / file) for file in files]


class DecodedBatch(NamedTuple):
    """Decoded images of some files."""

    files: list[str]
    """The readable ones"""
    inputs: np.ndarray
    """uint8 `[N, channels, height, width]`, one for each of `files`"""
    problems: list[tuple[str, str]]
    """The unreadable ones, with reasons"""


def read_in_batches(
    files: Sequence[str], spec: ImageSpec, batch_size: int, num_workers: int | None, device: str
) -> Iterator[DecodedBatch]:
    """Decodes the files in order, holding at most three batches per process.

    Args:
        num_workers: see `Workers`.
        device: of the network: for `cpu`, decoding runs at low priority.

    Raises:
        UserError: `batch_size` is below 1.
    """
    if batch_size < 1:
        raise UserError(f"datamodule.batch_size: must be 1 or more, not {batch_size}; try 64")
    workers = Workers(num_workers, files, niceness=19 if device == "cpu" else 0)
    return _decoded(files, spec, batch_size, workers)


def _decoded(files: Sequence[str], spec: ImageSpec, batch_size: int, workers: Workers) -> Iterator[DecodedBatch]:
    batches = [files[start : start + batch_size] for start in range(0, len(files), batch_size)]
    with workers:
        for batch, decoded in zip(batches, workers.map(partial(decode_all, spec=spec), batches), strict=True):
            readable = [i for i in range(len(batch)) if i not in decoded.bad]
            problems = [(batch[i], reason) for i, reason in decoded.bad.items()]
            yield DecodedBatch([batch[i] for i in readable], decoded.pixels[readable], problems)
