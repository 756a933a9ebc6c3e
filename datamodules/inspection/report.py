"""Console report and contact sheet of an inspection."""

import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from conf.text import printable
from datamodules.storage.inputs import Split

# Rows of a table on the console; inspection.json is complete.
MAX_ROWS = 10
# Limits of the contact sheet, then its measures in pixels.
MAX_CLASSES = 200
SAMPLES_PER_SPLIT = 3
TILE = 64
MARGIN = 8
HEADING = 18
SPLIT_WIDTH = SAMPLES_PER_SPLIT * TILE + MARGIN
STRIP_HEIGHT = TILE + HEADING + MARGIN


def print_report(report: dict[str, Any], output: Path) -> None:
    """Prints counts, statistics, unreadable and unusual files, duplicates and shortcuts; at most ten rows of each."""
    console = Console()
    if report["layout"]:
        console.print(_text(report["layout"]), highlight=False)
    console.print(_samples_table(report))
    table = Table("", Column("", overflow="fold"), title="Statistics", title_justify="left", show_header=False)
    for name, value in _statistics(report):
        table.add_row(name, _text(value))
    console.print(table)
    if report["unreadable"]:
        title = f"{len(report['unreadable'])} unreadable files"
        table = Table("file", "reason", title=title, title_justify="left")
        for row in report["unreadable"][:MAX_ROWS]:
            table.add_row(_text(row["file"]), _text(row["reason"]))
        console.print(table)
    if any(report.get("unusual", {}).values()):
        console.print(_unusual_table(report["unusual"]))
    for kind in ("exact", "near"):
        if report["duplicates"][kind]:
            console.print(_duplicates_table(kind, report["duplicates"][kind]))
    if report["duplicates"]["near_search_complete"] is False:
        console.print("the search for near duplicates is incomplete: too many images look alike")
    for line in shortcut_lines(report.get("shortcuts", []), list(report["classes"])):
        console.print(_text(f"shortcut: {line}"), highlight=False, soft_wrap=True)
    console.print(_text(f"{'full ' if _is_truncated(report) else ''}report → {output}"), highlight=False)


def _samples_table(report: dict[str, Any]) -> Table:
    """Counts by class and split; at most the ten largest and smallest classes."""
    splits = report["splits"]
    table = Table("class", *splits, "weight", title="Samples", title_justify="left")
    for column in table.columns[1:]:
        column.justify = "right"
    by_count = sorted(report["classes"].items(), key=lambda item: -item[1]["train"])
    few = len(by_count) <= 2 * MAX_ROWS
    for name, row in report["classes"].items() if few else by_count[:MAX_ROWS]:
        _add_counts(table, name, [row[split] for split in splits], row["weight"])
    if not few:
        table.add_row(f"… {len(by_count) - 2 * MAX_ROWS} more …")
        for name, row in by_count[-MAX_ROWS:]:
            _add_counts(table, name, [row[split] for split in splits], row["weight"])
    table.add_section()
    _add_counts(table, "all", list(splits.values()), None)
    return table


def _add_counts(table: Table, name: str, counts: list[int], weight: float | None) -> None:
    table.add_row(_text(name), *(f"{count:,}" for count in counts), "" if weight is None else f"{weight:.3g}")


def _duplicates_table(kind: str, groups: list[dict[str, Any]]) -> Table:
    """Groups of duplicates; label conflicts first, then those across splits."""
    across = sum(group["across_splits"] for group in groups)
    conflicts = sum(group["label_conflict"] for group in groups)
    title = f"{len(groups)} groups of {kind} duplicates: {across} across splits, {conflicts} with label conflicts"
    table = Table("files", "", title=title, title_justify="left", show_lines=True)
    groups = sorted(groups, key=lambda group: (not group["label_conflict"], not group["across_splits"]))
    for group in groups[:MAX_ROWS]:
        table.add_row(_file_names(group["files"]), _remark(group))
    return table


def _unusual_table(unusual: dict[str, list[dict[str, Any]]]) -> Table:
    """Unusual images by kind; the most unusual of each are named."""
    table = Table("", "images", Column("", overflow="fold"), title="Unusual images", title_justify="left")
    for kind, images in unusual.items():
        if images:
            table.add_row(kind, f"{len(images):,}", _file_names(images))
    return table


def shortcut_lines(shortcuts: list[dict[str, Any]], class_names: Sequence[str]) -> Iterator[str]:
    """One line for each statistic that tells classes apart, by descending accuracy."""
    for shortcut in sorted(shortcuts, key=lambda shortcut: -shortcut["accuracy"]):
        statistic = shortcut["statistic"]
        if shortcut["tells_apart"]:
            classes = " from ".join(class_names) if len(class_names) == 2 else "the classes apart"
            scores = f"{shortcut['accuracy']:.2f} (the largest class: {shortcut['majority']:.2f})"
            yield f"{statistic} alone tells {classes}: accuracy {scores}"
        elif shortcut["classes"]:
            yield f"{statistic} alone tells {', '.join(shortcut['classes'])} from all others"


def _text(names: str) -> Text:
    """Text without markup."""
    return Text(printable(names))


def _is_truncated(report: dict[str, Any]) -> bool:
    tables = [report["unreadable"], report["duplicates"]["exact"], report["duplicates"]["near"] or []]
    if any(len(images) > 4 for images in report.get("unusual", {}).values()):
        return True
    return any(len(table) > MAX_ROWS for table in tables) or len(report["classes"]) > 2 * MAX_ROWS


def _file_names(files: list[dict[str, str]]) -> Text:
    shown = files if len(files) <= 4 else files[:3]
    lines = [f"{file['file']} ({file['split']}, {file['class']})" for file in shown]
    if len(files) > len(shown):
        lines.append(f"and {len(files) - len(shown)} more")
    return Text("\n").join(map(_text, lines))


def _remark(group: dict[str, Any]) -> Text:
    lines = []
    if group["label_conflict"]:
        lines.append(Text("label conflict", "bold red"))
    if group["across_splits"]:
        lines.append(Text("across splits", "yellow"))
    if group.get("byte_identical"):
        lines.append(Text("identical files"))
    if "similarity" in group:
        lines.append(Text(f"similarity {group['similarity']:.3f}"))
    return Text("\n").join(lines)


def _statistics(report: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and values for the table of statistics."""
    imbalance, decoded = report["imbalance"], report["decoded"]
    ratio = "∞" if imbalance["ratio"] is None else f"{imbalance['ratio']:.3g}"
    yield "largest : smallest class", f"{imbalance['largest']} : {imbalance['smallest']} = {ratio}"
    yield "input shape", " × ".join(map(str, report["input"]["shape"]))
    yield "channel mean", "  ".join(f"{value:.4f}" for value in report["input"]["mean"])
    yield "channel std", "  ".join(f"{value:.4f}" for value in report["input"]["std"])
    yield "decoded size", f"{_size(decoded['bytes'])} ({_size(decoded['free_memory'])} of memory free)"
    yield "cache entry", decoded["cache_entry"] or "none"
    if "decoding" not in report:
        return
    for side in ("height", "width"):
        yield side, "{min} to {max}, median {median:g}".format(**report["sizes"][side])
    most_common = report["sizes"]["most_common"]
    yield "most common sizes", "  ".join(f"{size['height']}×{size['width']}: {size['count']:,}" for size in most_common)
    for kind in ("modes", "formats"):
        yield kind, "  ".join(f"{name}: {count:,}" for name, count in report[kind].items())
    milliseconds = 1000 * report["decoding"]["seconds_per_image"]
    total = report["decoding"]["total_seconds"]
    yield "decoding time", f"{milliseconds:.2g} ms per image on one core, {total:.3g} s in total"


def _size(count: float) -> str:
    """Bytes in MiB or GiB."""
    return f"{count / 2**30:,.1f} GiB" if count >= 2**30 else f"{count / 2**20:,.1f} MiB"


def draw_sheet(splits: dict[str, Split], class_names: Sequence[str], path: Path) -> None:
    """Saves a contact sheet with up to three images per class and split.

    A strip for each of the first 200 classes. The strips are arranged in columns that make the sheet roughly square;
    images are evenly spaced over their class.
    """
    class_names = class_names[:MAX_CLASSES]
    strip_width = len(splits) * SPLIT_WIDTH + 2 * MARGIN
    num_columns = max(1, round(np.sqrt(len(class_names) * STRIP_HEIGHT / strip_width)))
    num_rows = -(-len(class_names) // num_columns)
    size = (num_columns * strip_width, num_rows * STRIP_HEIGHT + HEADING)
    corners = [
        (label // num_columns * STRIP_HEIGHT + 2 * HEADING, label % num_columns * strip_width)
        for label in range(len(class_names))
    ]
    sheet = _draw_names(size, class_names, list(splits), corners, num_columns)
    for number, samples in enumerate(splits.values()):
        chosen = _choose_samples(samples.labels.numpy(), len(class_names))
        for label, images in zip(chosen, samples.read(chosen.values()), strict=True):
            top, left = corners[label]
            for i, image in enumerate(images.numpy()):
                tile = _tile(image)
                x = left + MARGIN + number * SPLIT_WIDTH + i * TILE
                sheet[top : top + tile.shape[0], x : x + tile.shape[1]] = tile
    Image.fromarray(sheet).save(path)


def _draw_names(
    size: tuple[int, int], classes: Sequence[str], splits: list[str], corners: list[tuple[int, int]], num_columns: int
) -> np.ndarray:
    """A sheet with the names of splits and classes: uint8 `[height, width, 3]`."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    figure = Figure(figsize=(width / 100, height / 100), dpi=100)
    canvas = FigureCanvasAgg(figure)
    axes = figure.add_axes((0, 0, 1, 1), xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    for name, (top, left) in zip(classes, corners, strict=True):
        axes.text(left + MARGIN, top - 4, _text(name).plain, fontsize=9, parse_math=False)
    for number, split in enumerate(splits):
        for _, left in corners[:num_columns]:
            axes.text(left + MARGIN + number * SPLIT_WIDTH, HEADING - 4, split, fontsize=8, color="#777777")
    with warnings.catch_warnings(action="ignore"):  # about glyphs that the font lacks
        canvas.draw()
    return np.array(canvas.buffer_rgba())[:, :, :3]


def _choose_samples(labels: np.ndarray, num_classes: int) -> dict[int, np.ndarray]:
    """Up to three evenly spaced positions of each class that occurs in `labels`."""
    chosen = {}
    for label in range(num_classes):
        positions = np.flatnonzero(labels[:, label] if labels.ndim == 2 else labels == label)
        if len(positions):
            step = max(1, len(positions) // SAMPLES_PER_SPLIT)
            chosen[label] = positions[::step][:SAMPLES_PER_SPLIT]
    return chosen


def _tile(pixels: np.ndarray) -> np.ndarray:
    """Scales an image to fit a tile: uint8 `[C, H, W]` → `[h, w, 3]`."""
    height, width = pixels.shape[1:]
    longer = max(height, width)
    side = TILE - 2  # a gap between tiles
    size = (max(1, side * width // longer), max(1, side * height // longer))
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)).convert("RGB")
    resampling = Image.Resampling.NEAREST if longer <= side else Image.Resampling.BOX
    return np.asarray(image.resize(size, resampling))
