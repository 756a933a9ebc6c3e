"""datamodule.relabel: new labels of some samples, from a table such as task=audit writes."""

import csv
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from conf.errors import UserError, nearest
from conf.text import csv_cell, from_csv_cell
from datamodules.splits import Samples

COLUMNS = ("file", "new_label")
DROP = "drop"
DROPPED = -1


def read_new_labels(path: Path, splits: Mapping[str, Samples], class_names: Sequence[str]) -> dict[str, int]:
    """New labels by the name of a sample as a CSV table has it; -1 for one to drop.

    Rows without a new label change nothing. `drop` leaves a sample out, unless a class has this name.

    Args:
        path: a CSV table with the columns `file` and `new_label`.

    Raises:
        UserError: the table is malformed, or names a file or a class that the data lack, or a file twice.
    """
    labels = {_written(name): label for label, name in enumerate(class_names)}
    labels.setdefault(DROP, DROPPED)
    counts = Counter(_written(name) for samples in splits.values() for name in samples.files)
    new_labels: dict[str, int] = {}
    for file, new_label in _rows(path):
        if file in new_labels or counts[file] != 1:
            problem = "is listed twice" if file in new_labels else "is the name of several samples"
            problem = problem if counts[file] else "is not in the data"
            raise UserError(f"{path}: {file} {problem}; remove the row, or set datamodule.relabel=null")
        if new_label not in labels:
            raise UserError(f"{path}: {file}: there is no class '{new_label}'; {nearest(new_label, labels)}")
        new_labels[file] = labels[new_label]
    return new_labels


def _rows(path: Path) -> list[tuple[str, str]]:
    """Files and new labels, of the rows with a new label."""
    if not path.is_file():
        raise UserError(f"datamodule.relabel: {path} is not a file; give a table with the columns {', '.join(COLUMNS)}")
    try:
        with open(path, newline="", encoding="utf-8-sig", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            if not set(COLUMNS) <= set(table.fieldnames or ()):
                raise UserError(f"{path}: lacks a column; it needs {' and '.join(COLUMNS)}")
            rows = [(from_csv_cell(row["file"] or ""), from_csv_cell(row["new_label"] or "").strip()) for row in table]
            return [(name, new_label) for name, new_label in rows if new_label]
    except (OSError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read ({error}); save it as CSV again") from error


def _written(name: str) -> str:
    """A name as it is read from a cell, where control characters are escaped."""
    return from_csv_cell(str(csv_cell(name)))


def relabel(
    splits: dict[str, Samples], rows: dict[str, np.ndarray], new_labels: Mapping[str, int], class_names: Sequence[str]
) -> None:
    """Gives samples their new labels and drops others, in place.

    Args:
        rows: the position among all samples of each sample of a split, int64 `[N]`.

    Raises:
        UserError: a split, or a class of the training split, has no sample left.
    """
    for name, samples in splits.items():
        labels = samples.labels.copy()
        for position, file in enumerate(samples.files):
            labels[position] = new_labels.get(_written(file), labels[position])
        kept = np.flatnonzero(labels != DROPPED)
        if not len(kept):
            raise UserError(f"datamodule.relabel: drops every sample of {name}; keep some")
        lost = np.setdiff1d(samples.labels, labels[kept])
        if name == "train" and len(lost):
            raise UserError(f"datamodule.relabel: leaves no training sample of class {class_names[lost[0]]}; keep some")
        splits[name], rows[name] = samples._replace(labels=labels).take(kept), rows[name][kept]
