"""How sets, thresholds of labels and unknown inputs fare on the test split, for summary.json and report.md."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from conf.errors import UserError
from lit_modules.evaluation.evaluation import Evaluation, label_counts
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.evaluation.significance import CONFIDENCE, wilson
from lit_modules.inference.conformal import prediction_sets, set_threshold
from lit_modules.inference.label_thresholds import best_thresholds
from lit_modules.inference.unknown import FALSE_ALARM_RATE

COVERAGES = (0.9, 0.95)
MAX_ROWS = 200
SETS = (
    "A set holds the classes that may be the true one: `task=predict coverage=0.95`. Its threshold is fitted to the "
    "validation split, which also chose the best epoch; the fractions here are of test samples whose set holds their "
    f"class, with {CONFIDENCE:.0%} intervals. The coverage asked for is that of all samples, not of each class. A "
    "set has at least one class, so coverage is at least the accuracy."
)
THRESHOLDS = (
    "`task=predict threshold=f1` predicts a label from the probability with the highest F1 on the validation split, "
    "instead of 0.5."
)
UNKNOWN = "`task=predict unknown={rate}` calls {alarms} of the test samples unknown; {rate:.0%} are expected."
FEW_IN_A_CLASS = "The {shown} of {count:,} classes with the lowest F1."


def set_scores(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """For each of `COVERAGES` that validation samples suffice for: threshold, coverage and mean size of sets.

    Args:
        evaluations: `test`, and `val` if there is a validation split.

    Returns:
        `sets/<coverage>/threshold`, `…/coverage` and `…/size`, and the last two also of each class, as in
        `sets/0.9/size/<class>`.
    """
    scores: dict[str, float] = {}
    if "val" not in evaluations or "test" not in evaluations or evaluations["test"].is_multi_label:
        return scores
    val, test = evaluations["val"].predictions, evaluations["test"]
    true, num_samples = test.predictions.true, test.classes["samples"]
    for coverage in COVERAGES:
        try:
            threshold = set_threshold(val.probabilities, val.true, coverage)
        except UserError:  # too few validation samples
            continue
        sets = prediction_sets(test.predictions.probabilities, threshold)
        covered = sets[np.arange(len(true)), true].astype(float)
        sizes = sets.sum(1).astype(float)
        scores[f"sets/{coverage}/threshold"] = threshold
        for figure, values in {"coverage": covered, "size": sizes}.items():
            scores[f"sets/{coverage}/{figure}"] = float(values.mean())
            sums = np.bincount(true, values, len(num_samples))
            for name, total, count in zip(test.class_names, sums.tolist(), num_samples.tolist(), strict=True):
                if count:
                    scores[f"sets/{coverage}/{figure}/{name}"] = total / count
    return scores


def threshold_scores(evaluations: Mapping[str, Evaluation]) -> dict[str, float]:
    """The `best_thresholds` of the validation split, and the F1 of each label on the test split with them; nothing for
    one label a sample.

    Returns:
        `threshold/<label>` and `threshold/<label>/f1`; the latter is left out where it is undefined.
    """
    if "val" not in evaluations or "test" not in evaluations or not evaluations["test"].is_multi_label:
        return {}
    val, test = evaluations["val"].predictions, evaluations["test"].predictions
    thresholds = best_thresholds(val.probabilities, val.true)
    hits, num_true, num_predicted = label_counts(test.true, (test.probabilities >= thresholds).astype(np.int64))
    scores: dict[str, float] = {}
    for label, name in enumerate(evaluations["test"].class_names):
        scores[f"threshold/{name}"] = float(thresholds[label])
        if num_true[label] + num_predicted[label]:
            scores[f"threshold/{name}/f1"] = float(2 * hits[label] / (num_true[label] + num_predicted[label]))
    return scores


def uncertainty_sections(summary: Mapping[str, Any], test: Evaluation) -> list[str]:
    """Sections of report.md, of the scores in summary.json."""
    sections = []
    if test.is_multi_label and f"threshold/{test.class_names[0]}" in summary:
        rows = []
        for label in test.lowest_first[:MAX_ROWS].tolist():
            key = f"threshold/{test.class_names[label]}"
            f1 = (test.classes["f1"][label], summary.get(f"{key}/f1", math.nan))
            rows.append([test.class_names[label], f"{summary[key]:.3f}", *(f"{value:.4f}" for value in f1)])
        heading = ("label", "threshold", "test F1 at 0.5", "at the threshold")
        sections += ["## Decision thresholds", THRESHOLDS, markdown_table(heading, rows)]
    coverages = [coverage for coverage in COVERAGES if f"sets/{coverage}/threshold" in summary]
    if coverages:
        columns = ["class", "samples"]
        for coverage in coverages:
            columns += [f"covered, of {coverage}", "classes in a set"]
        order = test.lowest_first[:MAX_ROWS].tolist()
        table = [["all", *_cells(summary, coverages, "", len(test.predictions.true))]]
        for label in order:
            name, count = test.class_names[label], int(test.classes["samples"][label])
            if count:
                table.append([name, *_cells(summary, coverages, f"/{name}", count)])
        note = FEW_IN_A_CLASS.format(shown=MAX_ROWS, count=len(test.class_names))
        sections += ["## Prediction sets", SETS, *([note] if len(test.class_names) > MAX_ROWS else [])]
        sections.append(markdown_table(columns, table))
    rate = summary.get(f"unknown/{FALSE_ALARM_RATE}/false_alarm_rate")
    if rate is not None:
        alarms = _with_interval(rate, len(test.predictions.true))
        sections += ["## Unknown inputs", UNKNOWN.format(rate=FALSE_ALARM_RATE, alarms=alarms)]
    return sections


def _cells(summary: Mapping[str, Any], coverages: list[float], suffix: str, count: int) -> list[str]:
    cells = [f"{count:,}"]
    for coverage in coverages:
        cells.append(_with_interval(summary[f"sets/{coverage}/coverage{suffix}"], count))
        cells.append(f"{summary[f'sets/{coverage}/size{suffix}']:.2f}")
    return cells


def _with_interval(fraction: float, count: int) -> str:
    low, high = wilson(round(fraction * count), count)
    return f"{fraction:.3f} ({low:.3f} – {high:.3f})"
