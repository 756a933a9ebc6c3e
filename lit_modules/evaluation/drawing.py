"""All figures of an evaluation as PNG files."""

from lit_modules.evaluation import figures
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.image_grid import grid


def draw(evaluation: Evaluation) -> dict[str, bytes]:
    """PNG files by figure name."""
    names = [figures.short(name) for name in evaluation.class_names]
    drawn = {
        "confusion": figures.confusion(evaluation.confusion, names),
        "classes": figures.classes(evaluation.classes, evaluation.lowest_first, names),
        "reliability": figures.reliability(evaluation.calibration),
        "roc": figures.roc(evaluation.curves, names),
        "precision_recall": figures.precision_recall(evaluation.curves, names),
        "mistakes": grid(
            list(evaluation.mistaken_inputs),
            _mistake_captions(evaluation, names),
            "Worst mistakes: true → predicted, probability, file",
            columns=6,
        ),
    }
    if len(names) == 2:
        drawn["threshold"] = figures.threshold(evaluation.curves[1], names[1])
    return {name: figures.png(figure) for name, figure in drawn.items()}


def _mistake_captions(evaluation: Evaluation, names: list[str]) -> list[str]:
    index, true, predicted, probabilities, mistakes = evaluation.predictions
    captions = []
    for row in mistakes.tolist():
        file = figures.short(evaluation.files[index[row]], 18, keep_end=True)
        probability = probabilities[row, predicted[row]]
        captions.append(f"{names[true[row]]} → {names[predicted[row]]}\n{probability:.3f}  {file}")
    return captions
