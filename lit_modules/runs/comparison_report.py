"""task=compare: a comparison of runs on the console, as CSV, Markdown and a chart."""

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from conf.errors import UserError
from conf.files import make_output, write_durably, write_table, write_text
from conf.text import printable
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.runs import comparison
from lit_modules.runs.comparison_tests import pair_records, split_records

TAGS = ("val/f1", "test/f1", "test/acc")
NOTES = {
    "Runs": "Brackets: 95 % confidence intervals: accuracy by Wilson, F1 by the bootstrap over the images.",
    "Configs": "Mean ± standard deviation over runs that differ only in the seed or the split.",
    "Metrics": "Those of lit_module/metrics, likewise; – if no run of a config has one.",
    "Settings": "Settings that differ between configs; – if a config lacks one.",
    "Pairs": "Paired tests of each run against the best run by val/f1, on the same test images. Between equally good "
    "networks, 5 % of tests give p < 0.05. A test compares two networks; comparing configs requires several seeds.",
    "Splits": "Corrected resampled t-test (C. Nadeau and Y. Bengio 2003) of each config against that of the best run, "
    "on the splits that both were tested on: the usual t-test finds too many differences, as training splits overlap.",
}
CURVE = "datamodule.train_fraction"
ABOUT_CURVE = "Bars: standard deviation over runs; of a single run, its 95 % confidence interval."

Record = dict[str, Any]
Rows = list[list[str]]


def compare(runs: Any, output: Path | None) -> None:
    """Prints a comparison of runs, and writes it to a folder as CSV, Markdown and a chart.

    Runs are sorted by validation F1, and the first is the reference of the paired tests, so that test data select
    nothing.

    Args:
        runs: see `comparison.find`.
        output: folder; None writes nothing.

    Raises:
        UserError: after all that, a folder is no run, or its files are invalid.
    """
    folders = comparison.find(runs)
    parent = os.path.commonpath([folder.absolute() for folder in folders]) if len(folders) > 1 else folders[0].parent
    read_runs = [comparison.read(folder, os.path.relpath(folder.absolute(), parent)) for folder in folders]
    wrong = [f"{folder}: {run.remark}" for folder, run in zip(folders, read_runs, strict=True) if run.is_wrong]
    read_runs.sort(key=lambda run: run.summary.get("val/f1", -1.0), reverse=True)
    differing = comparison.name_configs(read_runs)
    records = {"runs": comparison.run_records(read_runs), "configs": comparison.config_records(read_runs, differing)}
    records |= {"pairs": pair_records(read_runs), "splits": split_records(read_runs)}
    show(records, differing)
    if output:
        write(output, records, differing)
    if wrong:
        more = f" (and {len(wrong) - 1} more)" if len(wrong) > 1 else ""
        raise UserError(f"{wrong[0]}{more}; leave it out")


def tables(records: dict[str, list[Record]], differing: list[str]) -> dict[str, Rows]:
    """Formatted tables by title, each a heading and its rows; empty tables are omitted.

    Args:
        records: `runs`, `configs`, `pairs` and `splits`.
        differing: settings.
    """
    runs, configs = records["runs"], records["configs"]
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
        + [_pair(row) for row in records["pairs"]],
        "Splits": [["config", "reference", "splits", "accuracy difference", "p", "F1 difference", "p (corrected t)"]]
        + [_split(row) for row in records["splits"]],
    }
    return {title: rows for title, rows in by_title.items() if len(rows) > 1}


def _metric_tags(configs: list[Record]) -> list[str]:
    """Tags of the metrics that configs add, such as test/mcc."""
    tags = [key.removesuffix("/mean") for row in configs[:1] for key in row if key.endswith("/mean")]
    return [tag for tag in tags if not tag.endswith(("/acc", "/f1"))]


def _pair(row: Record) -> list[str]:
    if row["remark"]:
        return [row["run"], row["reference"], row["remark"], "", "", ""]
    interval = _difference(row, "f1")
    only_correct = f"{row['only run right']} : {row['only reference right']} of {row['images']}"
    mcnemar, bootstrap = f"{row['acc/p (McNemar)']:.2g}", f"{row['f1/p (bootstrap)']:.2g}"
    return [row["run"], row["reference"], only_correct, mcnemar, interval, bootstrap]


def _split(row: Record) -> list[str]:
    cells = [row["config"], row["reference"], str(row["splits"])]
    for score in ("acc", "f1"):
        cells += [_difference(row, score), f"{row[f'{score}/p (corrected t)']:.2g}"]
    return cells


def _difference(row: Record, score: str) -> str:
    low, high = row[f"{score}/difference/low"], row[f"{score}/difference/high"]
    return f"{row[f'{score}/difference']:+.4f} [{low:+.4f}, {high:+.4f}]"


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


def show(records: dict[str, list[Record]], differing: list[str]) -> None:
    """Prints the tables to the console."""
    console = Console()
    for title, (heading, *rows) in tables(records, differing).items():
        table = Table(*heading, title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
        for column in table.columns:
            column.overflow = "fold"
        for row in rows:
            table.add_row(*(Text(printable(cell)) for cell in row))  # Text: brackets are not markup
        console.print(table)
        console.print(NOTES[title] + "\n", style="dim", highlight=False)


def write(folder: Path, records: dict[str, list[Record]], differing: list[str]) -> None:
    """Writes a CSV file for each kind of record (full precision), report.md, and figures."""
    make_output(folder)
    for name, rows_of_table in records.items():
        write_table(folder / f"{name}.csv", rows_of_table)
    sections = []
    for title, rows in tables(records, differing).items():
        sections += [f"## {title}", markdown_table(rows[0], rows[1:]), NOTES[title]]
    sections.append("![scores](scores.png)")
    draw(records["runs"], folder / "scores.png")
    if CURVE in differing:
        sections += ["## Learning curve", "![learning curve](learning_curve.png)", ABOUT_CURVE]
        draw_learning_curve(records, differing, folder / "learning_curve.png")
    write_text(folder / "report.md", "\n\n".join(["# Comparison of runs", *sections]) + "\n")
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


def draw_learning_curve(records: dict[str, list[Record]], differing: list[str], path: Path) -> None:
    """Plots test scores by the number of training samples; a line for configs that differ in nothing else."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines: dict[str, list[Record]] = {}
    for row in records["configs"]:
        if row["samples/train"] and row["test/f1/mean"] is not None:
            others = [f"{key.rpartition('.')[2]} {_text(row[key])}" for key in differing if key != CURVE]
            lines.setdefault(", ".join(others), []).append(row)
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, tag in zip(figure.subplots(1, 2), ("test/acc", "test/f1"), strict=True):
        for name, rows in lines.items():
            points = sorted(
                (row["samples/train"], row[f"{tag}/mean"], *_bar(row, tag, records["runs"])) for row in rows
            )
            samples, means, lows, highs = map(np.array, zip(*points, strict=True))
            axis.errorbar(samples, means, (means - lows, highs - means), marker="o", capsize=3, label=name)
        axis.set(xscale="log", xlabel="training samples", title=tag)
        ticks = sorted({row["samples/train"] for rows in lines.values() for row in rows})
        axis.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
        if len(lines) > 1:
            axis.legend(fontsize=8)
    with warnings.catch_warnings(action="ignore"):  # about glyphs missing from the font
        write_durably(path, lambda file: figure.savefig(file, dpi=120))


def _bar(config: Record, tag: str, runs: list[Record]) -> tuple[Any, Any]:
    """Ends of the error bar of a config."""
    mean, spread = config[f"{tag}/mean"], config[f"{tag}/std"]
    if spread is not None:
        return mean - spread, mean + spread
    run = next(row for row in runs if row["config"] == config["config"] and row[tag] is not None)
    return run.get(f"{tag}/low", run[tag]), run.get(f"{tag}/high", run[tag])
