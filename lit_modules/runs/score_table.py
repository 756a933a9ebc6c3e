"""Scores and their confidence intervals: in summary.json, as a table of report.md, and on the console."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from conf.text import printable
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.intervals import score_intervals
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.evaluation.significance import CONFIDENCE

SCORES = {
    "loss": "loss",
    "acc": "accuracy",
    "f1": "macro F1",
    "likelihood": "likelihood (mean probability of the true class)",
    "ece": "expected calibration error (ECE)",
    "auc": "ROC AUC, macro average",
    "ap": "average precision (AP), macro average",
}
MULTI_LABEL_SCORES = {
    "acc": "subset accuracy (all labels of a sample right)",
    "likelihood": "likelihood (mean probability of what is true of a label)",
    "f1_micro": "micro F1",
    "hamming": "Hamming loss (fraction of wrong labels)",
}
FEW_SAMPLES = 1000  # on which other splits would give other scores
MORE_SPLITS = "folds=5 tests on all"
ABOUT_INTERVALS = (
    f"Brackets: {CONFIDENCE:.0%} intervals of the scores of this network on other samples; other seeds and training "
    "samples vary more. Accuracy: Wilson; AUC: DeLong; others: bootstrap over the samples."
)
LEVEL = f"{CONFIDENCE:.0%}"


def interval_scores(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """Ends of the intervals for summary.json, such as `test/f1/low` and `test/f1/high`."""
    ends: dict[str, float] = {}
    for split, evaluation in evaluations.items():
        for name, (low, high) in score_intervals(*evaluation.predictions[1:4]).items():
            ends |= {f"{split}/{name}/low": low, f"{split}/{name}/high": high}
    return ends


def labels_of(scores: Mapping[str, Any]) -> dict[str, str]:
    """Labels of scores by name; that of a metric that the config added is its name."""
    labels = dict(SCORES)
    if any(tag.endswith("/hamming") for tag in scores):
        labels |= MULTI_LABEL_SCORES
    tags = (tag.split("/") for tag in scores)
    metrics = [tag[1] for tag in tags if len(tag) == 2 and tag[0] in ("val", "test") and tag[1] not in labels]
    return labels | {name: name for name in metrics}


def digits_of(scores: Mapping[str, Any], tag: str) -> int:
    """Decimals in which a score is given: one more than half its interval, or that of the accuracy, has zeros."""
    if f"{tag}/low" not in scores:
        tag = f"{tag.split('/')[0]}/acc"
    half = (scores.get(f"{tag}/high", 0.0) - scores.get(f"{tag}/low", 0.0)) / 2
    return min(4, max(2, 1 - math.floor(math.log10(half)))) if half > 0 else 4


def with_interval(scores: Mapping[str, Any], tag: str) -> str:
    """A score and its interval, such as `0.92 (0.74 – 0.98)`."""
    value, digits = scores.get(tag), digits_of(scores, tag)
    if value is None or value != value:
        return "–"
    if f"{tag}/low" not in scores:
        return f"{value:.{digits}f}"
    return f"{value:.{digits}f} ({scores[f'{tag}/low']:.{digits}f} – {scores[f'{tag}/high']:.{digits}f})"


def score_table(summary: Mapping[str, Any], splits: Sequence[str]) -> str:
    """The scores of each split in Markdown."""
    rows = []
    for score, label in labels_of(summary).items():
        rows.append([label, *(with_interval(summary, f"{split}/{score}") for split in splits)])
    return f"{markdown_table(('', *splits), rows)}\n\n{ABOUT_INTERVALS}"


def print_scores(scores: Mapping[str, Any], files: Mapping[str, Path], count: int = 0) -> None:
    """Prints the test scores with their intervals, and the paths of the result files.

    Args:
        count: of the tested samples; 0: unknown.
    """
    names = [name for name in labels_of(scores) if f"test/{name}" in scores]
    console = Console(soft_wrap=True, markup=False, emoji=False)
    if names:
        rows = {"test": "", f"{LEVEL} from": "/low", "to": "/high"}
        console.print(console_table(scores, names, rows))
    if names and 0 < count < FEW_SAMPLES:
        console.print(f"{count} test samples; {MORE_SPLITS}", highlight=False)
    for label, path in files.items():
        console.print(printable(f"{label}: {path}"), highlight=False)


def console_table(scores: Mapping[str, Any], names: list[str], rows: Mapping[str, str]) -> Table:
    """A column for each test score; a row for each suffix of its tag, by title, where there are values."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column(min_width=max(map(len, rows)))
    for name in names:
        table.add_column(name, justify="right", min_width=max(len(name), len("0.0000")))  # nothing is cut off
    for title, suffix in rows.items():
        values = [(scores.get(f"test/{name}{suffix}"), digits_of(scores, f"test/{name}")) for name in names]
        if any(value is not None for value, _ in values):
            table.add_row(title, *("" if value is None else f"{value:.{digits}f}" for value, digits in values))
    return table
