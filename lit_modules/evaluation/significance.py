"""Confidence intervals, and paired significance tests of two classifiers."""

import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

RESAMPLES = 10_000
CONFIDENCE = 0.95
FEWER_RESAMPLES = 1_000  # where the others would draw more than
MAX_DRAWS = 50_000_000  # counts
MAX_COUNTS = 10_000_000  # of them in memory at once

# Score of weighted samples: (true labels `[n]`, predicted labels `[n]`, …, weights `[R, n]`) → `[R]`.
Score = Callable[..., np.ndarray]


class Interval(NamedTuple):
    """Confidence interval at the level `CONFIDENCE`."""

    low: float
    high: float


def wilson(correct: int, total: int) -> Interval:
    """Interval of a fraction from a count of independent samples, also valid for few.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).
    """
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2)
    fraction, shrink = correct / total, 1 + z**2 / total
    centre = (fraction + z**2 / (2 * total)) / shrink
    margin = z / shrink * math.sqrt(fraction * (1 - fraction) / total + z**2 / (4 * total**2))
    return Interval(max(0.0, centre - margin), min(1.0, centre + margin))


def all_right(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """Whether the label of a sample `[n]`, or each of several `[n, num_classes]`, is predicted: bool `[n]`."""
    right: np.ndarray = (true == predicted).reshape(len(true), -1).all(axis=1)
    return right


def accuracy(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted accuracy `[R]` of integer labels `[n]` with weights `[R, n]`."""
    return weights @ (true == predicted) / weights.sum(1)


def macro_f1(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted F1 `[R]`, averaged over classes present in labels or predictions; see `accuracy`.

    Labels are integers `[n]`, or 0/1 `[n, num_classes]` where a sample may have several.
    """
    if true.ndim == 2:
        tp, occurrences = weights @ (true & predicted), weights @ (true + predicted)
        return _mean_f1(tp, occurrences)
    classes = 1 + max(true.max(), predicted.max())
    tp = _per_class(true, weights * (true == predicted), classes)
    occurrences = _per_class(true, weights, classes) + _per_class(predicted, weights, classes)
    return _mean_f1(tp, occurrences)


def _mean_f1(tp: np.ndarray, occurrences: np.ndarray) -> np.ndarray:
    """True positives, and labels and predictions together, both `[R, classes]` → `[R]`."""
    f1 = np.divide(2 * tp, occurrences, out=np.zeros(tp.shape), where=occurrences > 0)
    return f1.sum(1) / np.maximum((occurrences > 0).sum(1), 1)


def bootstrap(score: Score, *labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """Scores of R bootstrap resamples, float64 `[R]`: 10,000, or 1,000 of many cells.

    Samples with identical labels form a cell. The cell counts of a resample are one multinomial draw, so the cost
    depends on the number of distinct cells, not of samples.

    Source: B. Efron, "Bootstrap methods", Ann. Statist. 7 (1979).

    Args:
        score: called with the labels of the cells, each `[cells]`, and weights `[R, cells]`.
        labels: integers `[N]`, or 0/1 `[N, num_classes]`: the true labels, then the predictions of one or more
            classifiers.
    """
    columns, counts = np.unique(np.concatenate([np.atleast_2d(part.T) for part in labels]), axis=1, return_counts=True)
    parts = np.split(columns, len(labels))
    cells = [part[0] if labels[0].ndim == 1 else part.T for part in parts]
    resamples = RESAMPLES if RESAMPLES * len(counts) <= MAX_DRAWS else FEWER_RESAMPLES
    generator = np.random.default_rng(seed)
    chunk = max(1, MAX_COUNTS // len(counts))
    scores = []
    for start in range(0, resamples, chunk):
        weights = generator.multinomial(counts.sum(), counts / counts.sum(), min(chunk, resamples - start))
        scores.append(score(*cells, weights))
    return np.concatenate(scores)


def interval(resampled: np.ndarray) -> Interval:
    """Percentile bootstrap interval."""
    tail = (1 - CONFIDENCE) / 2
    return Interval(*map(float, np.quantile(resampled, [tail, 1 - tail])))


class MeanTest(NamedTuple):
    """A mean over splits, its interval, and the p-value of the hypothesis that it is 0."""

    mean: float
    interval: Interval
    p: float


def corrected_t(values: np.ndarray, test_train_ratio: float) -> MeanTest:
    """t-test of values by split, whose variance is corrected for training sets that overlap.

    The variance of the mean of J values is (1/J + n_test/n_train) of their variance, instead of 1/J.

    Source: C. Nadeau and Y. Bengio, "Inference for the generalization error", Machine Learning 52 (2003).

    Args:
        values: float `[J]`, J ≥ 2: a score, or the difference of two classifiers, on each split.
        test_train_ratio: test samples per training sample.
    """
    from scipy.stats import t  # on demand: it takes 0.6 s

    count = len(values)
    mean = float(np.mean(values))
    error = math.sqrt((1 / count + test_train_ratio) * np.var(values, ddof=1))
    margin = float(t.ppf(0.5 + CONFIDENCE / 2, count - 1)) * error
    p = float(2 * t.sf(abs(mean) / error, count - 1)) if error else float(mean == 0)
    return MeanTest(mean, Interval(mean - margin, mean + margin), p)


def two_sided_p(resampled_differences: np.ndarray) -> float:
    """Two-sided bootstrap p-value of a difference; never 0 (Davison and Hinkley, 1997)."""
    below = (resampled_differences <= 0).sum()
    above = (resampled_differences >= 0).sum()
    return float(min(1, 2 * (min(below, above) + 1) / (len(resampled_differences) + 1)))


def mcnemar(only_first: int, only_second: int) -> float:
    """p-value of the exact two-sided McNemar test; 1 without discordant samples.

    Source: Q. McNemar, Psychometrika 12 (1947).

    Args:
        only_first: number of samples that only the first classifier predicts correctly.
        only_second: likewise for the second.
    """
    from scipy.stats import binomtest  # on demand: it takes 0.6 s

    discordant = only_first + only_second
    return float(binomtest(only_first, discordant).pvalue) if discordant else 1.0


def _per_class(labels: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Sums the weights `[R, n]` of each label: `[R, classes]`."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums = np.zeros((len(weights), classes), np.int64)
    sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums
