"""All figures of an evaluation as PNG files."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from lit_modules.evaluation import figures
from lit_modules.evaluation.activation_maps import Explained, explained_labels
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.image_grid import grid
from lit_modules.evaluation.predictions import Predictions, names_of

MAX_LETTERS = 26  # in a line of a caption
MAP_TITLE = "Class activation maps of the worst mistakes and of right predictions: true → predicted, probability, file"


def draw(evaluation: Evaluation) -> dict[str, bytes]:
    """PNG files by figure name."""
    names = [figures.short(name) for name in evaluation.class_names]
    if evaluation.is_multi_label:
        drawn = {"co_occurrence": figures.co_occurrence(evaluation.co_occurrence, names)}
    else:
        drawn = {"confusion": figures.confusion(evaluation.confusion, names)}
    drawn |= {
        "classes": figures.classes(evaluation.classes, evaluation.lowest_first, names),
        "reliability": figures.reliability(evaluation.calibration),
        "roc": figures.roc(evaluation.curves, names),
        "precision_recall": figures.precision_recall(evaluation.curves, names),
        "mistakes": grid(
            list(evaluation.mistaken_inputs),
            _captions(evaluation, names, evaluation.predictions.mistakes),
            "Worst mistakes: true → predicted, probability, file",
            columns=6,
        ),
    }
    if len(names) == 2 and not evaluation.is_multi_label:
        drawn["threshold"] = figures.threshold(evaluation.curves[1], names[1])
    if isinstance(evaluation.explained, Explained):
        drawn["maps"] = _map_grid(evaluation, evaluation.explained, names)
    return {name: figures.png(figure) for name, figure in drawn.items()}


def shown_label(label: np.ndarray, class_names: Sequence[str]) -> str:
    """The name of a label; of a row of a 0/1 matrix its names, such as `cat, dog`."""
    return ", ".join(names_of(label, class_names)) or "no label"


def decisive_label(predictions: Predictions, row: int) -> int:
    """The predicted class; of several labels the most confident wrong one, or if all are right the most probable."""
    predicted, probabilities = predictions.predicted[row], predictions.probabilities[row]
    if predicted.ndim == 0:
        return int(predicted)
    is_wrong = predicted != predictions.true[row]
    return int(
        np.where(is_wrong, np.abs(probabilities - 0.5), -1).argmax() if is_wrong.any() else probabilities.argmax()
    )


def _captions(evaluation: Evaluation, names: list[str], rows: np.ndarray) -> list[str]:
    index, true, predicted, probabilities, _ = evaluation.predictions
    captions = []
    for row in rows.tolist():
        file = figures.short(evaluation.files[index[row]], 18, keep_end=True)
        decisive = decisive_label(evaluation.predictions, row)
        label, prediction = shown_label(true[row], names), shown_label(predicted[row], names)
        answer = f"{probabilities[row, decisive]:.3f}  {file}"
        lines = [f"{label} → {prediction}", answer]
        if evaluation.is_multi_label:
            lines = [
                figures.short(line, MAX_LETTERS) for line in (label, f"→ {prediction}", f"{names[decisive]} {answer}")
            ]
        captions.append("\n".join(lines))
    return captions


def _map_grid(evaluation: Evaluation, explained: Explained, names: list[str]) -> Figure:
    """Two mistakes a row: the sample, and the maps of the predicted and of the true class; then three right
    predictions a row: the sample and the map of its class."""
    tiles: list[np.ndarray] = []
    captions: list[str] = []
    maps: list[np.ndarray | None] = []
    blank = np.ones((1, *[1] * (explained.inputs.ndim - 2)))
    for row, caption, sample, (of_predicted, of_true) in zip(
        explained.rows, _captions(evaluation, names, explained.rows), explained.inputs, explained.maps, strict=True
    ):
        predicted, true = explained_labels(evaluation.predictions, row)
        shown = [(names[predicted], of_predicted), (names[true], of_true)][: 1 if predicted == true else 2]
        missing = -len(tiles) % (1 + len(shown))  # of a row, after an odd number of mistakes
        tiles += [blank] * missing + [sample] * (1 + len(shown))
        captions += [""] * missing + [caption, *(f"evidence for\n{name}" for name, _ in shown)]
        maps += [None] * (missing + 1) + [heat for _, heat in shown]
    return grid(tiles, captions, MAP_TITLE, columns=6, maps=maps)
