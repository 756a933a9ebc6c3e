"""Predicts images: probabilities as CSV and JSON Lines, and a contact sheet."""

import csv
import json
import os
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from conf.files import make_output
from conf.text import csv_cell, printable
from lit_modules.inference.extras import Extra
from lit_modules.inference.predictor import Predictor
from lit_modules.inference.thresholds import NO_THRESHOLDS, Thresholds, described

MAX_SHEET_IMAGES = 64
MAX_PRINTED = 10  # files whose answers are printed too
# Undecodable bytes of file names: kept in CSV, escaped in JSON, such as \udcff.
ENCODING_ERRORS = {"csv": "surrogateescape", "jsonl": "backslashreplace"}


def predict(
    predictor: Predictor,
    batches: Iterable[Any],
    total: int,
    class_names: list[str],
    flip: bool,
    output: Path,
    extras: Sequence[Extra] = (),
    thresholds: Thresholds = NO_THRESHOLDS,
) -> int:
    """Writes `predictions.csv`, `predictions.jsonl` and `contact_sheet.png` to a folder.

    Args:
        predictor: on the device to use.
        batches: `(files, inputs, problems)`: inputs uint8 `[N, C, H, W]`, problems pairs of file and reason.
        total: number of files, for the progress bar.
        class_names: indexed by label.
        flip: averages the probabilities of each image and its horizontal flip.
        output: created if needed.
        extras: write further files to it.
        thresholds: of several labels, and of the columns `set`, names of classes as JSON, and `known`, true or false.

    Returns:
        The number of skipped files, unreadable or without finite probabilities, which are reported on stderr.
    """
    device = predictor.white.device
    make_output(output)
    sheet = ContactSheet(total)
    num_skipped = 0
    with Writer(output, class_names, thresholds) as writer, _progress_bar(total) as bar:
        for extra in extras:
            extra.start(output, total)
        for files, inputs, problems in batches:
            for file, problem in problems:
                _report_skipped(file, problem)
            num_skipped += len(problems)
            bar.update(len(files) + len(problems))
            if not files:
                continue
            on_device = torch.from_numpy(inputs).to(device)
            probabilities = _probabilities(predictor, on_device, flip).detach()
            records = writer.records(files, probabilities.numpy())  # before another forward pass
            kept = (~probabilities.isnan().any(1)).nonzero().flatten().tolist()
            for extra in extras:
                extra.add(on_device, probabilities.argmax(1).tolist(), kept)
            for i, record in enumerate(records):
                if i not in kept:
                    _report_skipped(files[i], "the network gives no finite probabilities")
                    num_skipped += 1
                    continue
                writer.write(record, probabilities[i].tolist())
                if total <= MAX_PRINTED:
                    tqdm.write(printable(f"{files[i]}: {_answer(record, 3)}{described(record)}"))
                sheet.add(inputs[i], f"{Path(files[i]).name}\n{_answer(record, 2)}")
    for extra in extras:
        extra.finish()
    writer.finish()
    sheet.write(output / "contact_sheet.png")
    return num_skipped


def _progress_bar(total: int) -> Any:
    return tqdm(total=total, unit=" images", disable=not sys.stderr.isatty())


def _report_skipped(file: str, problem: str) -> None:
    tqdm.write(printable(f"skipped {file}: {problem}"), file=sys.stderr)


def _answer(record: dict[str, Any], digits: int) -> str:
    """The predicted class, or several labels, and the highest probability."""
    names = record["predicted"]
    name = names if isinstance(names, str) else ", ".join(names) or "no label"
    return f"{name} {record['probability']:.{digits}f}"


def _probabilities(predictor: Predictor, inputs: Tensor, flip: bool) -> Tensor:
    """Probabilities on the CPU, float32 `[N, num_classes]`."""
    probabilities = predictor(inputs)
    if flip:
        probabilities = (probabilities + predictor(inputs.flip(-1))) / 2
    return probabilities.cpu()


class Writer(ExitStack):
    """Writes predictions.csv and predictions.jsonl batch by batch, with the suffix `.part` until they are complete.

    Args:
        output: their folder.
        class_names: indexed by label.
        thresholds: see `predict`.
    """

    def __init__(self, output: Path, class_names: Sequence[str], thresholds: Thresholds) -> None:
        super().__init__()
        self._class_names, self._thresholds = class_names, thresholds
        self._parts = {kind: output / f"predictions.{kind}.part" for kind in ENCODING_ERRORS}
        self._csv = csv.writer(self._opened("csv"))
        self._jsonl_file = self._opened("jsonl")
        self._encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would create an encoder per call
        names = [csv_cell(f"p/{name}") for name in class_names]
        self._csv.writerow(["file", "predicted", "probability", *thresholds.columns, *names])

    def _opened(self, kind: str) -> TextIO:
        errors = ENCODING_ERRORS[kind]
        return self.enter_context(open(self._parts[kind], "w", newline="", encoding="utf-8", errors=errors))

    def records(self, files: Sequence[str], probabilities: np.ndarray) -> list[dict[str, Any]]:
        """What is predicted for each sample of the last forward pass, with probabilities `[N, num_classes]`."""
        answers = self._thresholds.answers(probabilities, self._class_names)
        return [{"file": file} | answer for file, answer in zip(files, answers, strict=True)]

    def write(self, record: dict[str, Any], probabilities: list[float]) -> None:
        """Writes one of `records` with its probabilities by class."""
        names = record["predicted"]
        cells = [csv_cell(record["file"]), csv_cell(names if isinstance(names, str) else self._encode(names))]
        decisions = [self._encode(record[column]) for column in self._thresholds.columns]
        self._csv.writerow([*cells, record["probability"], *decisions, *probabilities])
        by_class = dict(zip(self._class_names, probabilities, strict=True))
        self._jsonl_file.write(self._encode(record | {"probabilities": by_class}) + "\n")

    def finish(self) -> None:
        """After it was closed: gives the files their names."""
        for part in self._parts.values():
            os.replace(part, part.with_suffix(""))


class ContactSheet:
    """The first 64 of `total` images with their predictions."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._images: list[np.ndarray] = []
        self._captions: list[str] = []

    def add(self, pixels: np.ndarray, caption: str) -> None:
        """Adds an image, uint8 `[C, H, W]`, unless the sheet is full."""
        if len(self._images) < MAX_SHEET_IMAGES:
            self._images.append(pixels.copy())
            self._captions.append(caption)

    def write(self, path: Path) -> None:
        """Draws the sheet, unless it is empty."""
        from lit_modules.evaluation.figures import png
        from lit_modules.evaluation.image_grid import grid

        if self._images:
            samples = [pixels.astype(np.float32) / 255 for pixels in self._images]
            title = f"First {len(samples)} of {self._total} images: file, predicted class, probability"
            path.write_bytes(png(grid(samples, self._captions, title)))
