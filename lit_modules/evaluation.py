"""Evaluation: what predictions are worth, class by class, and whether their probabilities can be believed."""

from collections.abc import Sequence
from functools import cached_property
from typing import NamedTuple

import numpy as np

from lit_modules import figures
from lit_modules.pictures import grid
from lit_modules.predictions import Predictions

BINS = 15  # of confidence, as in Guo et al.


class Calibration(NamedTuple):
    """Predictions in bins of equal width of their confidence, which is the probability of the predicted class."""

    counts: np.ndarray
    """int64 `[15]`"""
    confidence: np.ndarray
    """float64 `[15]`: mean over the bin's samples; NaN where there are none"""
    accuracy: np.ndarray
    """float64 `[15]`: likewise"""
    error: float
    """Expected calibration error: the mean of |accuracy - confidence|, weighted by count"""


class Curve(NamedTuple):
    """One class against the rest, at each threshold of its probability; NaN where a side has no samples."""

    thresholds: np.ndarray
    """descending: a sample counts as positive from its threshold on"""
    recall: np.ndarray
    """share of the positives found: the y of ROC, the x of precision and recall"""
    false_alarms: np.ndarray
    """share of the negatives taken for positives: the x of ROC"""
    precision: np.ndarray
    auc: float
    """area under ROC"""
    ap: float
    """average precision"""


class Evaluation:
    """The scores of one split; each is computed when it is first asked for.

    Args:
        class_names: in the order of the labels.
        files: a name for each sample of the split, by its index.
        predictions: of the split, or of a part of it.
    """

    def __init__(self, class_names: Sequence[str], files: Sequence[str], predictions: Predictions) -> None:
        self.class_names = class_names
        self.files = files
        self.predictions = predictions

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 `[true, predicted]`"""
        return confusion_matrix(self.predictions.true, self.predictions.predicted, len(self.class_names))

    @cached_property
    def calibration(self) -> Calibration:
        true, predicted, probabilities = self.predictions[1:4]
        return calibrate(probabilities[np.arange(len(true)), predicted], true == predicted)

    @cached_property
    def curves(self) -> list[Curve]:
        """One a class, thinned for drawing; areas are those of all points."""
        true, probabilities = self.predictions.true, self.predictions.probabilities
        return [thin(curve(probabilities[:, label], true == label)) for label in range(len(self.class_names))]

    @cached_property
    def classes(self) -> dict[str, np.ndarray]:
        """By class, float64 `[num_classes]`: `samples`, `precision`, `recall`, `f1`, `likelihood`, `auc`, `ap`. What a
        class without samples or predictions leaves undefined is NaN."""
        hits, true, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        labels = self.predictions.true
        likelihood = self.predictions.probabilities[np.arange(len(labels)), labels]
        with np.errstate(invalid="ignore"):
            return {
                "samples": true.astype(float),
                "precision": hits / predicted,
                "recall": hits / true,
                "f1": 2 * hits / (true + predicted),
                "likelihood": np.bincount(labels, likelihood, len(true)) / true,
                "auc": np.array([found.auc for found in self.curves]),
                "ap": np.array([found.ap for found in self.curves]),
            }

    @cached_property
    def lowest_first(self) -> np.ndarray:
        """int64 `[num_classes]`: the classes by F1; those without samples come last."""
        return np.lexsort((self.classes["f1"], self.classes["samples"] == 0))

    @cached_property
    def scores(self) -> dict[str, float]:
        """`ece`, and `auc` and `ap` as means over the classes for which they exist; of two classes, those of the
        second against the first."""
        found = {"ece": self.calibration.error}
        for name in ("auc", "ap"):
            values = self.classes[name][1:] if len(self.class_names) == 2 else self.classes[name]
            defined = values[np.isfinite(values)]
            found[name] = float(defined.mean()) if len(defined) else float("nan")
        return found

    @cached_property
    def pictures(self) -> dict[str, bytes]:
        """The figures by name, as PNG files."""
        names = [figures.short(name) for name in self.class_names]
        index, true, predicted, probabilities, rows, inputs = self.predictions
        captions = []
        for row in rows.tolist():
            file = figures.short(self.files[index[row]], 18, keep_end=True)
            probability = probabilities[row, predicted[row]]
            captions.append(f"{names[true[row]]} → {names[predicted[row]]}\n{probability:.3f}  {file}")
        drawn = {
            "confusion": figures.confusion(self.confusion, names),
            "classes": figures.classes(self.classes, self.lowest_first, names),
            "reliability": figures.reliability(self.calibration),
            "roc": figures.roc(self.curves, names),
            "precision_recall": figures.precision_recall(self.curves, names),
            "mistakes": grid(list(inputs), captions, "Worst mistakes: true → predicted, probability, file", columns=6),
        }
        if len(names) == 2:
            drawn["threshold"] = figures.threshold(self.curves[1], names[1])
        return {name: figures.png(figure) for name, figure in drawn.items()}


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 `[true, predicted]`"""
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def calibrate(confidence: np.ndarray, right: np.ndarray) -> Calibration:
    """Guo et al., "On calibration of modern neural networks", arXiv:1706.04599, section 2. A bin holds its upper edge.

    Args:
        confidence: float `[N]` in [0, 1].
        right: bool `[N]`.
    """
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(bins, confidence, BINS) / counts
        accuracy = np.bincount(bins, right, BINS) / counts
    error = np.nansum(counts * np.abs(accuracy - means)) / len(confidence)
    return Calibration(counts, means, accuracy, float(error))


def curve(probability: np.ndarray, positive: np.ndarray) -> Curve:
    """All thresholds from one sort. The area is by trapezoids; average precision is the sum of precision times the
    increase of recall, without interpolation, as scikit-learn defines both.

    Args:
        probability: float `[N]`.
        positive: bool `[N]`.
    """
    order = np.argsort(-probability, kind="stable")
    descending = probability[order]
    last = np.flatnonzero(np.diff(descending, append=-1.0))  # of each run of equal ones, which no threshold parts
    found = positive[order].cumsum()[last]
    wrong = last + 1 - found
    with np.errstate(invalid="ignore"):
        recall = np.append(0, found) / positive.sum()
        false_alarms = np.append(0, wrong) / (~positive).sum()
    precision = np.append(1.0, found / (last + 1))
    area = float(np.trapezoid(recall, false_alarms))
    average = float(np.sum(np.diff(recall) * precision[1:]))
    return Curve(np.append(np.inf, descending[last]), recall, false_alarms, precision, area, average)


def thin(full: Curve) -> Curve:
    """At most some 400 of a curve's points, evenly by recall and by false alarms; its areas as they were."""
    even = np.linspace(0, 1, 200)
    kept = np.concatenate([np.searchsorted(side, even) for side in (full.recall, full.false_alarms)])
    kept = np.unique(np.append(kept.clip(max=len(full.recall) - 1), 0))
    thresholds, recall, false_alarms, precision = (values[kept] for values in full[:4])
    return Curve(thresholds, recall, false_alarms, precision, full.auc, full.ap)
