"""Temperature scaling: calibrates probabilities on the validation split."""

from contextlib import suppress
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from conf.errors import UserError
from lit_modules.inference.held_out import validation_predictions

MAX_TEMPERATURE = 100.0


def temperature_of(folder: Path) -> float | np.ndarray:
    """Fits the temperature of a run's best epoch to the validation samples in its predictions.csv.

    With several labels a sample, float64 `[num_classes]`: that of each label, or where its samples determine none, as
    if all are classified correctly, that of all labels together.

    Raises:
        UserError: the file is missing, malformed or of another epoch, or the samples determine no temperature.
    """
    predictions = validation_predictions(folder, "calibrate")
    if predictions.true.ndim == 1:
        return fit_temperature(predictions.probabilities, predictions.true)
    pairs = np.stack([1 - predictions.probabilities, predictions.probabilities], 2)  # [N, num_classes, 2]
    of_all = fit_temperature(pairs.reshape(-1, 2), predictions.true.reshape(-1))
    temperatures = np.full(pairs.shape[1], of_all)
    for label in range(len(temperatures)):
        with suppress(UserError):
            temperatures[label] = fit_temperature(pairs[:, label], predictions.true[:, label])
    return temperatures


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimizes the mean of -log softmax(logits / T)[label].

    Log-probabilities replace the logits: per sample they differ by a constant, to which softmax is invariant.

    Source: Guo et al., "On calibration of modern neural networks", arXiv:1706.04599, section 4.2.

    Args:
        probabilities: float `[N, num_classes]`, of validation rather than training samples.
        labels: int `[N]`.

    Raises:
        UserError: no finite optimum exists, for example since all samples are classified correctly.
    """
    logits = np.log(np.maximum(probabilities.astype(np.float64), np.finfo(np.float32).smallest_subnormal))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))

    bound = np.log(MAX_TEMPERATURE)
    result = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    if abs(result.x) > 0.99 * bound:
        accuracy = (probabilities.argmax(1) == labels).mean()
        raise UserError(
            f"calibrate: the validation samples (accuracy {accuracy:.1%}) determine no temperature; leave it out"
        )
    return float(np.exp(result.x))
