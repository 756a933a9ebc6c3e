"""Whether probabilities can be believed: calibration, and the curves of a class against the rest."""

from typing import NamedTuple

import numpy as np

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
