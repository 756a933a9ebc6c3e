"""Writes predictions.csv and confusion.csv."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from conf.files import write_durably
from conf.text import csv_cell
from lit_modules.evaluation.evaluation import Evaluation


def write_predictions(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """One row per sample: `split,file,true,predicted`, then `p/<class>` per class.

    Probabilities have nine significant digits, which determine the float32 value. Names are escaped by `csv_cell`.
    """

    def rows() -> Iterator[Sequence[Any]]:
        yield ["split", "file", "true", "predicted", *(f"p/{name}" for name in _class_names(evaluations))]
        for split, evaluation in evaluations.items():
            names = evaluation.class_names
            index, true, predicted, probabilities, *_ = evaluation.predictions
            for i, position in enumerate(index.tolist()):
                values = map("{:.9g}".format, probabilities[i].tolist())
                cells = evaluation.files[position], names[true[i]], names[predicted[i]]
                yield [split, *map(csv_cell, cells), *values]

    write_durably(path, _csv(rows))


def write_confusion(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """One row per true class: `split,true`, then the number of samples per predicted class."""

    def rows() -> Iterator[Sequence[Any]]:
        yield ["split", "true", *map(csv_cell, _class_names(evaluations))]
        for split, evaluation in evaluations.items():
            for name, counts in zip(evaluation.class_names, evaluation.confusion.tolist(), strict=True):
                yield [split, csv_cell(name), *counts]

    write_durably(path, _csv(rows))


def _class_names(evaluations: dict[str, Evaluation]) -> Sequence[str]:
    return next(iter(evaluations.values())).class_names


def _csv(rows: Callable[[], Iterator[Sequence[Any]]]) -> Callable[[BinaryIO], None]:
    """Streams rows to a CSV file; undecodable bytes of file names are preserved."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        csv.writer(text, lineterminator="\n").writerows(rows())
        text.flush()
        text.detach()

    return write
