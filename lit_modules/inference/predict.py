"""Class probabilities of any number of images: a row each in a table, a line each in JSON; the first ones drawn."""

import csv
import json
import os
import sys
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from conf.files import make_output
from lit_modules.inference.predictor import Predictor

SHEET = 64  # images
# How a file's name keeps bytes that are no UTF-8: as they are, and in JSON by its own escape, such as \udcff.
ERRORS = {"csv": "surrogateescape", "jsonl": "backslashreplace"}


def predict(
    predictor: Predictor, batches: Iterable[Any], total: int, class_names: list[str], flip: bool, output: Path
) -> int:
    """Writes `predictions.csv`, `predictions.jsonl` and `contact_sheet.png` into the folder `output`. The first two
    grow batch by batch, and are called `….part` until the last one.

    Args:
        predictor: on the device where it shall work.
        batches: `(files, inputs, problems)`: inputs uint8 `[N, C, H, W]`, problems pairs of a file and its reason.
        total: number of files, for the progress bar.
        flip: averages the probabilities of each image and of its mirror image.

    Returns:
        How many files could not be read; they are named on stderr.
    """
    device = predictor.white.device
    make_output(output)
    shown: list[np.ndarray] = []
    captions: list[str] = []
    unread = 0
    encode = json.JSONEncoder(ensure_ascii=False).encode  # json.dumps would make one for each line
    with ExitStack() as stack:
        parts = [output / f"predictions.{suffix}.part" for suffix in ERRORS]
        table_file, lines = (
            stack.enter_context(open(part, "w", newline="", encoding="utf-8", errors=errors))
            for part, errors in zip(parts, ERRORS.values(), strict=True)
        )
        bar = stack.enter_context(tqdm(total=total, unit=" images", disable=not sys.stderr.isatty()))
        table = csv.writer(table_file)
        table.writerow(["file", "predicted", "probability", *(f"p/{name}" for name in class_names)])
        for files, inputs, problems in batches:
            for file, problem in problems:
                tqdm.write(f"passed over {file}: {problem}", file=sys.stderr)
            unread += len(problems)
            bar.update(len(files) + len(problems))
            if not files:
                continue
            probabilities = _probabilities(predictor, torch.from_numpy(inputs).to(device), flip)
            best = probabilities.argmax(1).tolist()
            for file, pixels, label, row in zip(files, inputs, best, probabilities.tolist(), strict=True):
                name, likelihood = class_names[label], row[label]
                table.writerow([file, name, likelihood, *row])
                found = {"file": file, "predicted": name, "probability": likelihood}
                by_class = dict(zip(class_names, row, strict=True))
                lines.write(encode(found | {"probabilities": by_class}) + "\n")
                if len(shown) < SHEET:
                    shown.append(pixels.copy())
                    captions.append(f"{Path(file).name}\n{name} {likelihood:.2f}")
    for part in parts:
        os.replace(part, part.with_suffix(""))
    if shown:
        from lit_modules.evaluation.figures import png
        from lit_modules.evaluation.image_grid import grid

        samples = [pixels.astype(np.float32) / 255 for pixels in shown]
        sheet = grid(samples, captions, f"The first {len(shown)} of {total} images, and what they were taken for")
        (output / "contact_sheet.png").write_bytes(png(sheet))
    return unread


def _probabilities(predictor: Predictor, inputs: Tensor, flip: bool) -> Tensor:
    """float32 `[N, num_classes]` on the CPU"""
    probabilities = predictor(inputs)
    if flip:
        probabilities = (probabilities + predictor(inputs.flip(-1))) / 2
    return probabilities.cpu()
