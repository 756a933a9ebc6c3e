"""Runs side by side: scores with intervals, spread over seeds, what differs in config, which differences are real."""

import csv
import json
import os
from dataclasses import dataclass, field
from glob import glob
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import yaml
from omegaconf import ListConfig, OmegaConf

from conf import saved_config
from conf.errors import UserError
from lit_modules.evaluation import significance
from lit_modules.runs import run_folder

SCORES = {"acc": significance.accuracy, "f1": significance.macro_f1}
TAGS = [f"{split}/{score}" for split in ("val", "test") for score in SCORES]
# What tells two runs of one config apart.
OWN = ("seed", "run", "run_dir", "logs_dir")
# By one of these a folder that a glob finds is known for a run.
MARKS = ("config.yaml", "metrics.csv", "checkpoints")

Record = dict[str, Any]


class Predictions(NamedTuple):
    """A split's images in the order of their names, with class names."""

    files: np.ndarray
    true: np.ndarray
    predicted: np.ndarray


@dataclass
class Run:
    """What is left of a run on disk. `remark` says what is missing, and why."""

    name: str
    remark: str = ""
    settings: Record = field(default_factory=dict)
    summary: Record = field(default_factory=dict)
    predictions: dict[str, Predictions] = field(default_factory=dict)
    config: str = ""
    """The letter of all runs with the same settings but for the seed."""


def find(runs: Any) -> list[Path]:
    """The folders of the list, or those of runs that the glob finds. A number is a name, as a sweep gives them.

    Raises:
        UserError: there is none.
    """
    if isinstance(runs, list | ListConfig):
        folders = [Path(str(path)) for path in runs]
    else:
        folders = [Path(path) for path in sorted(glob(str(runs), recursive=True))]  # noqa: PTH207 (absolute ones too)
        folders = [folder for folder in folders if any((folder / mark).exists() for mark in MARKS)]
    if not folders:
        raise UserError(f"runs: {runs} names no run's folder; give a list, or a glob such as 'logs/digits/*'")
    return folders


def read(folder: Path, name: str) -> Run:
    """A run's folder, whatever its state."""
    run = Run(name)
    try:
        run.settings = saved_config.flat(OmegaConf.to_container(OmegaConf.load(folder / "config.yaml")))
        if not (folder / "summary.json").exists():
            run.remark = _unfinished(folder, run.settings)
            return run
        run.summary = dict(json.loads((folder / "summary.json").read_text(encoding="utf-8")))
        run.summary |= {tag: float(run.summary[tag]) for tag in TAGS if tag in run.summary}
        if (folder / "predictions.csv").exists():
            run.predictions = _read_predictions(folder / "predictions.csv")
            _check_predictions(run)
        else:
            run.remark = "no predictions.csv, so no intervals"
    except FileNotFoundError as error:
        run.remark = f"no run: there is no {Path(error.filename).name}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError, yaml.YAMLError, csv.Error, UserError) as error:
        missing = " is missing" if isinstance(error, KeyError) else ""
        run.remark = f"broken: {' '.join(str(error).split())}{missing}"
        run.summary, run.predictions = {}, {}
    return run


def _unfinished(folder: Path, settings: Record) -> str:
    done = len(run_folder.read_metrics(folder))
    return f"unfinished: {done} of {settings['epochs']} epochs; go on by run={folder}"


def _read_predictions(path: Path) -> dict[str, Predictions]:
    rows: dict[str, list[tuple[str, str, str]]] = {}
    with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
        for row in csv.DictReader(file):
            if None in row.values():
                raise ValueError("predictions.csv ends within a row")
            rows.setdefault(row["split"], []).append((row["file"], row["true"], row["predicted"]))
    return {split: Predictions(*np.array(sorted(found)).T) for split, found in rows.items()}


def _check_predictions(run: Run) -> None:
    """A predictions.csv of another epoch than the summary's gives other scores."""
    for split, (files, true, predicted) in run.predictions.items():
        if len(np.unique(files)) < len(files):
            raise ValueError("predictions.csv names an image twice")
        if not np.isclose((true == predicted).mean(), run.summary[f"{split}/acc"], atol=1e-6):
            raise ValueError(f"predictions.csv does not give the {split}/acc of summary.json")


def name_configs(runs: list[Run]) -> list[str]:
    """Gives every run the letter of its config, and returns the settings in which configs differ."""
    known: list[Record] = []
    for run in runs:
        settings = {key: value for key, value in run.settings.items() if key not in OWN}
        if settings:
            if settings not in known:
                known.append(settings)
            run.config = _letter(known.index(settings))
    keys = sorted({key for settings in known for key in settings})
    return [key for key in keys if any(settings.get(key) != known[0].get(key) for settings in known)]


def _letter(number: int) -> str:
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def run_records(runs: list[Run]) -> list[Record]:
    """A row a run: its scores with the ends of their bootstrap intervals."""
    records = []
    for run in runs:
        record: Record = {"run": run.name, "config": run.config, "seed": run.settings.get("seed")}
        record["best_epoch"] = run.summary.get("best_epoch")
        for tag in TAGS:
            split, score = tag.split("/")
            record[tag] = run.summary.get(tag)
            if split in run.predictions:
                _, true, predicted = run.predictions[split]
                ends = significance.interval(significance.bootstrap(SCORES[score], *_as_numbers(true, predicted)))
                record[f"{tag}/low"], record[f"{tag}/high"] = ends
        records.append(record | {"remark": run.remark})
    return records


def _as_numbers(*names: np.ndarray) -> list[np.ndarray]:
    """Class names → integers, the same for the same name."""
    return list(np.unique(np.stack(names), return_inverse=True)[1].reshape(len(names), -1))


def config_records(runs: list[Run], differing: list[str]) -> list[Record]:
    """A row a config: mean and standard deviation over its finished runs, and its values of what differs."""
    records = []
    for config in dict.fromkeys(run.config for run in runs if run.config):
        members = [run for run in runs if run.config == config]
        record: Record = {"config": config, "runs": sum(bool(run.summary) for run in members)}
        for tag in TAGS:
            values = [run.summary[tag] for run in members if tag in run.summary]
            record[f"{tag}/mean"] = float(np.mean(values)) if values else None
            record[f"{tag}/std"] = float(np.std(values, ddof=1)) if len(values) > 1 else None
        records.append(record | {key: members[0].settings.get(key) for key in differing})
    return records


def pair_records(runs: list[Run]) -> list[Record]:
    """A row for each run after the first with test predictions, paired with that first one."""
    tested = [run for run in runs if "test" in run.predictions]
    return [_pair(run, tested[0]) for run in tested[1:]]


def _pair(run: Run, reference: Run) -> Record:
    record: Record = {"run": run.name, "reference": reference.name}
    ours, theirs = run.predictions["test"], reference.predictions["test"]
    if differing := set(ours.files) ^ set(theirs.files):
        return record | {"remark": f"not the same test images: {len(differing)} are in one run only"}
    if (differing_labels := (ours.true != theirs.true).sum()) > 0:
        return record | {"remark": f"not the same classes: {differing_labels} test images are labelled otherwise"}
    labels = _as_numbers(ours.true, ours.predicted, theirs.predicted)
    right, reference_right = ours.predicted == ours.true, theirs.predicted == ours.true
    only_run, only_reference = int((right & ~reference_right).sum()), int((~right & reference_right).sum())
    differences = significance.bootstrap(_f1_difference, *labels)
    low, high = significance.interval(differences)
    return record | {
        "images": len(right),
        "only run right": only_run,
        "only reference right": only_reference,
        "acc/difference": (only_run - only_reference) / len(right),
        "acc/p (McNemar)": significance.mcnemar(only_run, only_reference),
        "f1/difference": float(_f1_difference(*labels, np.ones((1, len(right)), np.int64))[0]),
        "f1/difference/low": low,
        "f1/difference/high": high,
        "f1/p (bootstrap)": significance.two_sided_p(differences),
        "remark": "",
    }


def _f1_difference(*labels_and_weights: np.ndarray) -> np.ndarray:
    true, first, second, weights = labels_and_weights
    return significance.macro_f1(true, first, weights) - significance.macro_f1(true, second, weights)


def compare(runs: Any, output: Path | None) -> None:
    """Prints the tables of the `runs`, see `find`; writes them as CSV and Markdown, and a chart, into `output`.

    Runs stand in the order of their validation F1, and the first one is what the others are paired with: test data
    choose nothing, not even here.
    """
    from lit_modules.runs import comparison_report

    folders = find(runs)
    parent = os.path.commonpath([folder.absolute() for folder in folders]) if len(folders) > 1 else folders[0].parent
    found = [read(folder, os.path.relpath(folder.absolute(), parent)) for folder in folders]
    found.sort(key=lambda run: run.summary.get("val/f1", -1.0), reverse=True)
    differing = name_configs(found)
    records = run_records(found), config_records(found, differing), pair_records(found)
    comparison_report.show(*records, differing)
    if output:
        comparison_report.write(output, *records, differing)
