"""Results of a cross-validation: summary.json, report.md with figures, the predictions of all samples."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from omegaconf import DictConfig
from rich.console import Console

from conf.files import write_durably, write_table, write_text
from conf.text import markdown, printable
from lit_modules.evaluation.drawing import draw
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.figures import png, styled
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.evaluation.predictions import MAX_MISTAKES, Predictions, error_confidence
from lit_modules.evaluation.significance import CONFIDENCE, Interval, corrected_t
from lit_modules.runs import run_folder
from lit_modules.runs.predictions_csv import read_predictions, write_confusion, write_predictions
from lit_modules.runs.report import figure_sections
from lit_modules.runs.score_table import LEVEL, MULTI_LABEL_SCORES, SCORES, console_table, digits_of, labels_of

ABOUT_MEANS = (
    f"Mean and standard deviation over the runs. The {CONFIDENCE:.0%} interval is that of the mean for other samples; "
    "it takes into account that the training splits overlap (C. Nadeau and Y. Bengio 2003)."
)
ABOUT_PREDICTIONS = (
    "Each sample is predicted once, by the run that it was the test split of; with several repeats, by the first."
)
DRAWN = ("acc", "f1", "likelihood")
ROWS = {"mean": "", "deviation": "/std", f"{LEVEL} from": "/low", "to": "/high"}


def write_fold_report(cfg: DictConfig, runs: list[Path], summaries: list[dict[str, Any]]) -> float:
    """Writes the results of a finished cross-validation into its folder, and prints the means.

    Args:
        cfg: of the study.
        runs: their folders; those of the first repeat come first.
        summaries: of the runs.

    Returns:
        The mean of the monitored score.
    """
    folder = Path(cfg.run_dir)
    scores = mean_scores(summaries)
    facts = {key: cfg[key] for key in ("name", "seed", "monitor", "folds", "repeats")}
    facts |= {"seconds": sum(summary["seconds"] for summary in summaries)}
    run_folder.write_summary(folder, scores | facts)
    rows: list[dict[str, Any]] = []
    for number, summary in enumerate(summaries):
        row = {"run": f"folds/{number:03d}", "split_seed": cfg.datamodule.split_seed + number // cfg.folds}
        row |= {"fold": number % cfg.folds, "samples": summary["samples/test"], "best_epoch": summary["best_epoch"]}
        rows.append(row | {tag: value for tag, value in summary.items() if tag in scores})
    write_table(folder / "folds.csv", rows)
    files = {"scores": folder / "summary.json", "report": folder / "report.md"}
    sections = [*_head(cfg.name, scores, rows), "![Scores by fold](report/folds.png)"]
    _write(folder / "report" / "folds.png", png(draw_folds(rows, scores)))
    if (runs[0] / "predictions.csv").exists():
        pooled = pool(runs[: cfg.folds])
        write_predictions(folder / "predictions.csv", {"test": pooled})
        if not pooled.is_multi_label:
            write_confusion(folder / "confusion.csv", {"test": pooled})
        files["predictions"] = folder / "predictions.csv"
        sections += ["# All samples", ABOUT_PREDICTIONS, *_figures(folder, pooled)]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")
    console = Console(soft_wrap=True, markup=False, emoji=False, highlight=False)
    console.print(console_table(scores, [name for name in labels_of(scores) if f"test/{name}" in scores], ROWS))
    for label, path in files.items():
        console.print(printable(f"{label}: {path}"))
    return float(np.mean([summary[cfg.monitor] for summary in summaries]))


def mean_scores(summaries: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each test score that all runs have, such as `test/acc`, with `/std`, `/low` and `/high`."""
    train, test = (np.mean([summary[f"samples/{split}"] for summary in summaries]) for split in ("train", "test"))
    scores: dict[str, float] = {}
    for name in labels_of(summaries[0]):
        tag = f"test/{name}"
        if any(tag not in summary for summary in summaries):
            continue
        values = np.array([summary[tag] for summary in summaries])
        mean, interval, _ = corrected_t(values, test / train)
        if name in SCORES | MULTI_LABEL_SCORES and name != "loss":
            interval = Interval(max(0.0, interval.low), min(1.0, interval.high))
        scores |= {tag: mean, f"{tag}/std": float(np.std(values, ddof=1))}
        scores |= {f"{tag}/low": interval.low, f"{tag}/high": interval.high}
    return scores


def pool(folders: list[Path]) -> Evaluation:
    """The test predictions of all folds; the inputs of mistakes are not kept."""
    parts = [read_predictions(folder / "predictions.csv")["test"] for folder in folders]
    files = [part.files[position] for part in parts for position in part.predictions.index.tolist()]
    true, predicted, probabilities = (
        np.concatenate([getattr(part.predictions, field) for part in parts])
        for field in ("true", "predicted", "probabilities")
    )
    confidence = error_confidence(*map(torch.from_numpy, (true, predicted, probabilities))).numpy()
    mistakes = np.argsort(-confidence, kind="stable")[: min(MAX_MISTAKES, int((confidence >= 0).sum()))]
    predictions = Predictions(np.arange(len(true)), true, predicted, probabilities, mistakes)
    return Evaluation(parts[0].class_names, files, predictions, np.zeros((0, 0), np.float32))


def _head(name: str, scores: dict[str, float], rows: list[dict[str, Any]]) -> list[str]:
    table = []
    for score, label in labels_of(scores).items():
        tag = f"test/{score}"
        if tag in scores:
            mean, std, low, high = (f"{scores[tag + end]:.{digits_of(scores, tag)}f}" for end in ROWS.values())
            table.append((label, mean, std, f"{low} – {high}"))
    by_run = []
    for row in rows:
        scored = [f"{row[f'test/{score}']:.4f}" for score in DRAWN]
        by_run.append((row["run"], row["split_seed"], row["fold"], row["samples"], row["best_epoch"] + 1, *scored))
    score, tag = ("macro F1", "test/f1") if "test/hamming" in scores else ("accuracy", "test/acc")
    digits = digits_of(scores, tag)
    return [
        f"# {markdown(name)}: mean test {score} {scores[tag]:.{digits}f} ± {scores[f'{tag}/std']:.{digits}f}",
        markdown_table(("", "mean", "standard deviation", f"{CONFIDENCE:.0%} interval"), table),
        ABOUT_MEANS,
        "## Runs",
        markdown_table(("run", "split seed", "fold", "test samples", "best epoch", *DRAWN), by_run),
    ]


def _figures(folder: Path, pooled: Evaluation) -> list[str]:
    """Draws the figures of all samples; their sections."""
    without_inputs = pooled.predictions._replace(mistakes=pooled.predictions.mistakes[:0])
    images = draw(Evaluation(pooled.class_names, pooled.files, without_inputs, pooled.mistaken_inputs))
    del images["mistakes"]
    for name, content in images.items():
        _write(folder / "report" / f"{name}.png", content)
    return ["## Worst mistakes", *figure_sections(pooled, images)]


def _write(path: Path, content: bytes) -> None:
    write_durably(path, lambda file: file.write(content))


@styled
def draw_folds(rows: list[dict[str, Any]], scores: dict[str, float]) -> Figure:
    """Scores of the runs as points, and the interval of their mean."""
    figure = Figure(figsize=(9.6, 1.2 + 0.5 * len(DRAWN)), layout="constrained")
    axes = figure.subplots()
    for position, score in enumerate(reversed(DRAWN)):
        tag = f"test/{score}"
        axes.plot([scores[f"{tag}/low"], scores[f"{tag}/high"]], [position] * 2, color="#c8d3e0", linewidth=9, zorder=1)
        axes.plot([row[tag] for row in rows], [position] * len(rows), "o", alpha=0.7, zorder=3)
        axes.plot(scores[tag], position, "|", color="black", markersize=16, markeredgewidth=2, zorder=2)
    axes.set_yticks(range(len(DRAWN)), reversed(DRAWN))
    axes.set_ylim(-0.6, len(DRAWN) - 0.4)
    axes.set_title(f"Test scores of {len(rows)} runs, their mean, and its {CONFIDENCE:.0%} interval")
    return figure
