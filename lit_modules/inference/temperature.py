"""One temperature for all logits, so that a probability of 0.8 is right in four of five cases."""

import csv
import json
from pathlib import Path

import numpy as np
from scipy.optimize import minimize_scalar
from scipy.special import logsumexp

from conf.errors import UserError
from lit_modules.runs import run_folder

LARGEST = 100.0


def temperature_of(folder: Path) -> float:
    """The temperature of a run's best epoch, from what its predictions.csv says of the validation samples. Neither
    data nor network are needed, and nothing is stored that could grow old.

    Raises:
        UserError: that file is missing, damaged, or of another epoch, or determines no temperature.
    """
    path = folder / "predictions.csv"
    try:
        with open(path, newline="", encoding="utf-8", errors="surrogateescape") as file:
            rows = [row for row in csv.DictReader(file) if row["split"] == "val"]
        epoch = json.loads((folder / "summary.json").read_text(encoding="utf-8"))["best_epoch"]
        columns = [name for name in rows[0] if name.startswith("p/")]
        probabilities = np.array([[float(row[name]) for name in columns] for row in rows])
        labels = np.array([columns.index(f"p/{row['true']}") for row in rows])
    except (OSError, ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
        fix = f"end its training by run={folder}, or leave calibrate out"
        raise UserError(f"calibrate: {path} has no validation samples that can be read; {fix}") from error
    if epoch != run_folder.best_epoch(folder):
        raise UserError(f"calibrate: {path} is older than the best epoch; end the training by run={folder}")
    return fit_temperature(probabilities, labels)


def fit_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The temperature T that minimises the mean of -log softmax(logits / T)[label]. Guo et al., arXiv:1706.04599.

    Softmax forgets only what the logits of a sample have in common, which no temperature needs: their place is taken by
    the logarithms of the probabilities that the network gave.

    Args:
        probabilities: float `[N, num_classes]` of validation samples; never of those it was trained on.
        labels: int `[N]`

    Raises:
        UserError: the samples do not determine it, as when all of them are classified correctly.
    """
    logits = np.log(np.maximum(probabilities, np.finfo(np.float32).smallest_subnormal))

    def loss(log_temperature: float) -> float:
        scaled = logits / np.exp(log_temperature)
        return float(np.mean(logsumexp(scaled, axis=1) - scaled[np.arange(len(labels)), labels]))

    bound = np.log(LARGEST)
    found = minimize_scalar(loss, bounds=(-bound, bound), method="bounded", options={"xatol": 1e-6})
    if abs(found.x) > 0.99 * bound:
        right = (probabilities.argmax(1) == labels).mean()
        raise UserError(
            f"calibrate: the validation samples, {right:.1%} of them classified correctly, determine no temperature; "
            "leave it out"
        )
    return float(np.exp(found.x))
