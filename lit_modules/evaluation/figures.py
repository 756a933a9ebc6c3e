"""Matplotlib figures of an evaluation and of training history, without pyplot."""

import io
import warnings
from collections.abc import Callable, Sequence
from functools import cache, wraps
from typing import Any, ParamSpec

import matplotlib
import numpy as np
from matplotlib import font_manager
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lit_modules.evaluation.curves import Calibration, Curve

# Colour-blind safe: Okabe and Ito, "Color universal design" (2008), without yellow, which has low contrast on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#999999"
DPI = 100
P = ParamSpec("P")
MAX_ANNOTATED_CLASSES = 20
MAX_MATRIX_CLASSES = 200
SUBSET_CLASSES = 50
MAX_ROWS = 40
MAX_NAMED_CURVES = 7
MAX_NAME_LENGTH = 22
# Fallback fonts for CJK class names; only installed ones are used.
FONTS = ("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans CJK SC", "NanumGothic", "Malgun Gothic", "AppleGothic")


@cache
def _style() -> Any:
    installed = set(font_manager.get_font_names())
    return {
        "font.family": ["DejaVu Sans", *(name for name in FONTS if name in installed)],
        "font.size": 10,
        "text.parse_math": False,  # class names may contain $
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titley": 1.0,  # automatic placement takes a quarter of the drawing time
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e5e5e5",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }


def styled(draw: Callable[P, Figure]) -> Callable[P, Figure]:
    """Decorator: draws with our rcParams and restores the previous ones."""

    @wraps(draw)
    def drawn(*args: P.args, **kwargs: P.kwargs) -> Figure:
        with matplotlib.rc_context(_style()):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """Encodes a figure as a PNG file."""
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as a box
        # The fastest compression level; files are up to a sixth larger.
        figure.savefig(file, format="png", dpi=DPI, facecolor="white", pil_kwargs={"compress_level": 1})
    return file.getvalue()


def drawable(text: str) -> str:
    """Replaces undecodable bytes of a file name by question marks."""
    return text.encode("utf-8", "replace").decode()


def short(name: str, length: int = MAX_NAME_LENGTH, keep_end: bool = False) -> str:
    """Truncates a name with an ellipsis, and replaces undecodable bytes."""
    name = drawable(name)
    if len(name) <= length:
        return name
    return f"…{name[1 - length :]}" if keep_end else f"{name[: length - 1]}…"


def _subplots(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure and its axes with fixed margins; sizes are in inches.

    Matplotlib's automatic layouts would draw the figure twice.
    """
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.7 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.4 / height, wspace=0.18, hspace=0.08)
    return figure, figure.subplots(rows, columns, **options)


def confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Confusion matrix normalized by true class.

    With more than 200 classes, the 50 most confused are shown.

    Args:
        matrix: counts, int64 `[true, predicted]`.
        names: class names.
    """
    normalized = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    return _fractions(normalized, names, "Confusion: true (row), predicted (column)", "confused")


def co_occurrence(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Of the samples with a label, the fraction with another; `matrix` as of `Evaluation.co_occurrence`."""
    normalized = matrix / np.maximum(matrix.diagonal()[:, None], 1)
    return _fractions(normalized, names, "Of samples with a label (row), those with another (column)", "combined")


@styled
def _fractions(normalized: np.ndarray, names: Sequence[str], title: str, verb: str) -> Figure:
    shown = np.arange(len(names))
    if len(names) > MAX_MATRIX_CLASSES:
        errors = normalized - np.diag(normalized.diagonal())
        shown = np.sort(np.argsort(-errors.sum(0) - errors.sum(1), kind="stable")[:SUBSET_CLASSES])
        title += f"\nonly the {len(shown)} of {len(names):,} classes that are {verb} most"
    normalized = normalized[np.ix_(shown, shown)]
    names = [names[i] for i in shown.tolist()]
    cell = min(max(0.09, 4.6 / len(names)), 1.2)  # inches
    labels = 0.08 * max(map(len, names)) * min(1.0, 5 * cell) + 0.5
    side = cell * len(names)
    annotated = len(names) <= MAX_ANNOTATED_CLASSES
    margin = 0.0 if annotated else 2.9  # for the list on the right
    width, height = max(labels + side, 4.8) + 0.2 + margin, labels + side + 0.7
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((labels / width, 1 - (side + 0.6) / height, side / width, side / height))
    norm = PowerNorm(0.4, 0, 1)  # small rates remain visible
    axes.imshow(normalized, cmap="Blues", norm=norm, aspect="auto", interpolation="nearest")
    size = min(10.0, 60 * cell)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0, pad=2)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    if annotated:
        for row, column in np.argwhere(normalized > 0):
            value = normalized[row, column]
            number = f"{value:.2f}".lstrip("0") if value >= 0.005 else "·"
            color = "white" if value > 0.3 else "black"
            axes.text(column, row, number, ha="center", va="center", fontsize=min(10, 28 * cell), color=color)
    else:
        position = ((labels + side + 0.3) / width, 1 - 0.6 / height)
        figure.text(*position, _largest(normalized, names, verb), va="top", fontsize=8.5, linespacing=1.5)
    return figure


def _largest(normalized: np.ndarray, names: Sequence[str], verb: str) -> str:
    """The twelve largest off-diagonal entries as text."""
    errors = normalized - np.diag(normalized.diagonal())
    largest = [divmod(int(i), len(errors)) for i in np.argsort(-errors, axis=None, kind="stable")[:12]]
    lines = [f"{errors[i, j]:6.1%}  {names[i]} → {names[j]}" for i, j in largest if errors[i, j] > 0]
    return "\n".join([f"Most {verb}", "", *lines] if lines else [f"None are {verb}"])


@styled
def reliability(calibration: Calibration) -> Figure:
    """Reliability diagram: accuracy by confidence, and the histogram of confidence."""
    figure, (upper, lower) = _subplots(5.6, 5.6, rows=2, height_ratios=(3, 1), sharex=True)
    filled = calibration.counts > 0
    edges = np.linspace(0, 1, len(calibration.counts) + 1)
    width = edges[1]
    upper.bar(edges[:-1][filled], calibration.accuracy[filled], width, align="edge", color=COLORS[4], edgecolor="white")
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="perfect calibration")
    upper.plot(calibration.confidence[filled], calibration.accuracy[filled], "o-", color=COLORS[0], label="model")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="accuracy")
    upper.set_title(f"Reliability: expected calibration error {calibration.error:.4f}")
    upper.legend(loc="upper left")
    lower.bar(
        edges[:-1], calibration.counts / calibration.counts.sum(), width, align="edge", color=GREY, edgecolor="white"
    )
    lower.set(xlabel="confidence", ylabel="predictions")
    lower.yaxis.set_major_formatter("{x:.0%}")
    lower.yaxis.set_major_locator(MaxNLocator(3))
    return figure


@styled
def roc(curves: Sequence[Curve], names: Sequence[str]) -> Figure:
    """ROC curves, one-vs-rest."""
    figure, axes = _subplots(6.4, 5.2)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    _lines(axes, [(curve.fpr, curve.recall, curve.auc) for curve in curves], names, "AUC")
    axes.set(xlim=(-0.02, 1), ylim=(0, 1.02), xlabel="False positive rate", ylabel="True positive rate")
    axes.set_title(_title("ROC", names), loc="left")
    return figure


@styled
def precision_recall(curves: Sequence[Curve], names: Sequence[str]) -> Figure:
    """Precision-recall curves, one-vs-rest."""
    figure, axes = _subplots(6.4, 5.2)
    _lines(axes, [(curve.recall, curve.precision, curve.ap) for curve in curves], names, "AP")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="Recall", ylabel="Precision")
    axes.set_title(_title("Precision-recall", names), loc="left")
    return figure


def _title(kind: str, names: Sequence[str]) -> str:
    return f"{kind}: {names[1]} vs. {names[0]}" if len(names) == 2 else f"{kind}: one-vs-rest"


def _lines(axes: Any, lines: Sequence[tuple[np.ndarray, np.ndarray, float]], names: Sequence[str], area: str) -> None:
    """Plots (x, y, area) per class: the lowest areas in colour with a legend, the others in grey.

    With two classes, only the second is plotted.
    """
    defined = [i for i in range(len(lines)) if np.isfinite(lines[i][2])]
    if len(names) == 2:
        defined = [i for i in defined if i == 1]
    defined.sort(key=lambda i: lines[i][2])
    named, others = defined[:MAX_NAMED_CURVES], defined[MAX_NAMED_CURVES:]
    for position, i in enumerate(others):
        mean = np.mean([lines[j][2] for j in others])
        label = f"{len(others):,} others: mean {area} {mean:.4f}" if position == 0 else None
        axes.plot(*lines[i][:2], color=GREY, linewidth=0.6, alpha=0.6, label=label)
    for color, i in reversed(list(zip(COLORS, named, strict=False))):
        axes.plot(*lines[i][:2], color=color, label=f"{names[i]}: {area} {lines[i][2]:.4f}")
    if defined:
        axes.legend(loc="lower left" if area == "AP" else "lower right", fontsize=8.5, reverse=True)


@styled
def threshold(curve: Curve, name: str) -> Figure:
    """Precision, recall and F1 by decision threshold."""
    figure, axes = _subplots(6.4, 4.4)
    thresholds, recall, precision = curve.thresholds[1:], curve.recall[1:], curve.precision[1:]  # the first is inf
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    styles = ("-", "--", "-.")
    for values, label, color, style in zip(
        (precision, recall, f1), ("precision", "recall", "F1"), COLORS, styles, strict=False
    ):
        axes.plot(thresholds, values, style, color=color, label=label, drawstyle="steps-post")
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    if np.isfinite(f1).any():
        best = int(np.nanargmax(f1))
        axes.plot(thresholds[best], f1[best], "o", color=COLORS[2])
        axes.set_title(f"{name}: best F1 at threshold {thresholds[best]:.3f} ({f1[best]:.4f})")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold")
    axes.legend(loc="lower center", ncols=3)
    return figure


@styled
def classes(table: dict[str, np.ndarray], order: np.ndarray, names: Sequence[str]) -> Figure:
    """Precision, recall, F1 and likelihood by class, for the first 40 of `order`.

    Args:
        table: see `Evaluation.classes`.
        order: see `Evaluation.lowest_first`.
    """
    order = order[:MAX_ROWS]
    figure = Figure(figsize=(7.2, 1.3 + 0.24 * len(order)), layout="constrained")
    axes = figure.subplots()
    rows = np.arange(len(order))
    for score, marker, color in zip(
        ("precision", "recall", "f1", "likelihood"), ">^od", (*COLORS[:2], "#000000", COLORS[3]), strict=True
    ):
        axes.plot(
            table[score][order], rows, marker, color=color, markersize=6, alpha=0.85, label=score, linestyle="none"
        )
    labels = [f"{names[i]}  ({int(table['samples'][i]):,})" for i in order]
    axes.set_yticks(rows, labels)
    axes.set_ylim(len(order) - 0.4, -0.6)
    values = [table[score][order] for score in ("precision", "recall", "f1", "likelihood")]
    lowest = np.nanmin(values) if np.isfinite(values).any() else 0.0
    axes.set_xlim(max(0.0, np.floor(lowest * 10 - 0.5) / 10), 1.005)
    subset = f"the {len(order)} of {len(names):,} with the lowest F1"
    axes.set_title(f"Classes (samples), {subset if len(order) < len(names) else 'lowest F1 first'}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def history(rows: Sequence[dict[str, float]], best_epoch: int) -> Figure:
    """Loss and scores by epoch, from the rows of metrics.csv."""
    matplotlib.rcParams["axes.titley"] = None  # places the title above an offset text such as 1e6
    figure, panels = _subplots(9.6, 3.6, columns=2)
    for axes, scores in zip(panels, (("loss",), ("f1", "acc")), strict=True):
        for score, style in zip(scores, ("-", ":"), strict=False):
            for split, color in zip(("train", "val"), COLORS, strict=False):
                points = [(row["epoch"] + 1, row[f"{split}/{score}"]) for row in rows if f"{split}/{score}" in row]
                if points:
                    marker = "o" if len(points) == 1 else None
                    epochs, values = zip(*points, strict=True)
                    axes.plot(epochs, values, style, color=color, marker=marker, label=f"{split} {score}")
        axes.axvline(best_epoch + 1, color=GREY, linewidth=1, linestyle="--", label="best epoch")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_title(" and ".join(scores))
        axes.legend(fontsize=8.5)
    return figure
