"""Predicts images: probabilities as CSV and JSON Lines, and a contact sheet."""

import csv
import json
import math
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

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

    The first two are written batch by batch, with the suffix `.part` until they are complete.

    Args:
        predictor: on the device to use.
        batches: `(files, inputs, problems)`: inputs uint8 `[N, C, H, W]`, problems pairs of file and reason.
        total: number of files, for the progress bar.
        class_names: indexed by label.
        flip: averages the probabilities of each image and its horizontal flip.
        output: created if needed.
        extras: write further files to it.
        thresholds: of the columns `set`, names of classes as JSON, and `known`, true or false.

    Returns:
        The number of skipped files, unreadable or without finite probabilities, which are reported on stderr.
    """
    device = predictor.white.device
    make_output(output)
    sheet_images: list[np.ndarray] = []
    captions: list[str] = []
    num_skipped = 0
    csv_part, jsonl_part = output / "predictions.csv.part", output / "predictions.jsonl.part"
    encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would create an encoder per call
    with (
        open(csv_part, "w", newline="", encoding="utf-8", errors=ENCODING_ERRORS["csv"]) as csv_file,
        open(jsonl_part, "w", newline="", encoding="utf-8", errors=ENCODING_ERRORS["jsonl"]) as jsonl_file,
        tqdm(total=total, unit=" images", disable=not sys.stderr.isatty()) as bar,
    ):
        writer = csv.writer(csv_file)
        names = [csv_cell(f"p/{name}") for name in class_names]
        writer.writerow(["file", "predicted", "probability", *thresholds.columns, *names])
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
            probabilities = _probabilities(predictor, on_device, flip)
            decisions = thresholds.decide(probabilities.detach().numpy(), class_names)  # before another forward pass
            labels = probabilities.argmax(1).tolist()
            kept = (~probabilities.isnan().any(1)).nonzero().flatten().tolist()
            for extra in extras:
                extra.add(on_device, labels, kept)
            rows = zip(files, inputs, labels, decisions, probabilities.tolist(), strict=True)
            for file, pixels, label, decision, row in rows:
                if math.isnan(row[label]):
                    _report_skipped(file, "the network gives no finite probabilities")
                    num_skipped += 1
                    continue
                name, probability = class_names[label], row[label]
                writer.writerow([csv_cell(file), csv_cell(name), probability, *map(encode, decision.values()), *row])
                by_class = dict(zip(class_names, row, strict=True))
                record = {"file": file, "predicted": name, "probability": probability, **decision}
                jsonl_file.write(encode(record | {"probabilities": by_class}) + "\n")
                if total <= MAX_PRINTED:
                    tqdm.write(printable(f"{file}: {name} {probability:.3f}{described(decision)}"))
                if len(sheet_images) < MAX_SHEET_IMAGES:
                    sheet_images.append(pixels.copy())
                    captions.append(f"{Path(file).name}\n{name} {probability:.2f}")
    for extra in extras:
        extra.finish()
    for part in (csv_part, jsonl_part):
        os.replace(part, part.with_suffix(""))
    if sheet_images:
        _write_contact_sheet(output / "contact_sheet.png", sheet_images, captions, total)
    return num_skipped


def _report_skipped(file: str, problem: str) -> None:
    tqdm.write(printable(f"skipped {file}: {problem}"), file=sys.stderr)


def _write_contact_sheet(path: Path, images: list[np.ndarray], captions: list[str], total: int) -> None:
    from lit_modules.evaluation.figures import png
    from lit_modules.evaluation.image_grid import grid

    samples = [pixels.astype(np.float32) / 255 for pixels in images]
    figure = grid(samples, captions, f"First {len(images)} of {total} images: file, predicted class, probability")
    path.write_bytes(png(figure))


def _probabilities(predictor: Predictor, inputs: Tensor, flip: bool) -> Tensor:
    """Probabilities on the CPU, float32 `[N, num_classes]`."""
    probabilities = predictor(inputs)
    if flip:
        probabilities = (probabilities + predictor(inputs.flip(-1))) / 2
    return probabilities.cpu()
