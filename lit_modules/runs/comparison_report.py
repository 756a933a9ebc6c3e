"""Writes a comparison of runs to the console, CSV, Markdown and a chart."""

import warnings
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from conf.files import make_output, write_durably, write_table, write_text
from conf.text import printable
from lit_modules.evaluation.markdown import markdown_table

TAGS = ("val/f1", "test/f1", "test/acc")
NOTES = {
    "Runs": "Brackets: 95 % bootstrap confidence intervals (10,000 resamples of the images).",
    "Configs": "Mean ± standard deviation over runs that differ only in the seed.",
    "Metrics": "Those of lit_module/metrics, likewise; – if no run of a config has one.",
    "Settings": "Settings that differ between configs; – if a config lacks one.",
    "Pairs": "Paired tests of each run against the best run by val/f1, on the same test images. Between equally good "
    "networks, 5 % of tests give p < 0.05. A test compares two networks; comparing configs requires several seeds.",
}

Record = dict[str, Any]
Rows = list[list[str]]


def tables(runs: list[Record], configs: list[Record], pairs: list[Record], differing: list[str]) -> dict[str, Rows]:
    """Formatted tables by title, each a heading and its rows; empty tables are omitted."""
    by_title: dict[str, Rows] = {
        "Runs": [["run", "config", "seed", *TAGS, "remark"]]
        + [
            [row["run"], row["config"], _text(row["seed"]), *(_with_interval(row, tag) for tag in TAGS), row["remark"]]
            for row in runs
        ],
        "Configs": [["config", "runs", *TAGS]]
        + [
            [
                f"{row['config']} ({row['name']})" if "name" in differing else row["config"],
                str(row["runs"]),
                *(_with_spread(row, tag) for tag in TAGS),
            ]
            for row in configs
        ],
        "Metrics": [["metric", *(row["config"] for row in configs)]]
        + [[tag, *(_with_spread(row, tag) for row in configs)] for tag in _metric_tags(configs)],
        "Settings": [["setting", *(row["config"] for row in configs)]]
        + [[key, *(_text(row[key]) for row in configs)] for key in differing],
        "Pairs": [["run", "reference", "only correct", "p (McNemar)", "F1 difference", "p (bootstrap)"]]
        + [_pair(row) for row in pairs],
    }
    return {title: rows for title, rows in by_title.items() if len(rows) > 1}


def _metric_tags(configs: list[Record]) -> list[str]:
    """Tags of the metrics that configs add, such as test/mcc."""
    tags = [key.removesuffix("/mean") for row in configs[:1] for key in row if key.endswith("/mean")]
    return [tag for tag in tags if not tag.endswith(("/acc", "/f1"))]


def _pair(row: Record) -> list[str]:
    if row["remark"]:
        return [row["run"], row["reference"], row["remark"], "", "", ""]
    interval = f"{row['f1/difference']:+.4f} [{row['f1/difference/low']:+.4f}, {row['f1/difference/high']:+.4f}]"
    only_correct = f"{row['only run right']} : {row['only reference right']} of {row['images']}"
    mcnemar, bootstrap = f"{row['acc/p (McNemar)']:.2g}", f"{row['f1/p (bootstrap)']:.2g}"
    return [row["run"], row["reference"], only_correct, mcnemar, interval, bootstrap]


def _with_interval(row: Record, tag: str) -> str:
    interval = f" [{row[f'{tag}/low']:.4f}, {row[f'{tag}/high']:.4f}]" if f"{tag}/low" in row else ""
    return _text(row[tag]) + interval


def _with_spread(row: Record, tag: str) -> str:
    spread = row[f"{tag}/std"]
    return _text(row[f"{tag}/mean"]) + (f" ± {spread:.4f}" if spread is not None else "")


def _text(value: Any) -> str:
    if isinstance(value, float) and not value.is_integer():
        return f"{value:.4f}" if value >= 0.1 else f"{value:.4g}"
    return "–" if value is None else str(value)


def show(runs: list[Record], configs: list[Record], pairs: list[Record], differing: list[str]) -> None:
    """Prints the tables to the console."""
    console = Console()
    for title, (heading, *rows) in tables(runs, configs, pairs, differing).items():
        table = Table(*heading, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in table.columns:
            column.overflow = "fold"
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))  # Text: brackets are not markup
        console.print(table)
        console.print(NOTES[title] + "\n", style="dim", highlight=False)


def write(folder: Path, runs: list[Record], configs: list[Record], pairs: list[Record], differing: list[str]) -> None:
    """Writes runs.csv, configs.csv, pairs.csv (full precision), report.md and scores.png."""
    make_output(folder)
    for name, records in (("runs", runs), ("configs", configs), ("pairs", pairs)):
        write_table(folder / f"{name}.csv", records)
    sections = []
    for title, rows in tables(runs, configs, pairs, differing).items():
        sections += [f"## {title}", markdown_table(rows[0], rows[1:]), NOTES[title]]
    write_text(folder / "report.md", "\n\n".join(["# Comparison of runs", *sections, "![scores](scores.png)"]) + "\n")
    draw(runs, folder / "scores.png")
    print(printable(f"comparison saved in {folder}"))


def draw(runs: list[Record], path: Path) -> None:
    """Plots scores with confidence intervals by run, colored by config."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    scored = [row for row in reversed(runs) if row["test/f1"] is not None]
    configs = sorted({row["config"] for row in scored})
    figure = Figure(figsize=(10, 1.2 + 0.3 * max(len(scored), 3)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(TAGS), sharey=True)
    for axis, tag in zip(axes, TAGS, strict=True):
        for position, row in enumerate(scored):
            if row[tag] is None:
                continue
            ends = row.get(f"{tag}/low", row[tag]), row.get(f"{tag}/high", row[tag])
            color = f"C{configs.index(row['config']) % 10}"
            axis.plot(ends, [position, position], color=color, linewidth=2, alpha=0.5)
            axis.plot(row[tag], position, "o", color=color)
        axis.set_title(tag, fontsize=10)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(scored)), [f"{row['run']}  {row['config']}" for row in scored])
    with warnings.catch_warnings(action="ignore"):  # about glyphs missing from the font
        write_durably(path, lambda file: figure.savefig(file, dpi=120))
