"""Intervals and tests equal those of SciPy, scikit-learn and closed forms."""

from fractions import Fraction
from math import comb

import numpy as np
import pytest
from scipy import stats
from sklearn.metrics import accuracy_score, f1_score

from lit_modules.evaluation.significance import (
    accuracy,
    bootstrap,
    corrected_t,
    interval,
    macro_f1,
    mcnemar,
    two_sided_p,
    wilson,
)


def labels(samples: int = 300, classes: int = 5, kinds: int = 2) -> list[np.ndarray]:
    """True labels, and predictions of which two in three are right; the last class is never true."""
    generator = np.random.default_rng(0)
    true = generator.integers(classes - 1, size=samples)
    guesses = generator.integers(classes, size=(kinds - 1, samples))
    return [true, *np.where(generator.random(guesses.shape) < 2 / 3, true, guesses)]


@pytest.mark.filterwarnings("ignore:.*y_pred contains classes not in y_true.*")
def test_scores_of_weighted_samples_equal_scikit_learns() -> None:
    true, predicted = labels(40, 6)
    weights = np.random.default_rng(1).integers(3, size=(50, len(true)))
    for score, reference in ((accuracy, accuracy_score), (macro_f1, lambda a, b: f1_score(a, b, average="macro"))):
        expected = [reference(true.repeat(row), predicted.repeat(row)) for row in weights]
        np.testing.assert_allclose(score(true, predicted, weights), expected, rtol=1e-12)


def test_interval_of_accuracy_is_that_of_the_binomial() -> None:
    true, predicted = labels(2000)
    right = int((true == predicted).sum())
    low, high = interval(bootstrap(accuracy, true, predicted))
    expected = stats.binom(2000, right / 2000).ppf([0.025, 0.975]) / 2000
    np.testing.assert_allclose([low, high], expected, atol=1e-3)


def test_interval_of_f1_is_scipys() -> None:
    true, predicted = labels()
    ours = interval(bootstrap(macro_f1, true, predicted))

    def f1(true: np.ndarray, predicted: np.ndarray) -> float:
        return float(macro_f1(true, predicted, np.ones((1, len(true)), np.int64))[0])

    theirs = stats.bootstrap(
        (true, predicted), f1, paired=True, vectorized=False, n_resamples=4000, method="percentile", rng=1
    ).confidence_interval
    np.testing.assert_allclose(ours, theirs, atol=3e-3)


def test_resamples_are_a_function_of_the_seed() -> None:
    true, predicted = labels()
    assert np.array_equal(bootstrap(accuracy, true, predicted), bootstrap(accuracy, true, predicted))
    assert not np.array_equal(bootstrap(accuracy, true, predicted), bootstrap(accuracy, true, predicted, seed=1))


@pytest.mark.parametrize(("first", "second"), [(0, 0), (1, 0), (6, 4), (3, 26), (500, 560), (900, 1000)])
def test_mcnemar_is_the_exact_binomial_test(first: int, second: int) -> None:
    n = first + second
    tail = Fraction(sum(comb(n, k) for k in range(min(first, second) + 1)), 2**n)
    assert mcnemar(first, second) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)


def test_p_of_a_symmetric_difference_is_that_of_the_normal() -> None:
    differences = np.random.default_rng(0).normal(1, 0.5, 200_000)
    assert two_sided_p(differences) == pytest.approx(2 * stats.norm.sf(2), rel=0.02)
    assert two_sided_p(np.ones(10_000)) == pytest.approx(2 / 10_001), "never 0"
    assert two_sided_p(np.zeros(10)) == 1


@pytest.mark.parametrize(("correct", "total"), [(0, 7), (7, 7), (51, 60), (1, 1), (8123, 10000)])
def test_interval_of_a_count_equals_scipys(correct: int, total: int) -> None:
    expected = stats.binomtest(correct, total).proportion_ci(0.95, method="wilson")
    assert wilson(correct, total) == pytest.approx((expected.low, expected.high), abs=1e-12)


@pytest.mark.parametrize("values", [[0.02, 0.01, 0.05, -0.01, 0.03], [0.1, 0.3]])
def test_corrected_t_is_that_of_nadeau_and_bengio(values: list[float]) -> None:
    uncorrected = stats.ttest_1samp(values, 0)
    test = corrected_t(np.array(values), 0.0)
    assert test.p == pytest.approx(uncorrected.pvalue)
    assert test.interval == pytest.approx(tuple(uncorrected.confidence_interval(0.95)))
    count = len(values)
    statistic = uncorrected.statistic / np.sqrt(1 + count * 0.25)  # (1/J + n2/n1) instead of 1/J
    assert corrected_t(np.array(values), 0.25).p == pytest.approx(2 * stats.t.sf(abs(statistic), count - 1))


def test_corrected_t_of_equal_values_is_certain() -> None:
    assert corrected_t(np.zeros(3), 0.25) == (0, (0, 0), 1) and corrected_t(np.ones(3), 0.25).p == 0


@pytest.mark.slow
def test_corrected_t_rejects_equal_classifiers_seldom() -> None:
    """Two classifiers of equal quality on random splits of one sample: the usual t-test rejects far too often."""
    generator = np.random.default_rng(0)
    rejected = {0.0: 0, 0.25: 0}
    for _ in range(300):
        inputs, noise = generator.normal(size=(100, 2)), generator.normal(size=100)
        labels = inputs.sum(1) + noise > 0
        differences = []
        for _ in range(15):
            order = generator.permutation(100)
            train, test = order[:80], order[80:]
            accuracies = []
            for column in range(2):
                values = inputs[:, column]
                threshold = (values[train][labels[train]].mean() + values[train][~labels[train]].mean()) / 2
                accuracies.append(((values > threshold) == labels)[test].mean())
            differences.append(accuracies[0] - accuracies[1])
        for ratio in rejected:
            rejected[ratio] += corrected_t(np.array(differences), ratio).p < 0.05
    assert rejected[0.25] / 300 < 0.15 < 0.3 < rejected[0.0] / 300
