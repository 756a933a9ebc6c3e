"""The folder of a run: lock, checkpoints, metrics.csv, summary.json."""

import csv
import json
import os
import pickle
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import Timeout
from omegaconf import DictConfig, OmegaConf

from conf.error_messages import one_line
from conf.errors import UserError
from conf.files import file_lock, read_rows, write_text
from conf.saved_config import CONF, check_unchanged
from lit_modules.runs.launcher import may_be_restarted

PACKAGES = ("torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core", "numpy", "pillow")


@contextmanager
def claim(folder: Path, cfg: DictConfig) -> Iterator[None]:
    """Locks a run's folder, which is created if needed, and writes config.yaml.

    config.yaml keeps interpolations, so that an override on resume also changes values that depend on it. If the user
    is at fault and no checkpoint was written, the folder is restored, and a new one is removed.

    Raises:
        UserError: the folder belongs to another run, is in use, or is not writable.
    """
    config = folder / "config.yaml"
    if config.exists() and not cfg.run and not may_be_restarted():
        raise UserError(f"run_dir: {folder} already contains a run; resume it with run={folder} or choose another")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    old_config = config.read_text() if config.exists() else None
    checkpoints = _checkpoint_times(folder)
    saved = cfg.copy()
    saved.run = None
    lock_file = folder / ".lock"
    held = ExitStack()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        held.enter_context(file_lock(lock_file, timeout=0))
    except Timeout as error:
        raise UserError(f"run_dir: {folder} is in use by {_owner(lock_file)}; wait for it or choose another") from error
    except OSError as error:
        raise UserError(f"run_dir: cannot write to {folder} ({error.strerror}); choose another") from error
    try:
        with suppress(PermissionError):  # Windows protects a locked file
            lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        write_text(config, OmegaConf.to_yaml(saved))
        yield
    except Exception as error:
        if one_line(error) and _checkpoint_times(folder) == checkpoints:  # a user error, and nothing to keep
            if old_config is not None:
                write_text(config, old_config)
            elif created:
                shutil.rmtree(folder)
                with suppress(OSError):  # not empty: another run uses it
                    for parent in created[1:]:
                        parent.rmdir()
            else:
                config.unlink(missing_ok=True)
        raise
    finally:
        with suppress(PermissionError):  # Windows removes it when it is released
            lock_file.unlink(missing_ok=True)
        held.close()


def _owner(lock_file: Path) -> str:
    """Name of the process that holds a run's folder."""
    try:
        return lock_file.read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # Windows protects a locked file
        return "another process"


def _checkpoint_times(folder: Path) -> dict[Path, int]:
    """Modification time in ns by checkpoint."""
    return {path: path.lstat().st_mtime_ns for path in folder.glob("checkpoints/*.ckpt")}


def resume_from(cfg: DictConfig) -> Path | None:
    """The checkpoint from which `cfg.run` resumes; None for a new run, or one that ended before its first checkpoint.

    Sets `cfg.run` if a launcher restarted the job and its folder contains a checkpoint.
    """
    folder = Path(cfg.run_dir)
    has_checkpoints = any(folder.glob("checkpoints/*.ckpt"))
    if not cfg.run and may_be_restarted() and has_checkpoints:
        cfg.run = str(folder)
    if not cfg.run:
        return None
    check_unchanged(folder, cfg)
    if not has_checkpoints and not (folder / "metrics.csv").exists():
        return None
    saved_epochs = {_epoch(path) for path in (folder / "checkpoints").glob("epoch=*.ckpt")}
    missing = saved_epochs - {int(row["epoch"]) for row in read_metrics(folder)}
    if missing:
        raise UserError(f"{folder / 'metrics.csv'}: has no row of epoch {min(missing)}; restore it from a backup")
    return newest_checkpoint(folder)


def newest_checkpoint(folder: Path) -> Path:
    """The newest readable checkpoint; skipped ones are reported on stderr.

    Raises:
        UserError: no checkpoint is readable.
    """
    checkpoints = folder / "checkpoints"
    epochs = sorted(checkpoints.glob("epoch=*.ckpt"), key=_epoch, reverse=True)
    candidates = [checkpoints / "last.ckpt", *epochs]
    problems: list[str] = []
    for path in candidates:
        problem = why_unreadable(path)
        if problem is None:
            for line in problems:
                print(f"skipped {line}", file=sys.stderr)
            return path
        if path.is_symlink() or path.exists():
            problems.append(f"{path}: {problem}")
    tried = f" ({'; '.join(problems)})" if problems else ""
    raise UserError(f"run: {folder} has no readable checkpoint{tried}; start a new run")


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint of the best epoch.

    Raises:
        UserError: it is missing or unreadable.
    """
    path = folder / "checkpoints" / "best.ckpt"
    if problem := why_unreadable(path):
        raise UserError(f"{path}: {problem}; resume the run with run={folder}")
    return path


def why_unreadable(path: Path) -> str | None:
    """The reason why a file is not a readable Litmus checkpoint; None if it is.

    Loads with `weights_only=True`, so no code in the file is executed.
    """
    import torch

    if not path.is_file():
        return "does not exist"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        return "contains code, which is not executed" if "weights_only" in str(error) else "is damaged or no checkpoint"
    return None if isinstance(checkpoint, dict) and "class_names" in checkpoint else "was not written by Litmus"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """A checkpoint as a dict of tensors and plain values; its tensors are memory-mapped."""
    import torch

    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    return checkpoint


def best_epoch(folder: Path) -> int:
    """The zero-based epoch of best.ckpt."""
    import torch

    checkpoint = torch.load(best_checkpoint(folder), map_location="cpu", weights_only=True, mmap=True)
    return int(checkpoint["epoch"])


def _epoch(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("epoch="))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv, without the columns that are empty in a row.

    Raises:
        UserError: a row is malformed.
    """
    metrics = folder / "metrics.csv"
    try:
        rows = [{name: float(value) for name, value in row.items() if value} for row in read_rows(metrics)]
        if all(row["epoch"] == int(row["epoch"]) for row in rows):
            return rows
    except (KeyError, TypeError, ValueError, csv.Error):
        pass
    raise UserError(f"{metrics}: is malformed; restore it from a backup")


def write_summary(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes summary.json: `metadata`, package versions and the git commit."""
    versions = {f"version/{package}": version(package) for package in PACKAGES}
    summary = metadata | versions | {"git_commit": _git_commit()}
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def _git_commit() -> str | None:
    command = ["git", "-C", str(CONF.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
