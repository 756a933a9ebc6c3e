"""Calibration error, and one-vs-rest ROC and precision-recall curves."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

BINS = 15  # number of confidence bins, as in Guo et al.


class Calibration(NamedTuple):
    """Statistics of equal-width confidence bins; confidence is the probability of the predicted class."""

    counts: np.ndarray
    """int64 `[15]`"""
    confidence: np.ndarray
    """float64 `[15]`: mean over the samples of the bin; NaN for an empty bin"""
    accuracy: np.ndarray
    """float64 `[15]`: mean over the samples of the bin; NaN for an empty bin"""
    error: float
    """Expected calibration error: the mean of |accuracy - confidence|, weighted by count"""


class Curve(NamedTuple):
    """One-vs-rest curves of a class; NaN without positive or without negative samples."""

    thresholds: np.ndarray
    """descending; a sample is positive if its probability is >= the threshold"""
    recall: np.ndarray
    """true positive rate"""
    fpr: np.ndarray
    """false positive rate"""
    precision: np.ndarray
    auc: float
    """area under the ROC curve"""
    ap: float
    """average precision"""


def calibrate(confidence: np.ndarray, correct: np.ndarray) -> Calibration:
    """Expected calibration error and its bins, which include their upper edge.

    Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599, section 2.

    Args:
        confidence: float `[N]` in [0, 1].
        correct: bool `[N]`.
    """
    bins = confidence_bins(confidence)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        means = np.bincount(bins, confidence, BINS) / counts
        accuracy = np.bincount(bins, correct, BINS) / counts
    error = np.nansum(counts * np.abs(accuracy - means)) / len(confidence)
    return Calibration(counts, means, accuracy, float(error))


def confidence_bins(confidence: np.ndarray) -> np.ndarray:
    """The bin of each confidence, int64 `[N]`."""
    edges = np.linspace(0, 1, BINS + 1)
    return np.clip(np.searchsorted(edges, confidence, side="left") - 1, 0, BINS - 1)


def curve(probability: np.ndarray, positive: np.ndarray) -> Curve:
    """ROC and precision-recall curves at all distinct thresholds, from one sort.

    As in scikit-learn, AUC uses the trapezoidal rule, and average precision is the sum of precision times the increase
    of recall, without interpolation.

    Args:
        probability: float `[N]`.
        positive: bool `[N]`.
    """
    order = np.argsort(-probability, kind="stable")
    descending = probability[order]
    last = np.flatnonzero(np.diff(descending, append=-1.0))  # last index of each run of tied probabilities
    tp = positive[order].cumsum()[last]
    fp = last + 1 - tp
    with np.errstate(invalid="ignore"):
        recall = np.append(0, tp) / positive.sum()
        fpr = np.append(0, fp) / (~positive).sum()
    precision = np.append(1.0, tp / (last + 1))
    auc = float(np.trapezoid(recall, fpr))
    ap = float(np.sum(np.diff(recall) * precision[1:]))
    return Curve(np.append(np.inf, descending[last]), recall, fpr, precision, auc, ap)


def confidence_of(probabilities: np.ndarray, predicted: np.ndarray, true: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `calibrate` compares: the probability of the predicted class, and whether it is right, both `[N]`. With
    several labels a sample, the probability of each label, and whether it is there, both `[N · num_classes]`."""
    if true.ndim == 2:
        return probabilities.reshape(-1), true.reshape(-1) == 1
    return probabilities[np.arange(len(true)), predicted], predicted == true


def curves(probabilities: np.ndarray, true: np.ndarray) -> list[Curve]:
    """The curve of each class against the others, or of each label.

    Args:
        probabilities: float `[N, num_classes]`.
        true: int64 `[N]`, or 0/1 `[N, num_classes]`.
    """
    return [curve(probabilities[:, label], is_class(true, label)) for label in range(probabilities.shape[1])]


def is_class(true: np.ndarray, label: int) -> np.ndarray:
    """Whether each sample has a label, bool `[N]`; `true` as of `curves`."""
    return true[:, label] == 1 if true.ndim == 2 else true == label


def macro(by_class: Sequence[float], multi_label: bool = False) -> float:
    """Mean of a score over the classes where it is defined, else NaN; of two classes, the score of the second."""
    values = np.array(by_class[1:] if len(by_class) == 2 and not multi_label else by_class)
    defined = values[np.isfinite(values)]
    return float(defined.mean()) if len(defined) else float("nan")


def thin(full: Curve) -> Curve:
    """Keeps at most about 400 points, evenly spaced in recall and FPR; AUC and AP are unchanged."""
    even = np.linspace(0, 1, 200)
    kept = np.concatenate([np.searchsorted(full.recall, even), np.searchsorted(full.fpr, even)])
    kept = np.unique(np.append(kept.clip(max=len(full.recall) - 1), 0))
    return full._replace(
        thresholds=full.thresholds[kept], recall=full.recall[kept], fpr=full.fpr[kept], precision=full.precision[kept]
    )
