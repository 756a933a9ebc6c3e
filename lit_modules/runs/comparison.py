"""Compares runs: confidence intervals, spread over seeds, differing settings, significance tests."""

import csv
import json
import re
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from omegaconf import ListConfig, OmegaConf

from conf import received_config, saved_config
from conf.errors import UserError
from conf.text import from_csv_cell
from lit_modules.evaluation import significance
from lit_modules.runs import run_folder

SCORES = ("acc", "f1")
TAGS = [f"{split}/{score}" for split in ("val", "test") for score in SCORES]
METRIC = re.compile(r"lit_module\.metrics\.(\w+)\._target_")  # the key of a metric that a config adds
# Settings that may differ between runs of one config: its seeds and splits; metrics change no weights.
RUN_KEYS = (
    "seed", "run", "run_dir", "logs_dir", "repeats", "workers", "overrides", "datamodule.fold", "datamodule.split_seed"
)  # fmt: skip
FREE_SECTION = "lit_module.metrics."
# A folder that contains one of these is a run.
INVALID = (
    OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, yaml.YAMLError, csv.Error,
    UserError,
)  # fmt: skip
RUN_FILES = ("config.yaml", "metrics.csv", "checkpoints")

Record = dict[str, Any]


class Predictions(NamedTuple):
    """A split's samples, sorted by file."""

    files: np.ndarray
    true: np.ndarray
    """Names of classes, or 0/1 `[N, num_classes]` where a sample may have several labels"""
    predicted: np.ndarray
    classes: tuple[str, ...] = ()
    """Of the matrices"""


@dataclass
class Run:
    """The files of a run; `remark` describes missing or invalid ones."""

    name: str
    remark: str = ""
    settings: Record = field(default_factory=dict)
    summary: Record = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    config: str = ""
    """Letter shared by all runs whose settings differ only in `RUN_KEYS`."""
    is_wrong: bool = False
    """Whether the folder is no run, or holds invalid files"""


def find(runs: Any) -> list[Path]:
    """The listed folders, or the runs that match a glob; numbers are converted to names.

    A cross-validation stands for its runs.

    Raises:
        UserError: there is no folder.
    """
    if isinstance(runs, list | ListConfig):
        folders = [Path(str(path)) for path in runs]
    else:
        folders = [Path(path) for path in sorted(glob(str(runs), recursive=True))]  # noqa: PTH207 (absolute globs too)
        folders = [folder for folder in folders if any((folder / name).exists() for name in RUN_FILES)]
    folders = [run for folder in folders for run in _folds_of(folder) or [folder]]
    if not folders:
        raise UserError(f"runs: {runs} matches no run; give a list, or a glob such as 'logs/digits/*'")
    return folders


def _folds_of(folder: Path) -> list[Path]:
    """The runs of a cross-validation."""
    return sorted(path for path in (folder / "folds").glob("*") if path.is_dir())


def read(folder: Path, name: str) -> Run:
    """Reads the files of a run; errors become its remark."""
    run = Run(name)
    try:
        received_config.check_folder(folder)
        received_config.check_text(folder / "config.yaml")
        run.settings = saved_config.flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
        if not (folder / "summary.json").exists():
            run.remark = _unfinished(folder, run.settings)
            return run
        run.summary = dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
        run.summary |= {tag: float(run.summary[tag]) for tag in tags_of([run]) if tag in run.summary}
        if (folder / "predictions.csv").exists():
            run.predictions = _read_predictions(folder / "predictions.csv")
            _check_predictions(run)
        else:
            run.remark = "no predictions.csv, so no confidence intervals"
    except FileNotFoundError as error:
        run.remark, run.is_wrong = f"not a run: {Path(error.filename).name} is missing", True
    except INVALID as error:
        missing = " is missing" if isinstance(error, KeyError) else ""
        run.remark, run.is_wrong = f"invalid: {' '.join(str(error).split())}{missing}", True
        run.summary, run.predictions = {}, {}
    return run


def tags_of(runs: list[Run]) -> list[str]:
    """Tags of the compared scores: those of every run, and the metrics that configs add."""
    matches = [METRIC.fullmatch(key) for run in runs for key in run.settings]
    names = [match[1] for match in matches if match]
    return list(dict.fromkeys([*TAGS, *(f"{split}/{name}" for split in ("val", "test") for name in names)]))


def _unfinished(folder: Path, settings: Record) -> str:
    epochs = len(run_folder.read_metrics(folder))
    return f"unfinished: {epochs} of {settings['epochs']} epochs; resume it with run={folder}"


def _read_predictions(path: Path) -> dict[str, Predictions]:
    rows: dict[str, list[list[str]]] = {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as table:
        reader = csv.DictReader(table)
        columns = list(map(from_csv_cell, reader.fieldnames or ()))
        suffix = "_labels" if "true_labels" in columns else ""
        classes = {column.removeprefix("p/") for column in columns if column.startswith("p/")}
        for row in reader:
            if None in row.values():
                raise ValueError("predictions.csv has an incomplete row")
            file, *cells = [from_csv_cell(row[column]) for column in ("file", f"true{suffix}", f"predicted{suffix}")]
            names = set(cells)
            if suffix:
                names = set().union(*map(json.loads, cells))
            if not names <= classes:  # as many classes as samples would take hours
                raise ValueError(f"predictions.csv has no column p/{min(names - classes)}")
            rows.setdefault(row["split"], []).append([file, *cells])
    splits = {split: Predictions(*np.array(sorted(records), object).T) for split, records in rows.items()}
    if not suffix:
        return splits
    return {split: _matrices(predictions, tuple(sorted(classes))) for split, predictions in splits.items()}


def _matrices(predictions: Predictions, classes: tuple[str, ...]) -> Predictions:
    """The same with labels as 0/1 `[N, num_classes]` instead of lists in JSON."""
    return Predictions(
        predictions.files, _matrix(predictions.true, classes), _matrix(predictions.predicted, classes), classes
    )


def _matrix(cells: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    labels = [json.loads(cell) for cell in cells]
    return np.array([[name in names for name in classes] for names in labels], np.int64)


def _check_predictions(run: Run) -> None:
    """Detects duplicates, and a predictions.csv that belongs to another epoch than summary.json."""
    for split, (files, true, predicted, _) in run.predictions.items():
        if len(np.unique(files)) < len(files):
            raise ValueError("predictions.csv lists an image twice")
        if not np.isclose(significance.all_right(true, predicted).mean(), run.summary[f"{split}/acc"], atol=1e-6):
            raise ValueError(f"{split}/acc of predictions.csv and summary.json differ")


def name_configs(runs: list[Run]) -> list[str]:
    """Assigns a letter per config to every run; returns the keys in which configs differ."""
    configs: list[Record] = []
    for run in runs:
        settings = {
            key: value
            for key, value in run.settings.items()
            # null is left out: an earlier version may lack the key.
            if value is not None and key not in RUN_KEYS and not key.startswith(FREE_SECTION)
        }
        if settings:
            if settings not in configs:
                configs.append(settings)
            run.config = _letter(configs.index(settings))
    keys = sorted({key for settings in configs for key in settings})
    return [key for key in keys if any(settings.get(key) != configs[0].get(key) for settings in configs)]


def _letter(number: int) -> str:
    """0 → A, 25 → Z, 26 → AA."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def run_records(runs: list[Run]) -> list[Record]:
    """One record per run: scores, and confidence intervals of accuracy and F1."""
    records = []
    for run in runs:
        record: Record = {"run": run.name, "config": run.config, "seed": run.settings.get("seed")}
        record["best_epoch"] = run.summary.get("best_epoch")
        for tag in tags_of(runs):
            split, score = tag.split("/")
            record[tag] = run.summary.get(tag)
            if split in run.predictions and score in SCORES:
                record[f"{tag}/low"], record[f"{tag}/high"] = _interval(score, run.predictions[split])
        records.append(record | {"remark": run.remark})
    return records


def _interval(score: str, predictions: Predictions) -> significance.Interval:
    """The interval in the report of a run, see `evaluation.intervals`."""
    correct = significance.all_right(predictions.true, predictions.predicted)
    if score == "acc" or correct.all():
        return significance.wilson(int(correct.sum()), len(correct))
    labels = encode_labels(predictions.true, predictions.predicted)
    return significance.interval(significance.bootstrap(significance.macro_f1, *labels))


def encode_labels(*names: np.ndarray) -> list[np.ndarray]:
    """Encodes class names as integers; rows of 0/1 matrices stay."""
    if names[0].ndim == 2:
        return list(names)
    return list(np.unique(np.stack(names), return_inverse=True)[1].reshape(len(names), -1))


def config_records(runs: list[Run], differing: list[str]) -> list[Record]:
    """One record per config: mean and std over its finished runs, and the differing settings."""
    records = []
    for config in dict.fromkeys(run.config for run in runs if run.config):
        members = [run for run in runs if run.config == config]
        record: Record = {"config": config, "runs": sum(bool(run.summary) for run in members)}
        for tag in tags_of(runs):
            values = [run.summary[tag] for run in members if tag in run.summary]
            record[f"{tag}/mean"] = float(np.mean(values)) if values else None
            record[f"{tag}/std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        train = [run.summary["samples/train"] for run in members if "samples/train" in run.summary]
        record["samples/train"] = float(np.mean(train)) if train else None
        records.append(record | {key: members[0].settings.get(key) for key in differing})
    return records
