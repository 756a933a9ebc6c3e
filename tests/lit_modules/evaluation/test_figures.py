"""Figures can be drawn of 2 to 1,000 classes, say when they show a part, and leave matplotlib as it was."""

import io

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lit_modules.evaluation import figures
from lit_modules.evaluation.curves import calibrate
from lit_modules.evaluation.drawing import draw
from tests.samples import evaluation


def texts(figure: Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(lambda each: hasattr(each, "get_text")))


def image(content: bytes) -> Image.Image:
    return Image.open(io.BytesIO(content))


@pytest.mark.parametrize("num_classes", [2, 40, pytest.param(1000, marks=pytest.mark.slow)])
def test_every_figure_is_an_image_of_a_size_that_can_be_shown(num_classes: int) -> None:
    drawn = draw(evaluation(num_classes, samples=2000))
    expected = {"confusion", "classes", "reliability", "roc", "precision_recall", "mistakes"}
    assert set(drawn) == (expected | {"threshold"} if num_classes == 2 else expected)
    for name, content in drawn.items():
        width, height = image(content).size
        assert 300 <= width <= 2500 and 100 <= height <= 2500, name
        assert np.asarray(image(content).convert("L")).mean() > 110, f"{name} is light"


@pytest.mark.parametrize(("num_classes", "names_shown", "part"), [(10, 10, False), (60, 60, False), (1000, 50, True)])
def test_confusion_names_its_classes_and_says_if_it_is_a_part(num_classes: int, names_shown: int, part: bool) -> None:
    found = evaluation(num_classes)
    figure = figures.confusion(found.confusion, found.class_names)
    (axes,) = figure.axes
    assert len(axes.get_xticklabels()) == len(axes.get_yticklabels()) == names_shown
    assert ("the 50 of 1,000 classes" in texts(figure)) == part


def test_confusion_is_normalised_by_the_true_class() -> None:
    figure = figures.confusion(np.array([[6, 2], [0, 4]]), ["cat", "dog"])
    shown = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(np.asarray(shown), [[0.75, 0.25], [0, 1]])
    assert ".25" in texts(figure).splitlines()


def test_many_classes_have_a_list_of_the_most_confused() -> None:
    matrix = np.diag(np.full(30, 6))
    matrix[3, 5] = 2
    figure = figures.confusion(matrix, [f"c{i}" for i in range(30)])
    assert "25.0%  c3 → c5" in texts(figure) and "c5 → c3" not in texts(figure)
    assert "None are confused" in texts(figures.confusion(np.diag(np.full(30, 6)), ["c"] * 30))


def test_class_without_samples_leaves_an_empty_row() -> None:
    figure = figures.confusion(np.array([[3, 0, 0], [0, 0, 0], [0, 0, 1]]), ["a", "b", "c"])
    assert np.asarray(figure.axes[0].images[0].get_array())[1].tolist() == [0, 0, 0]


def test_most_confused_classes_are_the_part_that_is_shown() -> None:
    matrix = np.diag(np.full(300, 10))
    matrix[123, 245] = 30
    figure = figures.confusion(matrix, [f"c{i}" for i in range(300)])
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert {"c123", "c245"} <= set(names)


def test_classes_are_all_named_or_the_title_says_which() -> None:
    few, many = evaluation(10), evaluation(100)
    assert "lowest F1 first" in texts(figures.classes(few.classes, few.lowest_first, few.class_names))
    figure = figures.classes(many.classes, many.lowest_first, many.class_names)
    assert "the 40 of 100 with the lowest F1" in texts(figure)
    assert f"class {many.lowest_first[0]}  (" in texts(figure)


def test_reliability_states_its_error() -> None:
    figure = figures.reliability(calibrate(np.array([0.9, 0.9]), np.array([True, False])))
    assert "0.4000" in texts(figure)


def test_curves_name_the_lowest_areas() -> None:
    found = evaluation(20)
    lowest = int(np.argmin(found.classes["auc"]))
    figure = figures.roc(found.curves, found.class_names)
    assert f"class {lowest}: AUC {found.classes['auc'][lowest]:.4f}" in texts(figure)
    assert "13 others" in texts(figure)


def test_threshold_marks_the_best_f1() -> None:
    found = evaluation(2)
    true, probability = found.predictions.true, found.predictions.probabilities[:, 1]
    best = max(
        2 * ((probability >= at) & (true == 1)).sum() / ((probability >= at).sum() + (true == 1).sum())
        for at in probability
    )
    assert f"({best:.4f})" in texts(figures.threshold(found.curves[1], "ill"))


@pytest.mark.parametrize("name", ["$5", "x_1^2", "한글", "a" * 300, "\\frac{", "<b>"])
def test_any_name_can_be_drawn(name: str) -> None:
    figures.png(figures.confusion(np.array([[1, 2], [0, 1]]), [figures.short(name), "other"]))


def test_missing_validation_leaves_a_gap_in_the_history() -> None:
    rows = [{"epoch": 0, "train/loss": 1.0, "train/f1": 0.5, "train/acc": 0.5}, {"epoch": 1, "train/loss": 0.5}]
    assert "val" not in texts(figures.history(rows, 0))


def test_style_is_kept_to_ourselves() -> None:
    before = dict(matplotlib.rcParams)
    draw(evaluation(3))
    assert dict(matplotlib.rcParams) == before


def test_no_state_of_pyplot_is_touched() -> None:
    draw(evaluation(3))
    assert pyplot.get_fignums() == []


def test_a_title_stands_above_a_factor_of_large_numbers() -> None:
    figure = figures.history([{"epoch": i, "train/loss": 8e6 / (i + 1)} for i in range(3)], 0)
    figures.png(figure)
    axes = figure.axes[0]
    factor = axes.yaxis.get_offset_text()
    (title,) = axes.findobj(lambda each: isinstance(each, Text) and each.get_text() == "loss")
    assert factor.get_text() == "1e6"
    assert title.get_window_extent().y0 >= factor.get_window_extent().y1
