"""All figures of an evaluation as PNG files."""

import numpy as np
from matplotlib.figure import Figure

from lit_modules.evaluation import figures
from lit_modules.evaluation.activation_maps import Explained
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.image_grid import grid

MAP_TITLE = "Class activation maps of the worst mistakes and of right predictions: true → predicted, probability, file"


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
            _captions(evaluation, names, evaluation.predictions.mistakes),
            "Worst mistakes: true → predicted, probability, file",
            columns=6,
        ),
    }
    if len(names) == 2:
        drawn["threshold"] = figures.threshold(evaluation.curves[1], names[1])
    if isinstance(evaluation.explained, Explained):
        drawn["maps"] = _map_grid(evaluation, evaluation.explained, names)
    return {name: figures.png(figure) for name, figure in drawn.items()}


def _captions(evaluation: Evaluation, names: list[str], rows: np.ndarray) -> list[str]:
    index, true, predicted, probabilities, _ = evaluation.predictions
    captions = []
    for row in rows.tolist():
        file = figures.short(evaluation.files[index[row]], 18, keep_end=True)
        probability = probabilities[row, predicted[row]]
        captions.append(f"{names[true[row]]} → {names[predicted[row]]}\n{probability:.3f}  {file}")
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
        predicted, true = evaluation.predictions.predicted[row], evaluation.predictions.true[row]
        shown = [(names[predicted], of_predicted), (names[true], of_true)][: 1 if predicted == true else 2]
        missing = -len(tiles) % (1 + len(shown))  # of a row, after an odd number of mistakes
        tiles += [blank] * missing + [sample] * (1 + len(shown))
        captions += [""] * missing + [caption, *(f"evidence for\n{name}" for name, _ in shown)]
        maps += [None] * (missing + 1) + [heat for _, heat in shown]
    return grid(tiles, captions, MAP_TITLE, columns=6, maps=maps)
