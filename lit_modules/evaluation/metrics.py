"""Metrics of torchmetrics that a config adds to the scores of a split."""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from conf.errors import UserError, first_line
from conf.project import place_of
from lit_modules.evaluation.curve_metrics import AP, AUC, ECE
from lit_modules.evaluation.predictions import Collector
from lit_modules.evaluation.scores import NAMES

OWN = {"ece": ECE, "auc": AUC, "ap": AP}
OF_LABELS = ("f1_micro", "hamming")
TRIAL_SAMPLES = 32


class Metrics:
    """Metrics of one split at a time.

    Each is updated once, with all samples in the order of the split, on the CPU of rank 0. So its value depends on
    neither the batch size nor the number of ranks, whatever it adds up, and a checkpoint needs no state of it.

    Args:
        constructors: by name; called with `num_classes`, or with several labels a sample `num_labels`, if they have
            that parameter.
        num_classes: of the predictions.
        multi_label: whether a sample may have several labels.

    Raises:
        UserError: a metric cannot be computed from class probabilities and labels, or is not one number.
    """

    def __init__(
        self, constructors: dict[str, Callable[..., Metric]], num_classes: int, multi_label: bool = False
    ) -> None:
        self._metrics = {
            name: _build(name, constructor, num_classes, multi_label) for name, constructor in constructors.items()
        }
        self._collector = Collector()

    @property
    def names(self) -> tuple[str, ...]:
        """In the order of the config."""
        return tuple(self._metrics)

    def add(self, batch: Any, logits: Tensor) -> None:
        """Adds a batch `(inputs, labels, index, …)`, possibly empty, and its logits `[N, num_classes]`."""
        if self._metrics:
            self._collector.add(batch, logits)

    def scores(self, split: str, trainer: Any, monitor: str) -> dict[str, float]:
        """The finite values by tag, such as `val/mcc`, on all ranks. A collective call, which also resets.

        Args:
            split: that was added.
            trainer: whose callbacks may watch a metric.
            monitor: what selects the best epoch.

        Raises:
            UserError: a value is not finite, and is watched.
        """
        if not self._metrics:
            return {}
        values = trainer.strategy.broadcast(self.compute())
        watched = {monitor, *(getattr(callback, "monitor", None) for callback in trainer.callbacks)}
        for name, value in values.items():
            tag = f"{split}/{name}"
            if not math.isfinite(value) and tag in watched and not trainer.sanity_checking:
                raise UserError(f"lit_module.metrics.{name}: {tag} is {value}, and is monitored; monitor another score")
        return {f"{split}/{name}": value for name, value in values.items() if math.isfinite(value)}

    def compute(self) -> dict[str, float]:
        """The values on rank 0, NaN where undefined; nothing on the others. A collective call, which also resets."""
        collector, self._collector = self._collector, Collector()
        predictions = collector.gather()
        if predictions is None:
            return {}
        probabilities, labels = torch.from_numpy(predictions.probabilities), torch.from_numpy(predictions.true)
        return {name: float(_value(name, metric, probabilities, labels)) for name, metric in self._metrics.items()}


def _value(name: str, metric: Metric, probabilities: Tensor, labels: Tensor) -> Any:
    """What a metric gives for float32 `[N, num_classes]` and int64 `[N]` or `[N, num_classes]`."""
    try:
        metric.update(probabilities, labels)
        value = metric.compute()
        metric.reset()
    except Exception as error:  # of code that is not ours
        shapes = f"probabilities {[*probabilities.shape]} and labels {[*labels.shape]}"
        cause = f"{first_line(error)}{place_of(error)}"
        raise UserError(
            f"lit_module.metrics.{name}: {type(metric).__name__} fails on {shapes}: {cause}; "
            "correct it, or choose another metric"
        ) from error
    return value


def _build(name: str, constructor: Callable[..., Metric], num_classes: int, multi_label: bool) -> Metric:
    """A metric that was tried on some samples."""
    key = f"lit_module.metrics.{name}"
    _check_name(key, name, constructor)
    size = "num_labels" if multi_label else "num_classes"
    if size in getattr(constructor, "keywords", {}):
        raise UserError(f"{key}.{size}: is that of the data; leave it out")
    parameters = inspect.signature(getattr(constructor, "func", constructor)).parameters
    if multi_label and size not in parameters and "num_classes" in parameters:
        raise UserError(f"{key}: is of one label a sample, these have several; choose a Multilabel… metric")
    with warnings.catch_warnings(action="ignore"):  # that it keeps all samples, and of absent classes
        try:
            metric = constructor(**{size: num_classes}) if size in parameters else constructor()
        except Exception as error:  # of code that is not ours
            raise UserError(f"{key}: {first_line(error)}{place_of(error)}; correct it, or leave it out") from error
        for part in metric.modules():
            if isinstance(part, Metric):
                part.distributed_available_fn = _is_distributed  # rank 0 has the samples of all
        labels = torch.arange(TRIAL_SAMPLES) % num_classes
        one_hot = nn.functional.one_hot(labels, num_classes)
        probabilities = (one_hot + 1 / num_classes) / 2
        labels = one_hot if multi_label else labels
        value = _value(name, metric, probabilities, labels)
    if not (isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)):
        is_per_class = isinstance(value, Tensor) and value.shape == (num_classes,) and "average" in parameters
        fix = f"set {key}.average=macro" if is_per_class else "choose another metric"
        raise UserError(f"{key}: {type(metric).__name__} gives several values instead of one number; {fix}")
    return metric


def _check_name(key: str, name: str, constructor: Callable[..., Metric]) -> None:
    if name in NAMES:
        raise UserError(f"{key}: {name} is a score of every run; choose another name")
    if name in OF_LABELS:
        raise UserError(f"{key}: {name} is a score of runs with several labels a sample; choose another name")
    if name in OWN and getattr(constructor, "func", constructor) is not OWN[name]:
        raise UserError(f"{key}: {name} is the name of {OWN[name].__name__} in report.md; choose another name")
    if not name.isidentifier():
        raise UserError(f"{key}: a name may have letters, digits and _ only; choose another name")


def _is_distributed() -> bool:
    return False
