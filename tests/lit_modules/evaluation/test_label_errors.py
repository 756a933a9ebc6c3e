"""Confident learning equals a loop over samples and cleanlab 2.9, and finds planted errors."""

import numpy as np
import pytest

from lit_modules.evaluation.label_errors import confident_classes, find_label_errors


def noisy(seed: int, count: int, num_classes: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities of the true classes, labels of which some are drawn at random, and which of them are wrong."""
    generator = np.random.default_rng(seed)
    labels = generator.integers(0, num_classes, count)
    redrawn = generator.random(count) < 0.15
    true = np.where(redrawn, generator.integers(0, num_classes, count), labels)
    logits = generator.normal(size=(count, num_classes))
    logits[np.arange(count), true] += 2
    probabilities = np.exp(logits)
    probabilities /= probabilities.sum(1, keepdims=True)
    probabilities = probabilities.round(6)
    return probabilities / probabilities.sum(1, keepdims=True), labels, labels != true


def test_errors_equal_those_of_cleanlab() -> None:
    # cleanlab.filter.find_label_issues(labels, probabilities, filter_by="confident_learning",
    # return_indices_ranked_by="self_confidence"), and cleanlab.count.compute_confident_joint(calibrate=False)
    issues = [114, 86, 7, 30, 19, 39, 57, 2, 84, 54]
    joint = [[13, 1, 1, 0], [1, 14, 1, 0], [2, 0, 17, 1], [0, 2, 1, 17]]
    probabilities, labels, _ = noisy(7, 120, 4)
    result = find_label_errors(probabilities, labels)
    assert result.order[: result.num_errors].tolist() == issues
    counted = np.zeros((4, 4), int)
    is_counted = result.suggested >= 0
    np.add.at(counted, (labels[is_counted], result.suggested[is_counted]), 1)
    assert counted.tolist() == joint


@pytest.mark.parametrize("absent", [None, 0, 2])
def test_confident_classes_equal_a_loop(absent: int | None) -> None:
    probabilities, labels, _ = noisy(1, 200, 5)
    if absent is not None:
        labels = np.where(labels == absent, 1, labels)
    means = {
        label: np.mean([row[label] for row, own in zip(probabilities, labels, strict=True) if own == label])
        for label in set(labels.tolist())
    }
    expected = []
    for row in probabilities:
        reached = [label for label, mean in means.items() if row[label] >= mean]
        expected.append(max(reached, key=lambda label: row[label], default=-1))
    assert confident_classes(probabilities, labels).tolist() == expected
    assert {-1, 1, 3} <= set(expected)


def test_planted_errors_come_first() -> None:
    probabilities, labels, is_wrong = noisy(3, 2000, 4)
    result = find_label_errors(probabilities, labels)
    assert sorted(result.order.tolist()) == list(range(2000))
    planted = is_wrong.sum()
    assert is_wrong[result.order[:planted]].mean() > 5 * is_wrong.mean()
    own = probabilities[np.arange(2000), labels]
    assert (np.diff(own[result.order[: result.num_errors]]) >= 0).all()
    assert (result.suggested != labels)[result.order[: result.num_errors]].all()


def test_perfect_predictions_have_no_errors() -> None:
    labels = np.arange(30) % 3
    assert find_label_errors(np.eye(3)[labels], labels).num_errors == 0
