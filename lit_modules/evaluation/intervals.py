"""Confidence intervals of the scores of one split, at the level `significance.CONFIDENCE`."""

import math
from statistics import NormalDist

import numpy as np

from lit_modules.evaluation.curves import BINS, calibrate, confidence_bins, confidence_of, is_class
from lit_modules.evaluation.significance import CONFIDENCE, Interval, all_right, bootstrap, interval, macro_f1, wilson

RESAMPLES = 1_000
MAX_DRAWS = 50_000_000  # of samples; with more samples there are fewer resamples,
MIN_RESAMPLES = 100


def score_intervals(true: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray) -> dict[str, Interval]:
    """Intervals of `acc` (Wilson), `f1`, `likelihood`, `ece` (bootstrap over the samples) and `auc` (DeLong).

    An undefined one is left out: the AUC of a single class, or of classes that the probabilities separate completely;
    so is `ece` of several labels a sample, which are not independent.

    Args:
        true, predicted: int64 `[N]`, or 0/1 `[N, num_classes]`.
        probabilities: float `[N, num_classes]`.
    """
    correct = all_right(true, predicted)
    accuracy = wilson(int(correct.sum()), len(true))
    # Without a mistake each resample has an F1 of 1, which says nothing about mistakes to come.
    f1 = accuracy if correct.all() else interval(bootstrap(macro_f1, true, predicted))
    one_bin = np.zeros(len(true), np.int64)
    likelihood = interval(resampled_sums(_likelihoods(true, probabilities), one_bin, 1)[:, 0] / len(true))
    intervals = {"acc": accuracy, "f1": f1, "likelihood": likelihood}
    if true.ndim == 1:
        intervals["ece"] = ece_interval(*confidence_of(probabilities, predicted, true))
    auc = auc_interval(true, probabilities)
    return intervals | ({"auc": auc} if auc else {})


def _likelihoods(true: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """The probability of the true class of each sample; of several labels the mean of what is true of each. `[N]`"""
    if true.ndim == 2:
        return np.where(true == 1, probabilities, 1 - probabilities).mean(1)
    return probabilities[np.arange(len(true)), true]


def resampled_sums(values: np.ndarray, bins: np.ndarray, num_bins: int, seed: int = 0) -> np.ndarray:
    """Sums of values `[N]` in each bin over bootstrap resamples of the samples, float64 `[R, num_bins]`."""
    count = len(values)
    resamples = int(np.clip(MAX_DRAWS // count, MIN_RESAMPLES, RESAMPLES))
    generator = np.random.default_rng(seed)
    sums = []
    for _ in range(resamples):
        drawn = generator.integers(count, size=count)
        sums.append(np.bincount(bins[drawn], values[drawn], num_bins))
    return np.stack(sums)


def ece_interval(confidence: np.ndarray, correct: np.ndarray) -> Interval:
    """Basic bootstrap interval of the expected calibration error, extended to the error itself.

    The error of a resample is biased upward, by as much as the error of the samples is; the basic interval subtracts
    that bias (A. Davison and D. Hinkley, "Bootstrap methods and their application", 1997, section 5.2.1).

    Args:
        confidence: probability of the predicted class, float `[N]`.
        correct: bool `[N]`.
    """
    gaps = resampled_sums(correct - confidence.astype(float), confidence_bins(confidence), BINS)  # [R, bins]
    error = calibrate(confidence, correct).error
    low, high = interval(np.abs(gaps).sum(1) / len(correct))
    return Interval(max(0.0, min(2 * error - high, error)), min(1.0, max(2 * error - low, error)))


def auc_interval(true: np.ndarray, probabilities: np.ndarray) -> Interval | None:
    """Interval of the macro AUC, see `curves.macro`, normal on the logit scale; None if it has no variance.

    The variance is that of DeLong, of all classes together: a sample has a part in the AUC of each class.

    Source: E. DeLong, D. DeLong and D. Clarke-Pearson, "Comparing the areas under two or more correlated receiver
    operating characteristic curves", Biometrics 44 (1988).
    """
    num_classes = probabilities.shape[1]
    labels = [1] if num_classes == 2 and true.ndim == 1 else range(num_classes)
    areas = []
    influence = np.zeros(len(true))
    for label in labels:
        positive = is_class(true, label)
        if positive.any() and not positive.all():
            placements = _placements(probabilities[:, label], positive)
            areas.append(placements[positive].mean())
            for part in (positive, ~positive):
                size = part.sum()
                influence[part] += (placements[part] - areas[-1]) / math.sqrt(size * max(1, size - 1))
    if not areas or not influence.any():
        return None
    area = float(np.mean(areas))
    error = math.sqrt(np.sum(influence**2)) / len(areas)
    logit = math.log(area / (1 - area))
    margin = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2) * error / (area * (1 - area))
    return Interval(*(1 / (1 + math.exp(-end)) for end in (logit - margin, logit + margin)))


def _placements(probability: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """The fraction of the other kind, positive or negative, that a sample is ranked rightly against; ties are half."""
    placements = np.empty(len(probability))
    for part in (positive, ~positive):
        others = np.sort(probability[~part])
        below = np.searchsorted(others, probability[part], "left") + np.searchsorted(others, probability[part], "right")
        placements[part] = below / (2 * len(others))
    placements[~positive] = 1 - placements[~positive]
    return placements
