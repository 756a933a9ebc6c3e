"""How far scores may be trusted: bootstrap intervals, and paired tests of two classifiers on the same samples."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.special import bdtr

RESAMPLES = 10_000
CONFIDENCE = 0.95
LARGEST_DRAW = 10_000_000  # counts in memory at once

# A score of weighted samples: labels `[n]` of each kind, weights `[R, n]` → scores `[R]`.
Score = Callable[..., np.ndarray]


class Interval(NamedTuple):
    """The middle `CONFIDENCE` of the resamples."""

    low: float
    high: float


def accuracy(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Share of right predictions, `[R]`, of integer labels `[n]` with weights `[R, n]`."""
    return weights @ (true == predicted) / weights.sum(1)


def macro_f1(true: np.ndarray, predicted: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Mean F1 over the classes that occur among labels or predictions, `[R]`; arguments as for `accuracy`."""
    classes = 1 + max(true.max(), predicted.max())
    hits = _per_class(true, weights * (true == predicted), classes)
    occurrences = _per_class(true, weights, classes) + _per_class(predicted, weights, classes)
    f1 = np.divide(2 * hits, occurrences, out=np.zeros(hits.shape), where=occurrences > 0)  # [R, classes]
    return f1.sum(1) / (occurrences > 0).sum(1)


def bootstrap(score: Score, *labels: np.ndarray, seed: int = 0) -> np.ndarray:
    """The score of `RESAMPLES` resamples with replacement: float64 `[RESAMPLES]`. Efron, Ann. Statist. 7 (1979).

    Samples with the same labels are one cell, and a resample's counts of all cells are one multinomial draw, so the
    cost depends on the number of different cells, not on that of the samples.

    Args:
        score: called with one label of each kind a cell, and weights `[R, cells]`.
        labels: of each kind, integers `[N]`: the true ones, and those of one or more classifiers.
    """
    cells, counts = np.unique(np.stack(labels), axis=1, return_counts=True)
    generator = np.random.default_rng(seed)
    part = max(1, LARGEST_DRAW // len(counts))
    scores = []
    for start in range(0, RESAMPLES, part):
        weights = generator.multinomial(counts.sum(), counts / counts.sum(), min(part, RESAMPLES - start))
        scores.append(score(*cells, weights))
    return np.concatenate(scores)


def interval(resampled: np.ndarray) -> Interval:
    """The percentile interval."""
    tail = (1 - CONFIDENCE) / 2
    return Interval(*map(float, np.quantile(resampled, [tail, 1 - tail])))


def two_sided_p(resampled_differences: np.ndarray) -> float:
    """How often resamples disagree with the sign of the difference, twice; never 0 (Davison and Hinkley, 1997)."""
    below, above = (resampled_differences <= 0).sum(), (resampled_differences >= 0).sum()
    return float(min(1, 2 * (min(below, above) + 1) / (len(resampled_differences) + 1)))


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p for samples that only one of two classifiers gets right: were both equally good, each such
    sample would fall to either by a coin's toss. McNemar, Psychometrika 12 (1947)."""
    return min(1.0, 2 * float(bdtr(min(only_first, only_second), only_first + only_second, 0.5)))


def _per_class(labels: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """Sums the weights `[R, n]` of each label: `[R, classes]`."""
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    sums = np.zeros((len(weights), classes), np.int64)
    sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums
