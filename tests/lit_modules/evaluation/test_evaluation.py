"""Scores by class, curves and calibration equal those of scikit-learn and torchmetrics, absent classes included."""

import numpy as np
import pytest
import torch
from sklearn import metrics
from torchmetrics.functional.classification import multiclass_calibration_error

from lit_modules.evaluation.curves import BINS, calibrate, curve, thin
from tests.samples import evaluation

CASES = [(2, ()), (3, ()), (10, ()), (10, (0, 7)), (100, (3,)), (2, (1,))]


@pytest.mark.parametrize(("num_classes", "absent"), CASES)
def test_scores_by_class_equal_those_of_scikit_learn(num_classes: int, absent: tuple[int, ...]) -> None:
    found = evaluation(num_classes, absent=absent)
    labels = range(num_classes)
    true, predicted = found.predictions.true, found.predictions.predicted
    expected = metrics.precision_recall_fscore_support(true, predicted, labels=labels, zero_division=np.nan)
    for name, values in zip(("precision", "recall", "f1", "samples"), expected, strict=True):
        np.testing.assert_allclose(found.classes[name], values, rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(found.confusion, metrics.confusion_matrix(true, predicted, labels=labels))
    for label in labels:
        given = found.predictions.probabilities[true == label, label]
        expected_likelihood = given.mean(dtype=float) if len(given) else np.nan
        assert found.classes["likelihood"][label] == pytest.approx(expected_likelihood, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("decimals", [7, 1], ids=["distinct", "with ties"])
@pytest.mark.parametrize(("num_classes", "absent"), CASES)
def test_areas_equal_those_of_scikit_learn(num_classes: int, absent: tuple[int, ...], decimals: int) -> None:
    found = evaluation(num_classes, 2000, absent, decimals)
    true, probabilities = found.predictions.true, found.predictions.probabilities
    aucs, aps = [], []
    for label in range(num_classes):
        positive = true == label
        if label in absent:
            assert np.isnan(found.classes["auc"][label]) and np.isnan(found.classes["ap"][label])
            continue
        aps.append(metrics.average_precision_score(positive, probabilities[:, label]))
        assert found.classes["ap"][label] == pytest.approx(aps[-1], rel=1e-12)
        if not positive.all():
            aucs.append(metrics.roc_auc_score(positive, probabilities[:, label]))
            assert found.classes["auc"][label] == pytest.approx(aucs[-1], rel=1e-12)
    if num_classes > 2:
        assert found.scores["auc"] == pytest.approx(np.mean(aucs))
        assert found.scores["ap"] == pytest.approx(np.mean(aps))


def test_mean_area_equals_that_of_scikit_learn() -> None:
    found = evaluation(10)
    probabilities = found.predictions.probabilities.astype(float)
    probabilities /= probabilities.sum(1, keepdims=True)
    expected = metrics.roc_auc_score(found.predictions.true, probabilities, multi_class="ovr", average="macro")
    assert found.scores["auc"] == pytest.approx(expected, abs=1e-6)


def test_of_two_classes_the_second_is_scored() -> None:
    found = evaluation(2)
    true, positive = found.predictions.true, found.predictions.probabilities[:, 1]
    assert found.scores["auc"] == pytest.approx(metrics.roc_auc_score(true, positive))
    assert found.scores["ap"] == pytest.approx(metrics.average_precision_score(true, positive))


def test_scores_that_do_not_exist_are_no_numbers() -> None:
    found = evaluation(2, absent=(1,))
    assert np.isnan(found.scores["auc"]) and np.isnan(found.scores["ap"]) and found.scores["ece"] > 0


@pytest.mark.parametrize("num_classes", [2, 3, 10, 100])
def test_calibration_error_equals_that_of_torchmetrics(num_classes: int) -> None:
    found = evaluation(num_classes, samples=2000)
    probabilities, true = torch.tensor(found.predictions.probabilities), torch.tensor(found.predictions.true)
    expected = multiclass_calibration_error(probabilities, true, num_classes, n_bins=BINS, norm="l1")
    assert found.scores["ece"] == pytest.approx(expected.item(), abs=1e-6)


def test_calibration_of_a_few_predictions_by_hand() -> None:
    # Bins of width 1/15: 0.5 lies in the eighth, 0.95 and 1 in the last.
    found = calibrate(np.array([0.5, 0.5, 0.95, 1.0]), np.array([True, False, True, False]))
    assert found.counts.tolist() == [0] * 7 + [2] + [0] * 6 + [2]
    assert found.accuracy[[7, 14]].tolist() == [0.5, 0.5] and found.confidence[14] == pytest.approx(0.975)
    assert np.isnan(found.accuracy[0])
    assert found.error == pytest.approx(0.5 * 0 + 0.5 * 0.475)


def test_bin_holds_its_upper_edge() -> None:
    found = calibrate(np.append(np.linspace(0, 1, BINS + 1), 0.01), np.ones(BINS + 2, bool))
    assert found.counts.tolist() == [3] + [1] * (BINS - 1)


def test_curve_has_the_points_of_scikit_learn() -> None:
    found = evaluation(3, decimals=2)
    positive, probability = found.predictions.true == 1, found.predictions.probabilities[:, 1]
    ours = curve(probability, positive)
    fpr, recall, thresholds = metrics.roc_curve(positive, probability, drop_intermediate=False)
    np.testing.assert_allclose(ours.fpr, fpr)
    np.testing.assert_allclose(ours.recall, recall)
    np.testing.assert_allclose(ours.thresholds, thresholds)
    precision, recall, _ = metrics.precision_recall_curve(positive, probability)
    np.testing.assert_allclose(ours.precision, precision[::-1])


def test_thinned_curve_stays_where_it_was() -> None:
    generator = np.random.default_rng(0)
    positive = generator.random(50_000) < 0.01
    probability = generator.beta(2, 5, 50_000) + 0.3 * positive
    full = curve(probability, positive)
    drawn = thin(full)
    assert len(drawn.recall) <= 401 < len(full.recall)
    assert (drawn.auc, drawn.ap) == (full.auc, full.ap)
    assert np.trapezoid(drawn.recall, drawn.fpr) == pytest.approx(full.auc, abs=2e-3)
    assert (drawn.recall[-1], drawn.fpr[-1], drawn.recall[0]) == (1, 1, 0)


def test_classes_without_samples_come_last() -> None:
    found = evaluation(10, absent=(4,))
    assert found.lowest_first[-1] == 4
    ordered = found.classes["f1"][found.lowest_first[:-1]]
    assert (np.diff(ordered) >= 0).all()
