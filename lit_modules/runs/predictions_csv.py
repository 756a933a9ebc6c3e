"""predictions.csv and confusion.csv: what a run said of each sample, for any other program."""

import csv
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from conf.files import write_durably
from lit_modules.evaluation.evaluation import Evaluation


def write_predictions(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """A row a sample: `split,file,true,predicted`, then `p/<class>` for each class, from which float32 is got back."""

    def rows() -> Iterator[Sequence[Any]]:
        yield ["split", "file", "true", "predicted", *(f"p/{name}" for name in _names(evaluations))]
        for split, each in evaluations.items():
            names, (index, true, predicted, probabilities, *_) = each.class_names, each.predictions
            for i, position in enumerate(index.tolist()):
                numbers = map("{:.9g}".format, probabilities[i].tolist())
                yield [split, each.files[position], names[true[i]], names[predicted[i]], *numbers]

    write_durably(path, _csv(rows))


def write_confusion(path: Path, evaluations: dict[str, Evaluation]) -> None:
    """A row a true class: `split,true`, then how many samples of it were taken for each class."""

    def rows() -> Iterator[Sequence[Any]]:
        yield ["split", "true", *_names(evaluations)]
        for split, each in evaluations.items():
            for name, counts in zip(each.class_names, each.confusion.tolist(), strict=True):
                yield [split, name, *counts]

    write_durably(path, _csv(rows))


def _names(evaluations: dict[str, Evaluation]) -> Sequence[str]:
    return next(iter(evaluations.values())).class_names


def _csv(rows: Callable[[], Iterator[Sequence[Any]]]) -> Callable[[BinaryIO], None]:
    """Writes row by row, so that a million of them need no memory. File names keep bytes that are no UTF-8."""

    def write(file: BinaryIO) -> None:
        text = io.TextIOWrapper(file, encoding="utf-8", errors="surrogateescape", newline="")
        csv.writer(text, lineterminator="\n").writerows(rows())
        text.flush()
        text.detach()

    return write
