"""ECE, AUC and AP of report.md as metrics of torchmetrics."""

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lit_modules.evaluation.curves import calibrate, confidence_of, curves, macro


class CurveMetric(Metric):
    """Base of metrics that need all predictions at once; their values are float64, and do not depend on batches."""

    full_state_update = False
    probabilities: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("probabilities", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        """Adds class probabilities `[N, num_classes]` and labels, int64 `[N]` or 0/1 `[N, num_classes]`."""
        self.probabilities.append(probabilities)
        self.labels.append(labels)

    def compute(self) -> Tensor:
        """The value over all samples, NaN if it is undefined."""
        probabilities = dim_zero_cat(self.probabilities).cpu().numpy()
        labels = dim_zero_cat(self.labels).cpu().numpy()
        return torch.tensor(self.score(probabilities, labels), dtype=torch.float64)

    def score(self, probabilities: np.ndarray, labels: np.ndarray) -> float:
        raise NotImplementedError


class ECE(CurveMetric):
    """Expected calibration error, see `calibrate`."""

    higher_is_better = False

    def score(self, probabilities: np.ndarray, labels: np.ndarray) -> float:
        return calibrate(*confidence_of(probabilities, probabilities.argmax(1), labels)).error


class AUC(CurveMetric):
    """Area under the ROC curve, one-vs-rest, see `macro`."""

    higher_is_better = True

    def score(self, probabilities: np.ndarray, labels: np.ndarray) -> float:
        return macro([one_vs_rest.auc for one_vs_rest in curves(probabilities, labels)], labels.ndim == 2)


class AP(CurveMetric):
    """Average precision, one-vs-rest, see `macro`."""

    higher_is_better = True

    def score(self, probabilities: np.ndarray, labels: np.ndarray) -> float:
        return macro([one_vs_rest.ap for one_vs_rest in curves(probabilities, labels)], labels.ndim == 2)
