"""Results of a finished run: summary.json, report.md with figures, final console output."""

import json
import os
import platform
from collections.abc import Container
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from torch import nn

from conf.files import write_durably, write_text
from conf.text import markdown, printable
from lit_modules.callbacks.predictions import CollectPredictions
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.activation_maps import Explained
from lit_modules.evaluation.drawing import decisive_label, draw, shown_label
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.figures import history, png
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.loggers.tensorboard import HPARAMS_SCORES, flatten
from lit_modules.loggers.tracker import Tracker
from lit_modules.runs import run_folder
from lit_modules.runs.predictions_csv import write_confusion, write_predictions
from lit_modules.runs.score_table import interval_scores, print_scores, score_table, with_interval
from lit_modules.runs.uncertainty import set_scores, threshold_scores, uncertainty_sections

CLASS_SCORES = ("precision", "recall", "f1", "likelihood", "auc", "ap")
MAX_ROWS = 200
FILES = ("predictions.csv", "confusion.csv", "metrics.csv", "summary.json", "config.yaml")
USES = {"train": "training", "val": "validation", "test": "testing"}
MAPS = (
    "What in a sample speaks for a class: yellow most, blue less, grey nothing. The maps of a sample have one scale "
    "(HiResCAM, arXiv:2011.08891)."
)
FIGURES = {
    "mistakes": "Worst mistakes",
    "maps": "Class activation maps",
    "classes": "Classes",
    "confusion": "Confusion matrix",
    "co_occurrence": "Labels that occur together",
    "reliability": "Calibration",
    "threshold": "Decision threshold",
    "roc": "ROC curves",
    "precision_recall": "Precision-recall",
}


def finish(folder: Path, trainer: Trainer, results: dict[str, Any], settings: dict[str, Any], command: str) -> None:
    """Logs the best scores, writes the result files of a finished run, and prints the scores.

    Args:
        folder: of the run.
        trainer: after the test of the best epoch.
        results: for summary.json, which also gets package versions and parameter counts.
        settings: see `write_report`.
        command: see `write_report`.
    """
    module, best_epoch = trainer.lightning_module, results["best_epoch"]
    assert isinstance(module, LitClassifier)
    scores = (*HPARAMS_SCORES, *module.metrics.names)
    available = [score for score in scores if f"val/{score}" in results]
    best_scores = {f"val_best/{score}": results[f"val/{score}"] for score in available}
    for logger in trainer.loggers:
        logger.log_metrics(best_scores, step=best_epoch)
    evaluations = evaluations_of(trainer)
    results |= interval_scores(evaluations)
    run_folder.write_summary(
        folder, results | set_scores(evaluations) | threshold_scores(evaluations) | parameter_counts(module.net)
    )
    files = {f"best model (epoch {best_epoch + 1})": folder / "model.pt", "scores": folder / "summary.json"}
    if evaluations:
        write_predictions(folder / "predictions.csv", evaluations)
        if not module.multi_label:
            write_confusion(folder / "confusion.csv", evaluations)
        write_report(folder, evaluations, settings, command, trainer.strategy.root_device)
        files |= {"predictions": folder / "predictions.csv", "report": folder / "report.md"}
    artifacts = [folder / "model.pt", folder / "report.md", *sorted(folder.glob("report/*.png"))]
    for logger in trainer.loggers:
        if isinstance(logger, Tracker):
            logger.log_files(folder, [file for file in artifacts if file.exists()])
    print_scores(results, files, len(evaluations["test"].predictions.true) if "test" in evaluations else 0)


def parameter_counts(net: nn.Module) -> dict[str, Any]:
    """Parameter counts and shapes for summary.json."""
    parameters = dict(net.named_parameters())
    return {
        "params/total": sum(parameter.numel() for parameter in parameters.values()),
        "params/trainable": sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
    } | {f"params/shape/{name}": list(parameter.shape) for name, parameter in parameters.items()}


def print_test(trainer: Trainer) -> None:
    """Prints the scores after `trainer.test`."""
    evaluations = evaluations_of(trainer)
    count = len(evaluations["test"].predictions.true) if "test" in evaluations else 0
    print_scores(trainer.callback_metrics | interval_scores(evaluations), {}, count)


def evaluations_of(trainer: Trainer) -> dict[str, Evaluation]:
    """Of the splits that were validated and tested; none if no callback keeps the predictions."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, CollectPredictions):
            return callback.evaluations
    return {}


def write_report(
    folder: Path, evaluations: dict[str, Evaluation], settings: dict[str, Any], command: str, device: torch.device
) -> None:
    """Writes report.md, and its images into report/.

    Args:
        folder: of the run, with its summary.json and metrics.csv.
        evaluations: of the best epoch: `test`, and `val` if there is a validation split.
        settings: sections of the config.
        command: that started the run.
        device: used for training.
    """
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    epochs = run_folder.read_metrics(folder)
    flat_settings = flatten(settings)
    test = evaluations["test"]
    splits = [split for split in ("val", "test") if split in evaluations]
    score, tag = ("macro F1", "test/f1") if test.is_multi_label else ("accuracy", "test/acc")
    images = {"epochs": png(history(epochs, summary["best_epoch"])), **draw(test)}
    for name, content in images.items():
        _write(folder / "report" / f"{name}.png", content)
    sections = [
        f"# {markdown(summary['name'])}: test {score} {with_interval(summary, tag)}",
        score_table(summary, splits),
        f"Files: {', '.join(f'[{name}]({name})' for name in FILES if (folder / name).exists())}.",
        "## Run",
        f"    {printable(command)}",  # as code
        _run_table(summary, flat_settings, len(epochs), len(test.class_names)),
        "## Training history",
        "![Loss and scores by epoch](report/epochs.png)",
        "# Test split",
        *figure_sections(test, images),
        *uncertainty_sections(summary, test),
        "# Environment",
        _environment_table(summary, device),
        "<details><summary>All settings</summary>\n",
        markdown_table(("setting", "value"), flat_settings.items()),
        "</details>",
    ]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def _write(path: Path, content: bytes) -> None:
    write_durably(path, lambda file: file.write(content))


def _run_table(summary: dict[str, Any], settings: dict[str, Any], epochs: int, num_classes: int) -> str:
    samples = ", ".join(f"{summary[f'samples/{split}']:,} for {use}" for split, use in USES.items())
    parameters = f"{summary['params/total']:,} parameters, {summary['params/trainable']:,} trainable"
    learning_rate = settings.get("lit_module.optimizer.lr", "default")
    rows = {
        "data": f"{settings['datamodule']}: {num_classes:,} classes; {samples}",
        "network": f"{settings['lit_module.net']}: {parameters}",
        "optimizer": f"{settings['lit_module.optimizer']}, learning rate {learning_rate}",
        "training": f"{epochs} epochs in {summary['seconds']:.1f} s, seed {summary['seed']}",
        "best epoch": f"{summary['best_epoch'] + 1}, by {summary['monitor']}; all scores are from this epoch",
    }
    return markdown_table(("", ""), rows.items())


def _environment_table(summary: dict[str, Any], device: torch.device) -> str:
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    rows = {
        "commit": summary["git_commit"] or "unknown",
        "hardware": hardware,
        "system": platform.platform(),
        "python": platform.python_version(),
    }
    versions = {name.removeprefix("version/"): value for name, value in summary.items() if name.startswith("version/")}
    return markdown_table(("", ""), (rows | versions).items())


def figure_sections(test: Evaluation, images: Container[str]) -> list[str]:
    """Headings and figures of the test split; the mistakes and the classes also as tables."""
    sections = []
    for name, title in FIGURES.items():
        if name in images:
            sections += [f"## {title}", f"![{title}](report/{name}.png)"]
        if name == "maps":
            sections += _about_maps(test)
        if name == "mistakes":
            sections.append(_mistake_table(test))
        if name == "classes":
            sections.append(_class_table(test))
    return sections


def _about_maps(test: Evaluation) -> list[str]:
    if isinstance(test.explained, Explained):
        return [MAPS]
    return [f"## {FIGURES['maps']}", f"None: {test.explained}."] if test.explained else []


def _mistake_table(test: Evaluation) -> str:
    index, true, predicted, probabilities, mistakes = test.predictions
    if not len(mistakes):
        return "None."
    rows = []
    for i in mistakes:
        labels = shown_label(true[i], test.class_names), shown_label(predicted[i], test.class_names)
        label = decisive_label(test.predictions, i)
        name = f"{test.class_names[label]} " if test.is_multi_label else ""
        rows.append((test.files[index[i]], *labels, f"{name}{_number(probabilities[i, label])}"))
    return markdown_table(("file", "true", "predicted", "probability"), rows)


def _class_table(test: Evaluation) -> str:
    """Scores of the classes, sorted by F1."""
    order = test.lowest_first
    rows = []
    for i in order[:MAX_ROWS]:
        scores = [_number(test.classes[score][i]) for score in CLASS_SCORES]
        rows.append((test.class_names[i], f"{int(test.classes['samples'][i]):,}", *scores))
    note = f"The {MAX_ROWS} of {len(order):,} classes with the lowest F1.\n\n" if len(order) > MAX_ROWS else ""
    return note + markdown_table(("class", "samples", *CLASS_SCORES), rows)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"
