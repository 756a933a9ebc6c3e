"""Thresholds of several labels a sample: the probability from which a label is predicted."""

from pathlib import Path

import numpy as np

from conf.errors import UserError
from lit_modules.evaluation.curves import curve
from lit_modules.evaluation.predictions import THRESHOLD
from lit_modules.inference.held_out import validation_predictions
from lit_modules.inference.predictor import Predictor

BEST_F1 = "f1"


def label_thresholds(folder: Path, predictor: Predictor, threshold: float | str) -> np.ndarray | float | None:
    """The threshold of all labels, or of each, float `[num_classes]`; None if the network predicts one label a sample.

    Args:
        folder: of the run, for its validation predictions.
        predictor: of the run, calibrated or not.
        threshold: of all labels; f1: see `best_thresholds`.

    Raises:
        UserError: it is neither, there are no validation predictions, or the network predicts one label a sample.
    """
    if not predictor.multi_label:
        if threshold != THRESHOLD:
            raise UserError("threshold: is of several labels a sample, and the run predicts one; leave it out")
        return None
    if threshold == BEST_F1:
        predictions, temperature = validation_predictions(folder, "threshold"), predictor.temperature.cpu().numpy()
        probabilities = predictions.probabilities.astype(np.float64)
        if (temperature != 1).any():
            from scipy.special import expit, logit  # on demand: it takes 0.3 s

            probabilities = expit(logit(probabilities) / temperature)
        return best_thresholds(probabilities, predictions.true)
    if not isinstance(threshold, int | float) or not 0 < threshold < 1:
        raise UserError(f"threshold: {threshold} is neither between 0 and 1 nor f1; try threshold=0.5")
    return threshold


def best_thresholds(probabilities: np.ndarray, true: np.ndarray) -> np.ndarray:
    """The threshold of each label with the highest F1, float64 `[num_classes]`; 0.5 for labels that do not occur.

    It is halfway between two probabilities, so that rounding moves no sample to the other side.

    Args:
        probabilities: float `[N, num_classes]`.
        true: 0/1 `[N, num_classes]`.
    """
    thresholds = np.full(true.shape[1], THRESHOLD)
    for label in np.flatnonzero(true.any(0)):
        full = curve(probabilities[:, label], true[:, label] == 1)
        f1 = 2 * full.precision * full.recall / np.maximum(full.precision + full.recall, 1e-12)
        best = int(f1[1:].argmax()) + 1  # the first point predicts nothing
        lower = full.thresholds[best + 1] if best + 1 < len(full.thresholds) else 0.0
        thresholds[label] = (full.thresholds[best] + lower) / 2
    return thresholds
