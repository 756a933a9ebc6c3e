"""task=audit: the samples of a run whose label is probably wrong."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from conf.errors import UserError, nearest
from conf.files import make_output, write_table
from conf.text import csv_cell, from_csv_cell, printable
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.figures import png, short
from lit_modules.evaluation.image_grid import grid
from lit_modules.evaluation.label_errors import find_label_errors

MAX_PRINTED = 10
MAX_SHEET_IMAGES = 64
CAPTION_LETTERS = 24
Row = dict[str, Any]


class Judged(NamedTuple):
    """Samples that the run was not trained on."""

    files: list[str]
    labels: np.ndarray
    """int64 `[N]`"""
    probabilities: np.ndarray
    """`[N, num_classes]`"""
    class_names: Sequence[str]


def audit(
    evaluations: Mapping[str, Evaluation],
    classes: Mapping[str, str],
    conflicts: Sequence[Mapping[str, Any]],
    read: Callable[[Sequence[str]], np.ndarray],
    output: Path,
) -> None:
    """Writes `label_errors.csv`, to be edited and given back as `datamodule.relabel`, and `contact_sheet.png`.

    Its rows are the probable errors, see `find_label_errors`, then duplicates with different labels. Without any,
    nothing is written.

    Args:
        evaluations: those of the run, of samples that it was not trained on, see `read_predictions`.
        classes: the class of each sample of the data, by name.
        conflicts: groups of duplicates; each has `files`, a list of `file` and `class`.
        read: names → samples, float32 `[N, C, *spatial]` in [0, 1].
        output: the folder to write to.

    Raises:
        UserError: the run predicted none of these samples, or the folder cannot be written.
    """
    judged = _judged(evaluations, classes)
    copies = {member["file"]: _copies(member, group["files"]) for group in conflicts for member in group["files"]}
    rows = _rows(judged, copies)
    print(f"{len(rows):,} of {len(judged.files):,} labels are probably wrong")
    if len(judged.files) < len(classes):
        others = len(classes) - len(judged.files)
        print(f"{others:,} samples were not judged, because the run was trained on them; a run with folds=5 judges all")
    if conflicts:
        print(f"{len(conflicts):,} groups of duplicates have different labels")
    listed = {row["file"] for row in rows}
    rows += [_row(file, classes[file], copies) for file in copies if file not in listed]
    if not rows:
        return
    for row in rows[:MAX_PRINTED]:
        print(printable(f"  {row['file']}: {_remark(row)}"))
    if len(rows) > MAX_PRINTED:
        print(f"  … {len(rows) - MAX_PRINTED:,} more")
    make_output(output)
    _write_sheet(output / "contact_sheet.png", rows, read)
    table = output / "label_errors.csv"
    write_table(table, rows)
    print(printable(f"label errors → {table}"))
    print(printable(f"fill in its column new_label (a class, or drop), and train with datamodule.relabel={table}"))


def _judged(evaluations: Mapping[str, Evaluation], classes: Mapping[str, str]) -> Judged:
    """The predicted samples that the data still have, with their present labels."""
    name_of = {from_csv_cell(str(csv_cell(file))): file for file in classes}  # as it is read from a cell
    if any(evaluation.is_multi_label for evaluation in evaluations.values()):
        raise UserError("task: audit judges one label a sample, and these have several; look at the worst mistakes")
    predicted: dict[str, np.ndarray] = {}
    names: Sequence[str] = ()
    for evaluation in evaluations.values():
        names = evaluation.class_names
        for file, row in zip(evaluation.files, evaluation.predictions.probabilities, strict=True):
            if file in name_of:
                predicted[name_of[file]] = row
    files = list(predicted)
    if not files:
        raise UserError("datamodule.root: the run predicted none of these samples; give those that it was trained on")
    position = {name: label for label, name in enumerate(names)}
    present = [from_csv_cell(str(csv_cell(classes[file]))) for file in files]
    for name in sorted(set(present) - position.keys()):
        raise UserError(f"datamodule.root: the run has no class '{name}'; {nearest(name, names)}")
    labels = np.array([position[name] for name in present])
    return Judged(files, labels, np.stack(list(predicted.values())), names)


def _rows(judged: Judged, copies: Mapping[str, str]) -> list[Row]:
    """A row for each probable error, the most probable one first."""
    result = find_label_errors(judged.probabilities, judged.labels)
    rows = []
    for i in result.order[: result.num_errors].tolist():
        row = _row(judged.files[i], judged.class_names[judged.labels[i]], copies)
        row["suggested"] = judged.class_names[result.suggested[i]]
        row["probability"] = f"{judged.probabilities[i, result.suggested[i]]:.4f}"
        rows.append(row)
    return rows


def _row(file: str, label: str, copies: Mapping[str, str]) -> Row:
    duplicates = copies.get(file, "")
    return {"file": file, "label": label, "suggested": "", "probability": "", "same_as": duplicates, "new_label": ""}


def _copies(member: Mapping[str, str], group: Sequence[Mapping[str, str]]) -> str:
    """The duplicates of a sample with other labels."""
    return ", ".join(f"{other['file']} ({other['class']})" for other in group if other["class"] != member["class"])


def _remark(row: Row) -> str:
    if row["suggested"]:
        return f"{row['label']} → {row['suggested']} {float(row['probability']):.2f}"
    return f"{row['label']}, same as {row['same_as']}"


def _write_sheet(path: Path, rows: list[Row], read: Callable[[Sequence[str]], np.ndarray]) -> None:
    shown = rows[:MAX_SHEET_IMAGES]
    captions = [
        f"{short(_remark(row), CAPTION_LETTERS)}\n{short(row['file'], CAPTION_LETTERS, keep_end=True)}" for row in shown
    ]
    title = f"First {len(shown)} of {len(rows)} labels: label → suggested class and its probability, file"
    path.write_bytes(png(grid(list(read([row["file"] for row in shown])), captions, title)))
