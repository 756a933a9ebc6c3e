"""Ranks samples by how probably their label is wrong."""

from typing import NamedTuple

import numpy as np


class LabelErrors(NamedTuple):
    """Samples in the order in which their labels are worth a look."""

    order: np.ndarray
    """int64 `[N]`: all samples; probable errors first, each part by ascending probability of its label"""
    num_errors: int
    """Probable errors"""
    suggested: np.ndarray
    """int64 `[N]`: the class in which a sample is counted; -1 for none"""


def find_label_errors(probabilities: np.ndarray, labels: np.ndarray) -> LabelErrors:
    """Confident learning (C. Northcutt, L. Jiang, I. Chuang 2021, arXiv:1911.00068, section 3.1).

    A label is probably wrong if its sample is counted in another class, off the diagonal of the confident joint.

    Args:
        probabilities: `[N, num_classes]`, of a network that was not trained on these samples.
        labels: int64 `[N]`.
    """
    suggested = confident_classes(probabilities, labels)
    is_error = (suggested >= 0) & (suggested != labels)
    self_confidence = probabilities[np.arange(len(labels)), labels]
    return LabelErrors(np.lexsort((self_confidence, ~is_error)), int(is_error.sum()), suggested)


def confident_classes(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The class in which the confident joint counts each sample.

    Of the classes whose probability reaches their threshold, the most probable one. The threshold of a class is the
    mean probability that the samples with its label have of it.

    Returns:
        int64 `[N]`; -1 where no class reaches its threshold.
    """
    num_classes = probabilities.shape[1]
    sums = np.bincount(labels, probabilities[np.arange(len(labels)), labels], num_classes)
    counts = np.bincount(labels, minlength=num_classes)
    thresholds = np.full(num_classes, np.inf)  # a class without samples is never reached
    np.divide(sums, counts, out=thresholds, where=counts > 0)
    is_reached = probabilities >= thresholds - 1e-6  # of equal probabilities, rounding may put the mean above
    most_probable = np.where(is_reached, probabilities, -1).argmax(1)
    return np.where(is_reached.any(1), most_probable, -1)
