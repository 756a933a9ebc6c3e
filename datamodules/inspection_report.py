"""An inspection on the console, and its contact sheet: some samples of each class and split."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from datamodules.inputs import Split

# On the console; inspection.json holds all.
MOST = 10
# Of the contact sheet: pictures of a class and split, and in pixels.
SAMPLES = 3
TILE = 64
MARGIN = 8
HEADING = 18


def print_report(report: dict[str, Any], output: Path) -> None:
    """Counts, what was measured, then what is wrong, of each at most ten lines."""
    console = Console()
    splits = report["splits"]
    table = Table("class", *(f"{split}" for split in splits), "weight", title="Samples", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    by_count = sorted(report["classes"].items(), key=lambda each: -each[1]["train"])
    few = len(by_count) <= 2 * MOST
    for name, row in report["classes"].items() if few else by_count[:MOST]:
        _add(table, name, [row[split] for split in splits], row["weight"])
    if not few:
        table.add_row(f"… {len(by_count) - 2 * MOST} more …")
        for name, row in by_count[-MOST:]:
            _add(table, name, [row[split] for split in splits], row["weight"])
    table.add_section()
    _add(table, "all", list(splits.values()), None)
    console.print(table)

    table = Table("", Column("", overflow="fold"), title="Measured", title_justify="left", show_header=False)
    for name, text in _facts(report):
        table.add_row(name, Text(text))
    console.print(table)

    if damaged := report["damaged"]:
        table = Table("damaged file", "reason", title=f"{len(damaged)} cannot be read", title_justify="left")
        for each in damaged[:MOST]:
            table.add_row(Text(each["file"]), Text(each["reason"]))
        console.print(table)
    for kind, title in (("exact", "the same, pixel for pixel"), ("near", "nearly the same")):
        groups = report["duplicates"][kind] or []
        groups = sorted(groups, key=lambda group: (not group["label_conflict"], not group["across_splits"]))
        if groups:
            across, conflicts = (sum(each[key] for each in groups) for key in ("across_splits", "label_conflict"))
            title = f"{len(groups)} groups {title}: {across} across splits, {conflicts} of several classes"
            table = Table("files", "", title=title, title_justify="left", show_lines=True)
            for group in groups[:MOST]:
                table.add_row(_names(group["files"]), _remark(group))
            console.print(table)
    if report["duplicates"]["near_complete"] is False:
        console.print("too many pictures are alike at a glance: there may be more that are nearly the same")
    console.print(f"{'all' if _longer(report) else 'this'} → {output}", markup=False, highlight=False)


def _add(table: Table, name: str, counts: list[int], weight: float | None) -> None:
    table.add_row(Text(name), *(f"{count:,}" for count in counts), "" if weight is None else f"{weight:.3g}")


def _longer(report: dict[str, Any]) -> bool:
    lists = [report["damaged"], report["duplicates"]["exact"], report["duplicates"]["near"] or []]
    return any(len(each) > MOST for each in lists) or len(report["classes"]) > 2 * MOST


def _names(files: list[dict[str, str]]) -> Text:
    more = [f"and {len(files) - 3} more"] if len(files) > 4 else []
    shown = files[:3] if more else files
    return Text("\n".join([f"{each['file']} ({each['split']}, {each['class']})" for each in shown] + more))


def _remark(group: dict[str, Any]) -> Text:
    lines = [
        Text("several classes", "bold red") if group["label_conflict"] else None,
        Text("across splits", "yellow") if group["across_splits"] else None,
        Text("copied files") if group.get("byte_identical") else None,
        Text(f"likeness {group['likeness']:.3f}") if "likeness" in group else None,
    ]
    return Text("\n").join(line for line in lines if line)


def _facts(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts of what was measured."""
    imbalance, decoded = report["imbalance"], report["decoded"]
    ratio = "no end" if imbalance["ratio"] is None else f"{imbalance['ratio']:.3g}"
    yield "largest : smallest class", f"{imbalance['largest']} : {imbalance['smallest']} = {ratio}"
    yield "a network gets", " × ".join(map(str, report["input"]["shape"]))
    yield "mean of each channel", "  ".join(f"{value:.4f}" for value in report["input"]["mean"])
    yield "its standard deviation", "  ".join(f"{value:.4f}" for value in report["input"]["std"])
    yield "decoded", f"{_size(decoded['bytes'])}; {_size(decoded['free_memory'])} of memory are free"
    yield "kept", decoded["store"] or "not on disk"
    if "decoding" not in report:
        return
    for side in ("height", "width"):
        yield side, "{min} to {max}, median {median:g}".format(**report["sizes"][side])
    commonest = report["sizes"]["commonest"]
    yield "commonest sizes", "  ".join(f"{each['height']}×{each['width']}: {each['pictures']:,}" for each in commonest)
    for kind in ("modes", "formats"):
        yield kind, "  ".join(f"{name}: {count:,}" for name, count in report[kind].items())
    each, whole = (report["decoding"][key] for key in ("seconds_per_picture", "seconds"))
    yield "decoding", f"{1000 * each:.2g} ms a picture and core, {whole:.3g} s for all"


def _size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def draw_sheet(splits: dict[str, Split], class_names: Sequence[str], path: Path) -> None:
    """A strip a class, in about as many columns of strips as make the sheet square; in it up to three pictures of each
    split, spread evenly over those of the class, with the name above."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    part = SAMPLES * TILE + MARGIN
    strip = (TILE + HEADING + MARGIN, len(splits) * part + 2 * MARGIN)
    columns = max(1, round(np.sqrt(len(class_names) * strip[0] / strip[1])))
    rows = -(-len(class_names) // columns)
    canvas = np.full((HEADING + rows * strip[0], columns * strip[1], 3), 255, np.uint8)
    figure = Figure(figsize=(canvas.shape[1] / 100, canvas.shape[0] / 100))
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1))
    for number, (split, samples) in enumerate(splits.items()):
        members = [np.flatnonzero(samples.labels.numpy() == label) for label in range(len(class_names))]
        chosen = [each[np.unique(np.linspace(0, len(each) - 1, SAMPLES).astype(int))] for each in members]
        for label, pictures in enumerate(samples.read(chosen)):
            top, left = (
                HEADING + label // columns * strip[0] + HEADING,
                MARGIN + label % columns * strip[1] + number * part,
            )
            for i, picture in enumerate(pictures.numpy()):
                tile = _tile(picture)
                x = left + i * TILE
                canvas[top : top + tile.shape[0], x : x + tile.shape[1]] = tile
        for column in range(columns):
            axes.text(MARGIN + column * strip[1] + number * part, HEADING - 4, split, fontsize=8, color="#777777")
    for label, name in enumerate(class_names):
        top, left = HEADING + label // columns * strip[0] + HEADING - 4, MARGIN + label % columns * strip[1]
        axes.text(left, top, name, fontsize=9, clip_on=True, parse_math=False)
    axes.imshow(canvas, extent=(0, canvas.shape[1], canvas.shape[0], 0), interpolation="nearest")
    axes.axis("off")
    with warnings.catch_warnings(action="ignore"):  # of letters that its font lacks
        figure.savefig(path, dpi=100)


def _tile(picture: np.ndarray) -> np.ndarray:
    """uint8 `[C, H, W]` → `[h, w, 3]` whose longer side is that of a tile, but for a border."""
    height, width = picture.shape[1:]
    side = TILE - 2
    size = (max(1, side * width // max(height, width)), max(1, side * height // max(height, width)))
    image = Image.fromarray(picture[0] if len(picture) == 1 else picture.transpose(1, 2, 0)).convert("RGB")
    small = max(height, width) <= side
    return np.asarray(image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.BOX))
