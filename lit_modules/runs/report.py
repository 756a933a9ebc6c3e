"""Results of a finished run: summary.json, report.md with figures, final console output."""

import json
import os
import platform
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from rich.console import Console
from rich.table import Table
from torch import nn

from conf.files import write_durably, write_text
from conf.text import markdown, printable
from lit_modules.callbacks.predictions import CollectPredictions
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.drawing import draw
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.figures import history, png
from lit_modules.evaluation.markdown import markdown_table
from lit_modules.evaluation.significance import CONFIDENCE, wilson
from lit_modules.loggers.tensorboard import HPARAMS_SCORES, flatten
from lit_modules.loggers.tracker import Tracker
from lit_modules.runs import run_folder
from lit_modules.runs.predictions_csv import write_confusion, write_predictions
from lit_modules.runs.restore import load_best

SCORES = {
    "loss": "loss",
    "acc": "accuracy",
    "f1": "macro F1",
    "likelihood": "likelihood (mean probability of the true class)",
    "ece": "expected calibration error (ECE)",
    "auc": "ROC AUC, macro average",
    "ap": "average precision (AP), macro average",
}
CLASS_SCORES = ("precision", "recall", "f1", "likelihood", "auc", "ap")
MAX_ROWS = 200
FEW_SAMPLES = 1000  # of which the interval is printed
MORE_SPLITS = "other splits tell more: datamodule.split_seed=0,1,2,3,4 -m"
FILES = ("predictions.csv", "confusion.csv", "metrics.csv", "summary.json", "config.yaml")
USES = {"train": "training", "val": "validation", "test": "testing"}
FIGURES = {
    "mistakes": "Worst mistakes",
    "classes": "Classes",
    "confusion": "Confusion matrix",
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
    run_folder.write_summary(folder, results | parameter_counts(module.net))
    files = {f"best model (epoch {best_epoch + 1})": folder / "model.pt", "scores": folder / "summary.json"}
    evaluations: dict[str, Evaluation] = {}
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, CollectPredictions):
            evaluations = callback.evaluations
    if evaluations:
        write_predictions(folder / "predictions.csv", evaluations)
        write_confusion(folder / "confusion.csv", evaluations)
        write_report(folder, evaluations, settings, command, trainer.strategy.root_device)
        files |= {"predictions": folder / "predictions.csv", "report": folder / "report.md"}
    artifacts = [folder / "model.pt", folder / "report.md", *sorted(folder.glob("report/*.png"))]
    for logger in trainer.loggers:
        if isinstance(logger, Tracker):
            logger.log_files(folder, [file for file in artifacts if file.exists()])
    print_scores(results, files, len(evaluations["test"].predictions.true) if "test" in evaluations else 0)


def score_best(folder: Path, trainer: Trainer, module: LitClassifier, datamodule: Any, test: bool) -> dict[str, Any]:
    """Loads the best epoch's weights and scores them; all ranks must call it.

    Args:
        folder: of the run.
        trainer: after the fit.
        module: gets the weights.
        datamodule: of the fit.
        test: whether to validate (for the predictions) and test, once.

    Returns:
        The scores of the best epoch, `best_epoch`, training `seconds` and `samples/<split>`.
    """
    best_epoch = load_best(module, folder)
    # WeightAveraging would load its last average before each evaluation.
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    trainer.callbacks = [callback for callback in callbacks if not isinstance(callback, WeightAveraging)]  # type: ignore[attr-defined]
    results: dict[str, Any] = {}
    if test and any(isinstance(callback, CollectPredictions) for callback in callbacks):
        trainer.validate(module, datamodule, verbose=False)  # for the predictions of the validation split
        results |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    if test:
        trainer.test(module, datamodule, verbose=False)
        results |= {name: float(value) for name, value in trainer.callback_metrics.items()}
    rows = run_folder.read_metrics(folder)
    best_row = next(row for row in rows if row["epoch"] == best_epoch)
    results |= {name: value for name, value in best_row.items() if "/" in name}
    results |= {f"samples/{split}": len(datamodule.files(split)) for split in ("train", "val", "test")}
    return results | {"best_epoch": best_epoch, "seconds": sum(row["seconds"] for row in rows)}


def parameter_counts(net: nn.Module) -> dict[str, Any]:
    """Parameter counts and shapes for summary.json."""
    parameters = dict(net.named_parameters())
    return {
        "params/total": sum(parameter.numel() for parameter in parameters.values()),
        "params/trainable": sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
    } | {f"params/shape/{name}": list(parameter.shape) for name, parameter in parameters.items()}


def print_scores(scores: dict[str, float], files: dict[str, Path], count: int = 0) -> None:
    """Prints the test scores, the interval of the accuracy on few samples, and the paths of the result files.

    Args:
        count: of the scored samples; 0: unknown.
    """
    names = [name for name in _labels(scores) if f"test/{name}" in scores]
    console = Console(soft_wrap=True, markup=False, emoji=False)
    if names:
        table = Table(box=None, header_style="bold", pad_edge=False)
        table.add_column(min_width=len("test"))
        for name in names:
            table.add_column(name, justify="right", min_width=max(len(name), len("0.0000")))  # nothing is cut off
        table.add_row("test", *(f"{scores[f'test/{name}']:.4f}" for name in names))
        console.print(table)
    if names and 0 < count < FEW_SAMPLES:
        interval = _interval(scores["test/acc"], count)
        console.print(f"accuracy {interval} on {count} samples; {MORE_SPLITS}", highlight=False)
    for label, path in files.items():
        console.print(printable(f"{label}: {path}"), highlight=False)


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
    images = {"epochs": png(history(epochs, summary["best_epoch"])), **draw(test)}
    for name, content in images.items():
        _write(folder / "report" / f"{name}.png", content)
    sections = [
        f"# {markdown(summary['name'])}: test accuracy {summary['test/acc']:.4f}",
        _score_table(summary, {name: len(evaluations[name].predictions.true) for name in splits}),
        f"Files: {', '.join(f'[{name}]({name})' for name in FILES)}.",
        "## Run",
        f"    {printable(command)}",  # as code
        _run_table(summary, flat_settings, len(epochs), len(test.class_names)),
        "## Training history",
        "![Loss and scores by epoch](report/epochs.png)",
        "# Test split",
        *_figure_sections(test, images),
        "# Environment",
        _environment_table(summary, device),
        "<details><summary>All settings</summary>\n",
        markdown_table(("setting", "value"), flat_settings.items()),
        "</details>",
    ]
    write_text(folder / "report.md", "\n\n".join(sections) + "\n")


def _write(path: Path, content: bytes) -> None:
    write_durably(path, lambda file: file.write(content))


def _interval(accuracy: float, count: int) -> str:
    """The interval of an accuracy on `count` samples."""
    low, high = wilson(round(accuracy * count), count)
    return f"{low:.3f} – {high:.3f} ({CONFIDENCE:.0%} interval)"


def _labels(scores: Mapping[str, Any]) -> dict[str, str]:
    """Labels of scores by name; that of a metric that the config added is its name."""
    tags = (tag.partition("/") for tag in scores)
    metrics = [name for split, _, name in tags if split in ("val", "test") and name not in SCORES]
    return SCORES | {name: name for name in metrics}


def _score_table(summary: dict[str, Any], counts: dict[str, int]) -> str:
    """The scores of each split, and the intervals of their accuracy by the counts of scored samples."""
    rows = []
    for score, label in _labels(summary).items():
        rows.append([label, *(_number(summary.get(f"{split}/{score}")) for split in counts)])
        if score == "acc":
            rows.append(["", *(_interval(summary[f"{split}/acc"], count) for split, count in counts.items())])
    return markdown_table(("", *counts), rows)


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


def _figure_sections(test: Evaluation, images: Container[str]) -> list[str]:
    """Headings and figures of the test split; the mistakes and the classes also as tables."""
    sections = []
    for name, title in FIGURES.items():
        if name in images:
            sections += [f"## {title}", f"![{title}](report/{name}.png)"]
        if name == "mistakes":
            sections.append(_mistake_table(test))
        if name == "classes":
            sections.append(_class_table(test))
    return sections


def _mistake_table(test: Evaluation) -> str:
    index, true, predicted, probabilities, mistakes = test.predictions
    if not len(mistakes):
        return "None."
    rows = []
    for i in mistakes:
        labels = test.class_names[true[i]], test.class_names[predicted[i]]
        rows.append((test.files[index[i]], *labels, _number(probabilities[i, predicted[i]])))
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
