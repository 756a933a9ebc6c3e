"""A run's folder, the only handle on it: its saved config, its checkpoints by name, its summary."""

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
    """Holds a run's folder for this process: makes it, or takes up that of an old run, and writes config.yaml.

    Interpolations are kept in config.yaml, so that an override on resume reaches everything that depends on it. A run
    that is refused before it writes a checkpoint leaves things as they were: a new one leaves no folder.

    Raises:
        UserError: the folder belongs to another run, is in use, or cannot be written.
    """
    config = folder / "config.yaml"
    if config.exists() and not cfg.run and not may_be_restarted():
        raise UserError(f"run_dir: {folder} holds a run already; go on with it by run={folder} or choose another")
    made = [each for each in (folder, *folder.parents) if not each.exists()]
    before = config.read_text() if config.exists() else None
    checkpoints = _times(folder)
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
        if one_line(error) and _times(folder) == checkpoints:  # nothing came of it: all is left as it was
            if before is not None:
                write_text(config, before)
            elif made:
                shutil.rmtree(folder)
                with suppress(OSError):  # another run may have come into one of them
                    for parent in made[1:]:
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


def _times(folder: Path) -> dict[Path, int]:
    """When each checkpoint was written."""
    return {path: path.lstat().st_mtime_ns for path in folder.glob("checkpoints/*.ckpt")}


def resume_from(cfg: DictConfig) -> Path | None:
    """The checkpoint that the run `cfg.run` goes on from; None for a new run. A job that is started again is not new:
    where its folder holds a checkpoint, `cfg.run` becomes that folder."""
    folder = Path(cfg.run_dir)
    if not cfg.run and may_be_restarted() and any(folder.glob("checkpoints/*.ckpt")):
        cfg.run = str(folder)
    if not cfg.run:
        return None
    check_unchanged(folder, cfg)
    kept = {_epoch(path) for path in (folder / "checkpoints").glob("epoch=*.ckpt")}
    if lost := kept - {int(row["epoch"]) for row in read_metrics(folder)}:
        raise UserError(f"{folder / 'metrics.csv'}: has no row of epoch {min(lost)}; take it from a copy of the run")
    return newest_checkpoint(folder)


def newest_checkpoint(folder: Path) -> Path:
    """The newest checkpoint that can be read; what had to be passed over is named on stderr.

    Raises:
        UserError: there is none.
    """
    checkpoints = folder / "checkpoints"
    epochs = sorted(checkpoints.glob("epoch=*.ckpt"), key=_epoch, reverse=True)
    candidates = [checkpoints / "last.ckpt", *epochs]
    problems: list[str] = []
    for path in candidates:
        problem = why_unreadable(path)
        if problem is None:
            for line in problems:
                print(f"passed over {line}", file=sys.stderr)
            return path
        if path.is_symlink() or path.exists():
            problems.append(f"{path}: {problem}")
    tried = f" ({'; '.join(problems)})" if problems else ""
    raise UserError(f"run: {folder} has no checkpoint that can be read{tried}; start a new run")


def best_checkpoint(folder: Path) -> Path:
    """The checkpoint of the best epoch.

    Raises:
        UserError: it is missing or cannot be read.
    """
    path = folder / "checkpoints" / "best.ckpt"
    if problem := why_unreadable(path):
        raise UserError(f"{path}: {problem}; resume the run by run={folder}")
    return path


def why_unreadable(path: Path) -> str | None:
    """Why a file is no checkpoint of ours; None if it is one. Runs nothing that stands in it."""
    import torch

    if not path.is_file():
        return "there is no such file"
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, OSError, EOFError, KeyError, ValueError, pickle.UnpicklingError) as error:
        return "holds code, which is never run" if "weights_only" in str(error) else "is damaged or of another kind"
    return None if isinstance(found, dict) and "class_names" in found else "was not written by Litmus"


def best_epoch(folder: Path) -> int:
    """The epoch, from 0 on, of best.ckpt, which is a link, or a copy of what it led to."""
    import torch

    checkpoint = torch.load(best_checkpoint(folder), map_location="cpu", weights_only=True, mmap=True)
    return int(checkpoint["epoch"])


def _epoch(checkpoint: Path) -> int:
    return int(checkpoint.stem.removeprefix("epoch="))


def read_metrics(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.csv; what was not scored in an epoch is missing from its row.

    Raises:
        UserError: another program has changed it.
    """
    metrics = folder / "metrics.csv"
    try:
        rows = [{name: float(value) for name, value in row.items() if value} for row in read_rows(metrics)]
        if all(row["epoch"] == int(row["epoch"]) for row in rows):
            return rows
    except (KeyError, TypeError, ValueError, csv.Error):
        pass
    raise UserError(f"{metrics}: is not as it was written; take it from a copy of the run")


def write_summary(folder: Path, facts: dict[str, Any]) -> None:
    """Writes summary.json: `facts`, versions, and the commit of the code."""
    versions = {f"version/{package}": version(package) for package in PACKAGES}
    summary = facts | versions | {"git_commit": _git_commit()}
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def _git_commit() -> str | None:
    command = ["git", "-C", str(CONF.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
