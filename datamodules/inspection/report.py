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

from datamodules.storage.inputs import Split

# On the console; inspection.json holds all.
MOST = 10
# Of the contact sheet: classes, images of a class and split, and what follows in pixels.
CLASSES = 200
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
            table.add_row(_text(each["file"]), _text(each["reason"]))
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
        console.print("too many images are alike at a glance: there may be more that are nearly the same")
    console.print(f"{'all' if _longer(report) else 'this'} → {output}", markup=False, highlight=False)


def _add(table: Table, name: str, counts: list[int], weight: float | None) -> None:
    table.add_row(_text(name), *(f"{count:,}" for count in counts), "" if weight is None else f"{weight:.3g}")


def _text(names: str) -> Text:
    """Without markup, and with a question mark for each byte that is no UTF-8."""
    return Text(names.encode("utf-8", "replace").decode())


def _longer(report: dict[str, Any]) -> bool:
    lists = [report["damaged"], report["duplicates"]["exact"], report["duplicates"]["near"] or []]
    return any(len(each) > MOST for each in lists) or len(report["classes"]) > 2 * MOST


def _names(files: list[dict[str, str]]) -> Text:
    more = [f"and {len(files) - 3} more"] if len(files) > 4 else []
    shown = files[:3] if more else files
    return _text("\n".join([f"{each['file']} ({each['split']}, {each['class']})" for each in shown] + more))


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
    yield "commonest sizes", "  ".join(f"{each['height']}×{each['width']}: {each['images']:,}" for each in commonest)
    for kind in ("modes", "formats"):
        yield kind, "  ".join(f"{name}: {count:,}" for name, count in report[kind].items())
    each, whole = (report["decoding"][key] for key in ("seconds_per_image", "seconds"))
    yield "decoding", f"{1000 * each:.2g} ms an image and core, {whole:.3g} s for all"


def _size(count: float) -> str:
    """Bytes for people."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def draw_sheet(splits: dict[str, Split], class_names: Sequence[str], path: Path) -> None:
    """A strip for each of the first 200 classes, in as many columns of strips as make the sheet about square; in it up
    to three images of each split, spread evenly over those of the class."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    class_names = class_names[:CLASSES]
    part = SAMPLES * TILE + MARGIN
    height, width = TILE + HEADING + MARGIN, len(splits) * part + 2 * MARGIN  # of a strip
    columns = max(1, round(np.sqrt(len(class_names) * height / width)))
    corners = [(label // columns * height + 2 * HEADING, label % columns * width) for label in range(len(class_names))]
    size = columns * width, -(-len(class_names) // columns) * height + HEADING
    figure = Figure(figsize=(size[0] / 100, size[1] / 100), dpi=100)
    agg = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
    axes.axis("off")
    for name, (top, left) in zip(class_names, corners, strict=True):
        axes.text(left + MARGIN, top - 4, _text(name).plain, fontsize=9, parse_math=False)
    for number, split in enumerate(splits):
        for _, left in corners[:columns]:
            axes.text(left + MARGIN + number * part, HEADING - 4, split, fontsize=8, color="#777777")
    with warnings.catch_warnings(action="ignore"):  # of letters that its font lacks
        agg.draw()
    sheet = np.array(agg.buffer_rgba())[:, :, :3]
    for number, samples in enumerate(splits.values()):
        labels = samples.labels.numpy()
        members = {label: np.flatnonzero(labels == label) for label in range(len(class_names))}
        chosen = {
            label: rows[:: max(1, len(rows) // SAMPLES)][:SAMPLES] for label, rows in members.items() if len(rows)
        }
        for label, images in zip(chosen, samples.read(chosen.values()), strict=True):
            top, left = corners[label]
            for i, image in enumerate(images.numpy()):
                tile = _tile(image)
                x = left + MARGIN + number * part + i * TILE
                sheet[top : top + tile.shape[0], x : x + tile.shape[1]] = tile
    Image.fromarray(sheet).save(path)


def _tile(pixels: np.ndarray) -> np.ndarray:
    """uint8 `[C, H, W]` → `[h, w, 3]` whose longer side is that of a tile, but for a border."""
    height, width = pixels.shape[1:]
    side = TILE - 2
    size = (max(1, side * width // max(height, width)), max(1, side * height // max(height, width)))
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).convert("RGB")
    small = max(height, width) <= side
    return np.asarray(image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.BOX))
