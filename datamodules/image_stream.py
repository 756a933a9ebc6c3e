"""Images to predict: any number of files, decoded in batches on demand."""

import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from glob import glob
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from annotated_types import Interval

from conf.annotations import check_value
from conf.errors import UserError, nearest
from datamodules.layouts import archive
from datamodules.layouts.columns import positions_of
from datamodules.layouts.folder import DiskFolder, Item, is_image
from datamodules.layouts.table_file import open_table
from datamodules.storage.decode import ImageSpec, Interpolation, Resize, decode_all
from datamodules.storage.worker_pool import Workers

# Parameters of `ImageDataModule` by which images are predicted. Checking all of them would import Lightning.
PARAMETERS: dict[str, Any] = {
    "resize": Resize,
    "jpeg_draft": bool,
    "interpolation": Interpolation | None,
    "batch_size": Annotated[int, Interval(ge=1, le=1_000_000)],
    "num_workers": Annotated[int, Interval(ge=0, le=1024)] | None,
}


def image_spec(datamodule: Mapping[Any, Any], input_shape: Sequence[int]) -> ImageSpec:
    """How the images of a network are decoded.

    Args:
        datamodule: config of the images it was trained on.
        input_shape: (C, H, W).

    Raises:
        UserError: it was trained on arrays, or the config has a value of another type than `PARAMETERS`.
    """
    if "resize" not in datamodule:
        raise UserError("input: the run was trained on arrays, not images; use an export of it")
    for key, annotation in PARAMETERS.items():
        check_value(f"datamodule.{key}", datamodule.get(key), annotation)
    channels, height, width = input_shape
    interpolation: Interpolation = datamodule.get("interpolation") or "bilinear"
    return ImageSpec(channels, (height, width), datamodule["resize"], datamodule["jpeg_draft"], interpolation)


def find(source: str) -> tuple[list[str], list[Item]]:
    """The images of a source and their names: a file, all images below a folder or in an archive, a table's column of
    paths (relative to its folder), or the matches of a glob, sorted.

    Raises:
        UserError: there are none.
    """
    path = Path(source).expanduser()
    suffix = path.suffix.lower()
    items: list[Item]
    if path.is_dir():
        items = sorted(item for name, item in DiskFolder(path).walk() if is_image(name))
    elif suffix in archive.SUFFIXES and path.is_file():
        members = sorted((name, item) for name, item in archive.open_archive(str(path)).walk() if is_image(name))
        if members:
            return [f"{path}/{name}" for name, _ in members], [item for _, item in members]
        items = []
    elif suffix in (".csv", ".tsv", ".jsonl") and path.is_file():
        items = _listed(path)
    elif path.is_file():
        items = [str(path)]
    else:
        items = [file for file in sorted(glob(str(path), recursive=True)) if is_image(file)]  # noqa: PTH207
    if not items:
        fix = "give a file, a folder, an archive, a table of files, or a glob"
        raise UserError(f"input: {source} matches no images; {fix}")
    return items, items


def _listed(table: Path) -> list[Item]:
    with open_table(str(table), str(table)) as (header, rows):
        first = next(rows, (0, [""] * len(header)))
        column = positions_of(str(table), [word.lower() for word in header], first[1], "path")
        if not column:
            raise UserError(f"input: {table} has no column of files; name it file; {nearest('file', header)}")
        cells = [row[column[0]] for _, row in chain([first], rows) if len(row) > column[0]]
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
    files: Sequence[str],
    items: Sequence[Item],
    spec: ImageSpec,
    batch_size: int,
    num_workers: int | None,
    device: str,
) -> Iterator[DecodedBatch]:
    """Decodes images in order, holding at most three batches per process.

    Args:
        files: a name for each of `items`.
        num_workers: see `Workers`.
        device: of the network: for `cpu`, decoding runs at low priority.
    """
    workers = Workers(num_workers, items, niceness=19 if device == "cpu" else 0)
    return _decoded(files, items, spec, batch_size, workers)


def _decoded(
    files: Sequence[str], items: Sequence[Item], spec: ImageSpec, batch_size: int, workers: Workers
) -> Iterator[DecodedBatch]:
    starts = range(0, len(items), batch_size)
    batches = [items[start : start + batch_size] for start in starts]
    with workers:
        decoded_batches = workers.map(partial(decode_all, spec=spec), batches)
        for start, decoded in zip(starts, decoded_batches, strict=True):
            names = files[start : start + batch_size]
            readable = [i for i in range(len(names)) if i not in decoded.bad]
            problems = [(names[i], reason) for i, reason in decoded.bad.items()]
            yield DecodedBatch([names[i] for i in readable], decoded.pixels[readable], problems)
