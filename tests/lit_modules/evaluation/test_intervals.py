"""Intervals of scores equal those of SciPy and of naive implementations, and cover the truth as often as they say."""

import time

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import roc_auc_score

from lit_modules.evaluation.curves import calibrate
from lit_modules.evaluation.intervals import auc_interval, ece_interval, score_intervals


def predictions(count: int, num_classes: int, seed: int, shift: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    """Labels, and probabilities that are calibrated, as those of a Bayesian classifier are."""
    generator = np.random.default_rng(seed)
    true = generator.integers(num_classes, size=count)
    logits = shift * generator.normal(size=(count, num_classes))
    logits[np.arange(count), true] += shift**2
    probabilities = np.exp(logits - logits.max(1, keepdims=True))
    return true, (probabilities / probabilities.sum(1, keepdims=True)).astype(np.float32)


def naive_delong(positive: np.ndarray, negative: np.ndarray) -> tuple[float, float]:
    """AUC and its variance from all pairs."""
    wins = (positive[:, None] > negative) + 0.5 * (positive[:, None] == negative)
    return wins.mean(), wins.mean(1).var(ddof=1) / len(positive) + wins.mean(0).var(ddof=1) / len(negative)


def test_interval_of_auc_equals_delongs() -> None:
    true, probabilities = predictions(80, 2, 0, 1.0)
    probabilities = probabilities.round(1)  # with ties
    area, variance = naive_delong(probabilities[true == 1, 1], probabilities[true == 0, 1])
    assert area == pytest.approx(roc_auc_score(true, probabilities[:, 1]))
    logit, margin = np.log(area / (1 - area)), stats.norm.ppf(0.975) * variance**0.5 / area / (1 - area)
    expected = [1 / (1 + np.exp(-end)) for end in (logit - margin, logit + margin)]
    assert auc_interval(true, probabilities) == pytest.approx(expected)


def test_interval_of_macro_auc_is_that_of_the_bootstrap() -> None:
    true, probabilities = predictions(400, 4, 0)

    def area(rows: np.ndarray) -> float:
        return float(np.mean([roc_auc_score(true[rows] == label, probabilities[rows, label]) for label in range(4)]))

    resampled = stats.bootstrap((np.arange(400),), area, vectorized=False, n_resamples=200, method="percentile", rng=0)
    found = auc_interval(true, probabilities)
    assert found is not None and found.low < area(np.arange(400)) < found.high
    assert (found.high - found.low) / (2 * stats.norm.ppf(0.975)) == pytest.approx(resampled.standard_error, rel=0.15)


def test_interval_of_likelihood_is_scipys() -> None:
    true, probabilities = predictions(300, 3, 1)
    of_label = probabilities[np.arange(300), true]
    expected = stats.bootstrap((of_label,), np.mean, n_resamples=4000, method="percentile", rng=0).confidence_interval
    found = score_intervals(true, probabilities.argmax(1), probabilities)["likelihood"]
    assert found == pytest.approx(tuple(expected), abs=5e-3)


def test_interval_of_ece_is_scipys() -> None:
    generator = np.random.default_rng(0)
    confidence = generator.uniform(0.5, 1, 500)
    correct = generator.random(500) < confidence - 0.2
    expected = stats.bootstrap(
        (confidence, correct), lambda a, b: calibrate(a, b).error, paired=True, vectorized=False, n_resamples=1000,
        method="basic", rng=1,
    ).confidence_interval  # fmt: skip
    assert ece_interval(confidence, correct) == pytest.approx(tuple(expected), abs=6e-3)


def test_scores_of_few_samples_have_wide_intervals() -> None:
    true = np.arange(24) % 3
    certain = np.eye(3, dtype=np.float32)[true]
    intervals = score_intervals(true, true, certain)
    assert intervals["acc"] == intervals["f1"] and intervals["acc"].low < 0.87 and "auc" not in intervals
    wrong = np.where(np.arange(24) < 3, (true + 1) % 3, true)
    probabilities = 0.9 * np.eye(3, dtype=np.float32)[wrong] + 0.1 / 3
    for name, (low, high) in score_intervals(true, wrong, probabilities).items():
        assert 0 <= low < high <= 1 and high - low > 0.1, name


def test_intervals_are_a_function_of_the_predictions() -> None:
    true, probabilities = predictions(100, 3, 2)
    first, second = (score_intervals(true, probabilities.argmax(1), probabilities) for _ in range(2))
    assert first == second


@pytest.mark.slow
def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    """The truth is the score of many samples of the same source; the probabilities are calibrated, so ECE is 0."""
    true, probabilities = predictions(200_000, 3, 0)
    likelihood = probabilities[np.arange(len(true)), true].mean()
    area = np.mean([roc_auc_score(true == label, probabilities[:, label]) for label in range(3)])
    truth = {"acc": (true == probabilities.argmax(1)).mean(), "likelihood": likelihood, "auc": area}
    covered = dict.fromkeys(truth, 0)
    for seed in range(1, 301):
        true, probabilities = predictions(100, 3, seed)
        intervals = score_intervals(true, probabilities.argmax(1), probabilities)
        for name, value in truth.items():
            covered[name] += intervals[name].low <= value <= intervals[name].high
    assert all(0.91 <= count / 300 <= 0.985 for count in covered.values()), covered


@pytest.mark.slow
def test_cost_of_many_samples_and_classes_is_bounded() -> None:
    true, probabilities = predictions(50_000, 1000, 0, 2.0)
    begin = time.process_time()
    score_intervals(true, probabilities.argmax(1), probabilities)
    assert time.process_time() - begin < 60
