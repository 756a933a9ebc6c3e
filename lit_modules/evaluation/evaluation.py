"""Evaluation: what predictions are worth, class by class, and whether their probabilities can be believed."""

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from lit_modules.evaluation import figures
from lit_modules.evaluation.curves import Calibration, Curve, calibrate, curve, thin
from lit_modules.evaluation.image_grid import grid
from lit_modules.evaluation.predictions import Predictions


class Evaluation:
    """The scores of one split; each is computed when it is first asked for.

    Args:
        class_names: in the order of the labels.
        files: a name for each sample of the split, by its index.
        predictions: of the split, or of a part of it.
    """

    def __init__(self, class_names: Sequence[str], files: Sequence[str], predictions: Predictions) -> None:
        self.class_names = class_names
        self.files = files
        self.predictions = predictions

    @cached_property
    def confusion(self) -> np.ndarray:
        """int64 `[true, predicted]`"""
        return confusion_matrix(self.predictions.true, self.predictions.predicted, len(self.class_names))

    @cached_property
    def calibration(self) -> Calibration:
        true, predicted, probabilities = self.predictions[1:4]
        return calibrate(probabilities[np.arange(len(true)), predicted], true == predicted)

    @cached_property
    def curves(self) -> list[Curve]:
        """One a class, thinned for drawing; areas are those of all points."""
        true, probabilities = self.predictions.true, self.predictions.probabilities
        return [thin(curve(probabilities[:, label], true == label)) for label in range(len(self.class_names))]

    @cached_property
    def classes(self) -> dict[str, np.ndarray]:
        """By class, float64 `[num_classes]`: `samples`, `precision`, `recall`, `f1`, `likelihood`, `auc`, `ap`. What a
        class without samples or predictions leaves undefined is NaN."""
        hits, true, predicted = self.confusion.diagonal(), self.confusion.sum(1), self.confusion.sum(0)
        labels = self.predictions.true
        likelihood = self.predictions.probabilities[np.arange(len(labels)), labels]
        with np.errstate(invalid="ignore"):
            return {
                "samples": true.astype(float),
                "precision": hits / predicted,
                "recall": hits / true,
                "f1": 2 * hits / (true + predicted),
                "likelihood": np.bincount(labels, likelihood, len(true)) / true,
                "auc": np.array([found.auc for found in self.curves]),
                "ap": np.array([found.ap for found in self.curves]),
            }

    @cached_property
    def lowest_first(self) -> np.ndarray:
        """int64 `[num_classes]`: the classes by F1; those without samples come last."""
        return np.lexsort((self.classes["f1"], self.classes["samples"] == 0))

    @cached_property
    def scores(self) -> dict[str, float]:
        """`ece`, and `auc` and `ap` as means over the classes for which they exist; of two classes, those of the
        second against the first."""
        found = {"ece": self.calibration.error}
        for name in ("auc", "ap"):
            values = self.classes[name][1:] if len(self.class_names) == 2 else self.classes[name]
            defined = values[np.isfinite(values)]
            found[name] = float(defined.mean()) if len(defined) else float("nan")
        return found

    @cached_property
    def images(self) -> dict[str, bytes]:
        """The figures by name, as PNG files."""
        names = [figures.short(name) for name in self.class_names]
        index, true, predicted, probabilities, rows, inputs = self.predictions
        captions = []
        for row in rows.tolist():
            file = figures.short(self.files[index[row]], 18, keep_end=True)
            probability = probabilities[row, predicted[row]]
            captions.append(f"{names[true[row]]} → {names[predicted[row]]}\n{probability:.3f}  {file}")
        drawn = {
            "confusion": figures.confusion(self.confusion, names),
            "classes": figures.classes(self.classes, self.lowest_first, names),
            "reliability": figures.reliability(self.calibration),
            "roc": figures.roc(self.curves, names),
            "precision_recall": figures.precision_recall(self.curves, names),
            "mistakes": grid(list(inputs), captions, "Worst mistakes: true → predicted, probability, file", columns=6),
        }
        if len(names) == 2:
            drawn["threshold"] = figures.threshold(self.curves[1], names[1])
        return {name: figures.png(figure) for name, figure in drawn.items()}


def confusion_matrix(true: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """int64 `[true, predicted]`"""
    return np.bincount(true * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)
