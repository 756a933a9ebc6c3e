"""A run's folder, the only handle on it: its saved config, its checkpoints by name, its summary."""

import csv
import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, ListConfig, OmegaConf

from conf.errors import UserError

CONF = Path(__file__).parent
PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "pillow")


def base_config(arguments: list[str]) -> str:
    """The name of the config that a command line starts from: `train`, or with `run=DIR` the one saved in DIR.

    The saved sections become options of their config groups, so that overrides of values and of groups, and
    experiments, work on top of them as they do on `train`.

    Raises:
        UserError: DIR holds no saved config.
    """
    runs = [argument.partition("=")[2].strip("'\"") for argument in arguments if argument.startswith("run=")]
    if not runs or runs[-1] in ("", "null"):
        return "train"
    path = Path(runs[-1]) / "config.yaml"
    if not path.is_file():
        raise UserError(f"run: {runs[-1]} holds no config.yaml; give the folder of a run, such as logs/digits/…")
    saved = OmegaConf.load(path)
    base = OmegaConf.load(CONF / "train.yaml")
    assert isinstance(saved, DictConfig) and isinstance(base, DictConfig)
    store = ConfigStore.instance()
    for entry in base.defaults:
        if not isinstance(entry, DictConfig):
            continue
        (group,) = entry
        if group in saved and group != "task":
            store.store(group=str(group), name="saved", node=OmegaConf.to_container(saved[group]))
            entry[group] = ["saved"] if isinstance(entry[group], ListConfig) else "saved"
        elif group == "devices":  # part of the saved trainer
            store.store(group="devices", name="saved", node={}, package="trainer")
            entry[group] = "saved"
    values = {key: node for key, node in saved.items_ex(resolve=False) if not isinstance(node, DictConfig)}
    values.pop("task", None)
    merged = OmegaConf.merge(base, values, {"run_dir": runs[-1]})
    store.store(name="saved_run", node=OmegaConf.to_container(merged))
    return "saved_run"


def claim(folder: Path, cfg: DictConfig) -> None:
    """Makes the folder of a new run, or takes up that of an old one, and writes config.yaml.

    Interpolations are kept, so that an override on resume reaches everything that depends on it.

    Raises:
        UserError: the folder belongs to another run, or cannot be written.
    """
    if not cfg.run and (folder / "config.yaml").exists():
        raise UserError(f"run_dir: {folder} holds a run already; go on with it by run={folder} or choose another")
    saved = cfg.copy()
    saved.run = None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(saved))
    except OSError as error:
        raise UserError(f"run_dir: cannot write to {folder} ({error.strerror}); choose another") from error


def checkpoint(folder: Path, name: str) -> Path:
    """The path of `best` or `last`.

    Raises:
        UserError: the run has none yet.
    """
    path = folder / "checkpoints" / f"{name}.ckpt"
    if not path.is_file():
        raise UserError(f"run: {folder} has no checkpoints/{name}.ckpt; train it first")
    return path


def best_epoch(folder: Path) -> int:
    """The epoch, from 0 on, that best.ckpt stands for."""
    return int(checkpoint(folder, "best").resolve().stem.removeprefix("epoch="))


def scores_of_epoch(folder: Path, epoch: int) -> dict[str, float]:
    """The training and validation scores in an epoch's row of metrics.csv, by tag."""
    with open(folder / "metrics.csv", newline="", encoding="utf-8") as file:
        (row,) = [row for row in csv.DictReader(file) if int(row["epoch"]) == epoch]
    return {name: float(value) for name, value in row.items() if name.startswith(("train/", "val/")) and value}


def write_summary(folder: Path, facts: dict[str, Any]) -> None:
    """Writes summary.json: `facts`, versions, and the commit of the code."""
    versions = {f"version/{package}": version(package) for package in PACKAGES}
    summary = facts | versions | {"git_commit": _git_commit()}
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a sibling file and renames it, so that no reader sees half of it."""
    temporary = path.with_name(f".{path.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def _git_commit() -> str | None:
    command = ["git", "-C", str(CONF.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
