"""How a finished run is read without a server: report.md with its images, and a last table on the terminal."""

import json
import os
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from rich.console import Console
from rich.table import Table
from torch import nn

from conf.files import write_durably
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.figures import history, png
from lit_modules.loggers.tensorboard import COMPARED, flatten
from lit_modules.runs import run_folder
from lit_modules.runs.predictions_csv import write_confusion, write_predictions

SCORES = {
    "loss": "loss",
    "acc": "accuracy",
    "f1": "F1, mean over classes",
    "likelihood": "likelihood, mean probability of the true class",
    "ece": "ECE, expected calibration error",
    "auc": "AUC, area under ROC, mean over classes",
    "ap": "AP, average precision, mean over classes",
}
CLASS_SCORES = ("precision", "recall", "f1", "likelihood", "auc", "ap")
MOST_ROWS = 200
FILES = ("predictions.csv", "confusion.csv", "metrics.csv", "summary.json", "config.yaml")
USES = {"train": "training", "val": "choosing the epoch", "test": "the test"}
FIGURES = {
    "mistakes": "Worst mistakes",
    "classes": "Classes",
    "confusion": "Confusion",
    "reliability": "Calibration",
    "threshold": "Threshold",
    "roc": "ROC",
    "precision_recall": "Precision and recall",
}


def finish(folder: Path, trainer: Trainer, facts: dict[str, Any], settings: dict[str, Any], command: str) -> None:
    """Fills the HPARAMS tab, writes what is kept of a finished run, and says where it lies.

    Args:
        folder: the run's.
        trainer: after the test of the best epoch.
        facts: for summary.json, which gets versions and the network's parameters too.
        settings, command: see `write_report`.
    """
    module, best_epoch = trainer.lightning_module, facts["best_epoch"]
    assert isinstance(module, LitClassifier)
    best_scores = {f"val_best/{score}": facts[f"val/{score}"] for score in COMPARED if f"val/{score}" in facts}
    for logger in trainer.loggers:
        logger.log_metrics(best_scores, step=best_epoch)
    run_folder.write_summary(folder, facts | parameter_facts(module.net))
    places = {f"best, epoch {best_epoch + 1}": folder / "model.pt", "scores": folder / "summary.json"}
    if module.evaluations:
        write_predictions(folder / "predictions.csv", module.evaluations)
        write_confusion(folder / "confusion.csv", module.evaluations)
        write_report(folder, module.evaluations, settings, command, trainer.strategy.root_device)
        places |= {"predictions": folder / "predictions.csv", "report": folder / "report.md"}
    print_scores(facts, places)


def parameter_facts(net: nn.Module) -> dict[str, Any]:
    """Counts and shapes of a network's parameters, as summary.json has them."""
    parameters = dict(net.named_parameters())
    return {
        "params/total": sum(parameter.numel() for parameter in parameters.values()),
        "params/trainable": sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad),
    } | {f"params/shape/{name}": list(parameter.shape) for name, parameter in parameters.items()}


def print_scores(scores: dict[str, float], places: dict[str, Path]) -> None:
    """The test scores and where things lie, as a table on a terminal and plain text elsewhere."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column()
    for name in SCORES:
        if f"test/{name}" in scores:
            table.add_column(name, justify="right")
    table.add_row("test", *(f"{scores[f'test/{name}']:.4f}" for name in SCORES if f"test/{name}" in scores))
    console = Console(soft_wrap=True)
    if len(table.columns) > 1:
        console.print(table)
    for name, place in places.items():
        console.print(f"{name}: {place}", highlight=False, markup=False)


def write_report(
    folder: Path, evaluations: dict[str, Evaluation], settings: dict[str, Any], command: str, device: torch.device
) -> None:
    """Writes report.md, and its images into report/.

    Args:
        folder: the run's, with its summary.json and metrics.csv.
        evaluations: of the best epoch: `test`, and `val` if there is such a split.
        settings: sections of the config.
        command: by which the run was started.
        device: on which it trained.
    """
    facts = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    epochs = run_folder.read_metrics(folder)
    test = evaluations["test"]
    for name, content in {"epochs": png(history(epochs, facts["best_epoch"])), **test.images}.items():
        _write(folder / "report" / f"{name}.png", content)

    flat = flatten(settings)
    samples = [f"{facts[f'samples/{split}']:,} for {use}" for split, use in USES.items()]
    parameters = f"{facts['params/total']:,} parameters, {facts['params/trainable']:,} of them trained"
    run = {
        "command": f"`{command}`",
        "data": f"{flat['datamodule']}: {len(test.class_names):,} classes; {', '.join(samples)}",
        "network": f"{flat['lit_module.net']}: {parameters}",
        "optimizer": f"{flat['lit_module.optimizer']}, learning rate {flat.get('lit_module.optimizer.lr', 'default')}",
        "training": f"{len(epochs)} epochs in {facts['seconds']:.1f} s, seed {facts['seed']}",
        "best epoch": f"{facts['best_epoch'] + 1}, by {facts['monitor']}; all scores are its own",
    }
    hardware = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{os.cpu_count()} CPU cores"
    environment = {
        "commit": facts["git_commit"] or "unknown",
        "hardware": hardware,
        "system": platform.platform(),
        "python": platform.python_version(),
    } | {name.removeprefix("version/"): value for name, value in facts.items() if name.startswith("version/")}
    parts = [
        f"# {facts['name']}: test accuracy {facts['test/acc']:.4f}",
        _table(
            ("", *(split for split in ("val", "test") if split in evaluations)),
            (
                (label, *(_number(facts.get(f"{split}/{score}")) for split in evaluations))
                for score, label in SCORES.items()
            ),
        ),
        f"Also: {', '.join(f'[{name}]({name})' for name in FILES)}.",
        "## The run",
        _table(("", ""), run.items()),
        "## Epochs",
        "![Loss and scores by epoch](report/epochs.png)",
        "# The test split",
    ]
    for name, title in FIGURES.items():
        if name in test.images:
            parts += [f"## {title}", f"![{title}](report/{name}.png)"]
        if name == "mistakes":
            parts.append(_mistakes(test))
        if name == "classes":
            parts.append(_classes(test))
    parts += [
        "# Environment",
        _table(("", ""), environment.items()),
        "<details><summary>All settings</summary>\n",
        _table(("setting", "value"), flat.items()),
        "</details>",
    ]
    _write(folder / "report.md", ("\n\n".join(parts) + "\n").encode("utf-8", "replace"))


def _write(path: Path, content: bytes) -> None:
    write_durably(path, lambda file: file.write(content))


def _mistakes(test: Evaluation) -> str:
    found = test.predictions
    if not len(found.mistakes):
        return "None."
    names = test.class_names
    rows = (
        (
            test.files[found.index[i]],
            names[found.true[i]],
            names[found.predicted[i]],
            _number(found.probabilities[i, found.predicted[i]]),
        )
        for i in found.mistakes
    )
    return _table(("file", "true", "predicted", "probability"), rows)


def _classes(test: Evaluation) -> str:
    table = test.classes
    order = test.lowest_first
    rows = (
        (test.class_names[i], f"{int(table['samples'][i]):,}", *(_number(table[score][i]) for score in CLASS_SCORES))
        for i in order[:MOST_ROWS]
    )
    part = f"The {MOST_ROWS} of {len(order):,} classes with the lowest F1.\n\n" if len(order) > MOST_ROWS else ""
    return part + _table(("class", "samples", *CLASS_SCORES), rows)


def _number(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.4f}"


def _table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table in Markdown."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(_cell(str(cell)) for cell in line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that neither ends a table's cell nor is taken for HTML."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
