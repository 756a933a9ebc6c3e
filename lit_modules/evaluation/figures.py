"""Figures of an evaluation and of a run's epochs: NumPy in, matplotlib's Figure out; no state of pyplot's."""

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

# Safe for the colour-blind: Okabe and Ito, "Color universal design" (2008), without the yellow that is faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
GREY = "#999999"
DPI = 100
Drawing = ParamSpec("Drawing")
MOST_CELLS_WITH_NUMBERS = 20
MOST_CLASSES_IN_MATRIX = 200
CLASSES_OF_A_PART = 50
MOST_ROWS = 40
MOST_LINES = 7
LONGEST_NAME = 22
# For names of classes in scripts that matplotlib's own font lacks; those of them that are installed are used.
FONTS = ("Noto Sans CJK KR", "Noto Sans CJK JP", "Noto Sans CJK SC", "NanumGothic", "Malgun Gothic", "AppleGothic")


@cache
def _style() -> Any:
    installed = set(font_manager.get_font_names())
    return {
        "font.family": ["DejaVu Sans", *(name for name in FONTS if name in installed)],
        "font.size": 10,
        "text.parse_math": False,  # a class may be called $5
        "axes.titlesize": 11,
        "axes.titlelocation": "left",
        "axes.titley": 1.0,  # to look for labels that might be in its way would take a quarter of a drawing
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "grid.color": "#e5e5e5",
        "axes.axisbelow": True,
        "legend.frameon": False,
        "lines.linewidth": 1.8,
    }


def styled(draw: Callable[Drawing, Figure]) -> Callable[Drawing, Figure]:
    """Draws in our style, whatever else uses matplotlib in this process."""

    @wraps(draw)
    def drawn(*args: Drawing.args, **kwargs: Drawing.kwargs) -> Figure:
        with matplotlib.rc_context(_style()):
            return draw(*args, **kwargs)

    return drawn


def png(figure: Figure) -> bytes:
    """The content of a PNG file."""
    file = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # then a box stands for it
        # Compressed as fast as can be, for up to a sixth more bytes.
        figure.savefig(file, format="png", dpi=DPI, facecolor="white", pil_kwargs={"compress_level": 1})
    return file.getvalue()


def drawable(text: str) -> str:
    """With a question mark for each byte of a file's name that is no UTF-8."""
    return text.encode("utf-8", "replace").decode()


def short(name: str, length: int = LONGEST_NAME, keep_end: bool = False) -> str:
    """A name of at most so many characters, all of which can be drawn."""
    name = drawable(name)
    if len(name) <= length:
        return name
    return f"…{name[1 - length :]}" if keep_end else f"{name[: length - 1]}…"


def _framed(width: float, height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure of so many inches and its axes, with room for the labels around them. The room is fixed, for matplotlib
    finds out how much is needed by drawing all of it an extra time."""
    figure = Figure(figsize=(width, height))
    figure.subplots_adjust(0.7 / width, 0.55 / height, 1 - 0.15 / width, 1 - 0.4 / height, wspace=0.18, hspace=0.08)
    return figure, figure.subplots(rows, columns, **options)


@styled
def confusion(matrix: np.ndarray, names: Sequence[str]) -> Figure:
    """Shares of each true class. Above 200 classes, those that are confused most.

    Args:
        matrix: int64 `[true, predicted]`
    """
    shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
    title = "Confusion: true (row), predicted (column)"
    shown = np.arange(len(names))
    if len(names) > MOST_CLASSES_IN_MATRIX:
        wrong = shares - np.diag(shares.diagonal())
        shown = np.sort(np.argsort(-wrong.sum(0) - wrong.sum(1), kind="stable")[:CLASSES_OF_A_PART])
        title += f"\na part: the {len(shown)} of {len(names):,} classes that are confused most"
    part, names = shares[np.ix_(shown, shown)], [names[i] for i in shown.tolist()]
    cell = min(max(0.09, 4.6 / len(part)), 1.2)  # inches
    labels = 0.08 * max(map(len, names)) * min(1.0, 5 * cell) + 0.5
    side = cell * len(part)
    numbers = len(part) <= MOST_CELLS_WITH_NUMBERS
    margin = 0.0 if numbers else 2.9  # for a list on the right
    width, height = max(labels + side, 4.8) + 0.2 + margin, labels + side + 0.7
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((labels / width, 1 - (side + 0.6) / height, side / width, side / height))
    few_show = PowerNorm(0.4, 0, 1)
    axes.imshow(part, cmap="Blues", norm=few_show, aspect="auto", interpolation="nearest")
    size = min(10.0, 60 * cell)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize=size)
    axes.set_yticks(range(len(names)), names, fontsize=size)
    axes.tick_params(length=0, pad=2)
    axes.grid(False)
    axes.spines[:].set_visible(False)
    axes.set_title(title)
    if numbers:
        for row, column in np.argwhere(part > 0):
            value = part[row, column]
            number = f"{value:.2f}".lstrip("0") if value >= 0.005 else "·"
            color = "white" if value > 0.3 else "black"
            axes.text(column, row, number, ha="center", va="center", fontsize=min(10, 28 * cell), color=color)
    else:
        place = ((labels + side + 0.3) / width, 1 - 0.6 / height)
        figure.text(*place, _most_confused(part, names), va="top", fontsize=8.5, linespacing=1.5)
    return figure


def _most_confused(shares: np.ndarray, names: Sequence[str]) -> str:
    """The twelve largest shares that lie off the diagonal."""
    off = shares - np.diag(shares.diagonal())
    worst = [divmod(int(i), len(off)) for i in np.argsort(-off, axis=None, kind="stable")[:12]]
    lines = [f"{off[i, j]:6.1%}  {names[i]} → {names[j]}" for i, j in worst if off[i, j] > 0]
    return "\n".join(["Most confused", "", *lines] if lines else ["No mistakes"])


@styled
def reliability(calibration: Calibration) -> Figure:
    """Accuracy by confidence, over how many predictions had it."""
    figure, (upper, lower) = _framed(5.6, 5.6, rows=2, height_ratios=(3, 1), sharex=True)
    filled = calibration.counts > 0
    edges = np.linspace(0, 1, len(calibration.counts) + 1)
    width = edges[1]
    upper.bar(edges[:-1][filled], calibration.accuracy[filled], width, align="edge", color=COLORS[4], edgecolor="white")
    upper.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1.2, label="as probable as said")
    upper.plot(calibration.confidence[filled], calibration.accuracy[filled], "o-", color=COLORS[0], label="found")
    upper.set(xlim=(0, 1), ylim=(0, 1.02), ylabel="share that is right")
    upper.set_title(f"Reliability: expected calibration error {calibration.error:.4f}")
    upper.legend(loc="upper left")
    lower.bar(
        edges[:-1], calibration.counts / calibration.counts.sum(), width, align="edge", color=GREY, edgecolor="white"
    )
    lower.set(xlabel="probability of the predicted class", ylabel="predictions")
    lower.yaxis.set_major_formatter("{x:.0%}")
    lower.yaxis.set_major_locator(MaxNLocator(3))
    return figure


@styled
def roc(curves: Sequence[Curve], names: Sequence[str]) -> Figure:
    """True by false positives, each class against the rest."""
    figure, axes = _framed(6.4, 5.2)
    axes.plot([0, 1], [0, 1], "--", color=GREY, linewidth=1)
    _lines(axes, [(each.false_alarms, each.recall, each.auc) for each in curves], names, "AUC")
    axes.set(
        xlim=(-0.02, 1), ylim=(0, 1.02), xlabel="share of the others taken for it", ylabel="share of the class found"
    )
    axes.set_title(_title("ROC", names), loc="left")
    return figure


@styled
def precision_recall(curves: Sequence[Curve], names: Sequence[str]) -> Figure:
    """Precision by recall, each class against the rest."""
    figure, axes = _framed(6.4, 5.2)
    _lines(axes, [(each.recall, each.precision, each.ap) for each in curves], names, "AP")
    axes.set(xlim=(0, 1.02), ylim=(0, 1.02), xlabel="recall", ylabel="precision")
    axes.set_title(_title("Precision and recall", names), loc="left")
    return figure


def _title(kind: str, names: Sequence[str]) -> str:
    return f"{kind}: {names[1]} against {names[0]}" if len(names) == 2 else f"{kind}: each class against the rest"


def _lines(axes: Any, lines: Sequence[tuple[np.ndarray, np.ndarray, float]], names: Sequence[str], area: str) -> None:
    """The lowest areas in colour and by name, the others in grey; of two classes only the second."""
    known = [i for i in range(len(lines)) if np.isfinite(lines[i][2])]
    known = [i for i in known if i == 1] if len(names) == 2 else sorted(known, key=lambda i: lines[i][2])
    named, others = known[:MOST_LINES], known[MOST_LINES:]
    for position, i in enumerate(others):
        mean = np.mean([lines[j][2] for j in others])
        label = f"{len(others):,} others: mean {area} {mean:.4f}" if position == 0 else None
        axes.plot(*lines[i][:2], color=GREY, linewidth=0.6, alpha=0.6, label=label)
    for color, i in reversed(list(zip(COLORS, named, strict=False))):
        axes.plot(*lines[i][:2], color=color, label=f"{names[i]}: {area} {lines[i][2]:.4f}")
    if known:
        axes.legend(loc="lower left" if area == "AP" else "lower right", fontsize=8.5, reverse=True)


@styled
def threshold(curve: Curve, name: str) -> Figure:
    """What becomes of precision, recall and F1 if a class is said from another probability on than one half."""
    figure, axes = _framed(6.4, 4.4)
    at, recall, precision = (values[1:] for values in (curve.thresholds, curve.recall, curve.precision))
    f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
    styles = ("-", "--", "-.")
    for values, label, color, style in zip(
        (precision, recall, f1), ("precision", "recall", "F1"), COLORS, styles, strict=False
    ):
        axes.plot(at, values, style, color=color, label=label, drawstyle="steps-post")
    axes.axvline(0.5, color=GREY, linewidth=1, linestyle=":")
    if np.isfinite(f1).any():
        best = int(np.nanargmax(f1))
        axes.plot(at[best], f1[best], "o", color=COLORS[2])
        axes.set_title(f"{name}: F1 is best from t = {at[best]:.3f} on ({f1[best]:.4f})")
    axes.set(xlim=(0, 1), ylim=(0, 1.02), xlabel="threshold t")
    axes.legend(loc="lower center", ncols=3)
    return figure


@styled
def classes(table: dict[str, np.ndarray], order: np.ndarray, names: Sequence[str]) -> Figure:
    """Precision, recall, F1 and likelihood by class; of many classes the first 40.

    Args:
        table: as `Evaluation.classes` gives it.
        order: as `Evaluation.lowest_first` gives it.
    """
    order = order[:MOST_ROWS]
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
    found = [table[score][order] for score in ("precision", "recall", "f1", "likelihood")]
    lowest = np.nanmin(found) if np.isfinite(found).any() else 0.0
    axes.set_xlim(max(0.0, np.floor(lowest * 10 - 0.5) / 10), 1.005)
    part = (
        f"the {len(order)} of {len(names):,} with the lowest F1" if len(order) < len(names) else "the lowest F1 first"
    )
    axes.set_title(f"Classes (and their samples), {part}")
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


@styled
def history(rows: Sequence[dict[str, float]], best_epoch: int) -> Figure:
    """Loss and scores of each epoch, as `metrics.csv` has them."""
    matplotlib.rcParams["axes.titley"] = None  # above a factor of large numbers, such as 1e6
    figure, both = _framed(9.6, 3.6, columns=2)
    for axes, scores in zip(both, (("loss",), ("f1", "acc")), strict=True):
        for score, style in zip(scores, ("-", ":"), strict=False):
            for split, color in zip(("train", "val"), COLORS, strict=False):
                points = [(row["epoch"] + 1, row[f"{split}/{score}"]) for row in rows if f"{split}/{score}" in row]
                marker = "o" if len(points) < 2 else None
                axes.plot(
                    *zip(*points, strict=True), style, color=color, marker=marker, label=f"{split} {score}"
                ) if points else None
        axes.axvline(best_epoch + 1, color=GREY, linewidth=1, linestyle="--", label="best epoch")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_title(" and ".join(scores))
        axes.legend(fontsize=8.5)
    return figure
