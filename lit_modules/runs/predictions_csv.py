"""Writes predictions.csv and confusion.csv, and reads the former."""

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from conf.errors import UserError
from conf.files import write_durably
from conf.text import csv_cell, from_csv_cell
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.predictions import Predictions, names_of

COLUMNS = ("true", "predicted")
MULTI_LABEL_COLUMNS = ("true_labels", "predicted_labels")


def write_predictions(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """One row per sample: `split,file,true,predicted`, then `p/<class>` per class.

    With several labels a sample the columns are `true_labels` and `predicted_labels`, lists in JSON. Probabilities have
    nine significant digits, which determine the float32 value. Names are escaped by `csv_cell`.
    """

    def rows() -> Iterator[Sequence[Any]]:
        first = next(iter(evaluations.values()))
        columns = MULTI_LABEL_COLUMNS if first.is_multi_label else COLUMNS
        yield ["split", "file", *columns, *(csv_cell(f"p/{name}") for name in first.class_names)]
        for split, evaluation in evaluations.items():
            names = evaluation.class_names
            index, true, predicted, probabilities, *_ = evaluation.predictions
            for i, position in enumerate(index.tolist()):
                values = map("{:.9g}".format, probabilities[i].tolist())
                cells = evaluation.files[position], label_cell(true[i], names), label_cell(predicted[i], names)
                yield [split, *map(csv_cell, cells), *values]

    write_durably(path, _csv(rows))


def label_cell(label: np.ndarray, class_names: Sequence[str]) -> str:
    """The name of a label; of a row of a 0/1 matrix the list of its names in JSON."""
    names = names_of(label, class_names)
    return json.dumps(names, ensure_ascii=False) if label.ndim else names[0]


def write_confusion(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """One row per true class: `split,true`, then the number of samples per predicted class."""

    def rows() -> Iterator[Sequence[Any]]:
        yield ["split", "true", *map(csv_cell, next(iter(evaluations.values())).class_names)]
        for split, evaluation in evaluations.items():
            for name, counts in zip(evaluation.class_names, evaluation.confusion.tolist(), strict=True):
                yield [split, csv_cell(name), *counts]

    write_durably(path, _csv(rows))


def _csv(rows: Callable[[], Iterator[Sequence[Any]]]) -> Callable[[BinaryIO], None]:
    """Streams rows to a CSV file; undecodable bytes of file names are preserved."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        csv.writer(text, lineterminator="\n").writerows(rows())
        text.flush()
        text.detach()

    return write


def read_predictions(path: Path) -> dict[str, Evaluation]:
    """The evaluation of each split in a file by `write_predictions`, without a list of its mistakes.

    Raises:
        UserError: the file is missing or malformed.
    """
    rows: dict[str, list[dict[str, str]]] = {}
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            table = csv.DictReader(file)
            columns = [name for name in table.fieldnames or () if from_csv_cell(name).startswith("p/")]
            class_names = [from_csv_cell(name).removeprefix("p/") for name in columns]
            for row in table:
                rows.setdefault(row["split"], []).append(row)
        return {split: _evaluation(split_rows, columns, class_names) for split, split_rows in rows.items()}
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise UserError(f"{path}: is missing or malformed; finish the training with run={path.parent}") from error


def _matrix(rows: Sequence[dict[str, str]], column: str, label: dict[str, int]) -> np.ndarray:
    """A column of `label_cell` → 0/1 `[N, num_classes]`."""
    matrix = np.zeros((len(rows), len(label)), np.int64)
    for labels, row in zip(matrix, rows, strict=True):
        labels[[label[name] for name in json.loads(from_csv_cell(row[column]))]] = 1
    return matrix


def _evaluation(rows: Sequence[dict[str, str]], columns: Sequence[str], class_names: Sequence[str]) -> Evaluation:
    label = {name: position for position, name in enumerate(class_names)}
    if MULTI_LABEL_COLUMNS[0] in rows[0]:
        true, predicted = _matrix(rows, "true_labels", label), _matrix(rows, "predicted_labels", label)
    else:
        true = np.array([label[from_csv_cell(row["true"])] for row in rows])
        predicted = np.array([label[from_csv_cell(row["predicted"])] for row in rows])
    probabilities = np.array([[float(row[name]) for name in columns] for row in rows], np.float32)
    no_mistakes = np.zeros(0, np.int64)  # whose inputs are not in the file
    predictions = Predictions(np.arange(len(rows)), true, predicted, probabilities, no_mistakes)
    files = [from_csv_cell(row["file"]) for row in rows]
    return Evaluation(class_names, files, predictions, np.zeros((0, 0), np.float32))
