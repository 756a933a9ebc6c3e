"""Evaluation: scores, curves and calibration from the predictions of a split."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from lit_modules.evaluation.activation_maps import Explained
from lit_modules.evaluation.curves import Calibration, Curve, calibrate, confidence_of, curves, macro, thin
from lit_modules.evaluation.predictions import Predictions


class Evaluation:
    """Scores of one split, computed on first access.

    Args:
        class_names: indexed by label.
        files: a name per sample of the split, indexed by `Predictions.index`.
        predictions: of the whole split or a subset.
        mistaken_inputs: float32 `[M, C, *spatial]`: samples of `Predictions.mistakes`, as passed to the classifier.
        explained: some samples with their class activation maps, or why there are none.
    """

    def __init__(
        self,
        class_names: Sequence[str],
        files: Sequence[str],
        predictions: Predictions,
        mistaken_inputs: np.ndarray,
        explained: Explained | str = "",
    ) -> None:
        self.class_names = class_names
        self.files = files
        self.predictions = predictions
        self.mistaken_inputs = mistaken_inputs
        self.explained = explained

    @property
    def is_multi_label(self) -> bool:
        """Whether a sample may have several labels."""
        return self.predictions.true.ndim == 2

    @cached_property
    def confusion(self) -> np.ndarray:
        """Confusion matrix, int64 `[true, predicted]`; of one label a sample."""
        return confusion_matrix(self.predictions.true, self.predictions.predicted, len(self.class_names))

    @cached_property
    def calibration(self) -> Calibration:
        """Expected calibration error and its bins."""
        true, predicted, probabilities = self.predictions[1:4]
        return calibrate(*confidence_of(probabilities, predicted, true))

    @cached_property
    def curves(self) -> list[Curve]:
        """One per class, thinned for plotting; AUC and AP use all points."""
        return [thin(full) for full in curves(self.predictions.probabilities, self.predictions.true)]

    @cached_property
    def co_occurrence(self) -> np.ndarray:
        """Samples with both of two labels, int64 `[num_classes, num_classes]`; of several labels a sample."""
        true = self.predictions.true
        return true.T @ true

    @cached_property
    def classes(self) -> dict[str, np.ndarray]:
        """Scores per class, float64 `[num_classes]`; undefined ones are NaN.

        Keys: `samples`, `precision`, `recall`, `f1`, `likelihood` (mean probability of the true class, or of what is
        true of a label), `auc`, `ap`.
        """
        labels, probabilities = self.predictions.true, self.predictions.probabilities
        if self.is_multi_label:
            hits, true, predicted = label_counts(labels, self.predictions.predicted)
            likelihoods = np.where(labels == 1, probabilities, 1 - probabilities).mean(0)
        else:
            hits, true, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
            likelihood = probabilities[np.arange(len(labels)), labels]
            with np.errstate(invalid="ignore"):
                likelihoods = np.bincount(labels, likelihood, len(true)) / true
        with np.errstate(invalid="ignore"):
            return {
                "samples": true.astype(float),
                "precision": hits / predicted,
                "recall": hits / true,
                "f1": 2 * hits / (true + predicted),
                "likelihood": likelihoods,
                "auc": np.array([one_vs_rest.auc for one_vs_rest in self.curves]),
                "ap": np.array([one_vs_rest.ap for one_vs_rest in self.curves]),
            }

    @cached_property
    def lowest_first(self) -> np.ndarray:
        """Labels sorted by F1, int64 `[num_classes]`; classes without samples come last."""
        return np.lexsort((self.classes["f1"], self.classes["samples"] == 0))

    @cached_property
    def scores(self) -> dict[str, float]:
        """`ece`, and the macro averages `auc` and `ap`; of several labels a sample also micro F1 and Hamming loss."""
        scores = {
            "ece": self.calibration.error,
            "auc": macro([one_vs_rest.auc for one_vs_rest in self.curves], self.is_multi_label),
            "ap": macro([one_vs_rest.ap for one_vs_rest in self.curves], self.is_multi_label),
        }
        if self.is_multi_label:
            true, predicted = self.predictions.true, self.predictions.predicted
            hits, num_true, num_predicted = label_counts(true, predicted).sum(1)
            scores["f1_micro"] = 2 * hits / (num_true + num_predicted) if num_true + num_predicted else float("nan")
            scores["hamming"] = float((true != predicted).mean())
        return scores


def label_counts(true: np.ndarray, predicted: np.ndarray) -> np.ndarray:
    """True positives, occurrences and predictions of each label, int64 `[3, num_classes]`, from 0/1 matrices."""
    return np.stack([(true & predicted).sum(0), true.sum(0), predicted.sum(0)])


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts, int64 `[true, predicted]`."""
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
