"""Thresholds of a prediction, fitted to the validation split: of sets of classes, unknown inputs, several labels."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig

from conf.errors import UserError
from lit_modules.evaluation.predictions import names_of
from lit_modules.inference.conformal import prediction_sets, set_threshold
from lit_modules.inference.held_out import validation_predictions
from lit_modules.inference.label_thresholds import BEST_F1, label_thresholds
from lit_modules.inference.predictor import Predictor
from lit_modules.inference.unknown import KnownInputs, known_inputs


class Thresholds(NamedTuple):
    """See `lit_modules.inference.conformal` and `lit_modules.inference.unknown`; None: not asked for."""

    set: float | None = None
    known: KnownInputs | None = None
    labels: np.ndarray | float | None = None
    """See `label_thresholds`; None: one label a sample"""

    @property
    def columns(self) -> list[str]:
        """The names of what `decide` returns for each sample."""
        return [name for name in ("set", "known") if getattr(self, name) is not None]

    def predicted(self, probabilities: np.ndarray, class_names: Sequence[str]) -> list[Any]:
        """The name of the predicted class of each sample, or with several labels the list of their names.

        Args:
            probabilities: float `[N, num_classes]`.
        """
        if self.labels is None:
            return [class_names[label] for label in probabilities.argmax(1).tolist()]
        return [names_of(row, class_names) for row in probabilities >= self.labels]

    def answers(self, probabilities: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """`predicted`, the highest `probability`, and what `decide` returns, for each sample.

        Args:
            probabilities: of the last forward pass, float `[N, num_classes]`.
            class_names: indexed by label.
        """
        rows = zip(
            self.predicted(probabilities, class_names),
            probabilities.max(1).tolist(),
            self.decide(probabilities, class_names),
            strict=True,
        )
        return [{"predicted": names, "probability": highest} | decision for names, highest, decision in rows]

    def decide(self, probabilities: np.ndarray, class_names: Sequence[str]) -> list[dict[str, Any]]:
        """For each sample `set`, the names of its classes, most probable first, and `known`, whether it is.

        Args:
            probabilities: of the last forward pass, float `[N, num_classes]`.
            class_names: indexed by label.
        """
        decisions: list[dict[str, Any]] = [{} for _ in probabilities]
        if self.set is not None:
            order = np.argsort(-probabilities, axis=1, kind="stable").tolist()
            sizes = prediction_sets(probabilities, self.set).sum(1).tolist()
            for decision, labels, size in zip(decisions, order, sizes, strict=True):
                decision["set"] = [class_names[label] for label in labels[:size]]
        if self.known is not None:
            for decision, known in zip(decisions, self.known.of_last_batch(), strict=True):
                decision["known"] = known
        return decisions


NO_THRESHOLDS = Thresholds()


def described(decision: dict[str, Any]) -> str:
    """A decision of `Thresholds.decide`, to follow the predicted class in a line."""
    parts = [f"; set: {', '.join(decision['set'])}"] if "set" in decision else []
    return "".join(parts + ["; unknown"] * (not decision.get("known", True)))


def fit_thresholds(cfg: DictConfig, predictor: Predictor) -> Thresholds:
    """The thresholds of a run's best epoch that the config asks for.

    Args:
        cfg: its keys `coverage`, `unknown` and `threshold` ask for them.
        predictor: of the run, calibrated or not.

    Raises:
        UserError: the run has no or too few validation samples, or predictions are averaged over mirrored images.
    """
    labels = label_thresholds(Path(cfg.run_dir), predictor, cfg.threshold)
    if labels is not None and cfg.get("coverage") is not None:
        raise UserError("coverage: a set holds one true class, and the run predicts several labels; use threshold=f1")
    asked = [key for key in ("coverage", "unknown") if cfg.get(key) is not None]
    asked += ["threshold"] if cfg.threshold == BEST_F1 else []
    if asked and cfg.task == "predict" and cfg.tta.name != "none":
        raise UserError(f"tta: {asked[0]} was not fitted to averages with mirrored images; leave one of them out")
    folder, coverage = Path(cfg.run_dir), None
    if "coverage" in asked:
        coverage = run_set_threshold(folder, predictor, cfg.coverage)
    known = known_inputs(folder, predictor.net, cfg.unknown) if "unknown" in asked else None
    return Thresholds(coverage, known, labels)


def run_set_threshold(folder: Path, predictor: Predictor, coverage: float) -> float:
    """The `set_threshold` of a run's best epoch, from its validation probabilities at the predictor's temperature."""
    predictions = validation_predictions(folder, "coverage")
    probabilities = rescaled(predictions.probabilities, float(predictor.temperature))
    return set_threshold(probabilities, predictions.true, coverage)


def rescaled(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities `[N, num_classes]` as if the logits had been divided by the temperature."""
    if temperature == 1:
        return probabilities
    powers: np.ndarray = (probabilities / probabilities.max(1, keepdims=True)).astype(np.float64) ** (1 / temperature)
    return powers / powers.sum(1, keepdims=True)
