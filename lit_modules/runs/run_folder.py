"""The folder of a run: lock, config.yaml, metrics.csv, summary.json."""

import csv
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from filelock import Timeout
from omegaconf import DictConfig

from conf import saved_config
from conf.error_messages import one_line
from conf.errors import UserError
from conf.files import file_lock, read_rows, remove_folder, write_durably, write_text
from lit_modules.runs.launcher import may_be_restarted

# What a run writes before its first checkpoint.
NEW_FILES = ("config.yaml", "relabel.csv", "metrics.csv", ".lock", "*.tmp", "events.out.tfevents.*", "fit-*.txt")
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
    has_begun = any(any(folder.glob(name)) for name in ("checkpoints/*.ckpt", "metrics.csv", "trials", "folds"))
    if config.exists() and has_begun and not cfg.run and not may_be_restarted():
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
        key, fix = ("run", "copy the folder, then run=COPY") if cfg.run else ("run_dir", "choose another")
        raise UserError(f"{key}: cannot write to {folder} ({error.strerror}); {fix}") from error
    try:
        with suppress(PermissionError):  # Windows protects a locked file
            lock_file.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        _keep_new_labels(folder, saved)
        saved_config.write(config, saved)
        yield
    except Exception as error:
        if one_line(error) and _checkpoint_times(folder) == checkpoints:  # a user error, and nothing to keep
            if old_config is not None:
                write_text(config, old_config)
            elif created:
                remove_folder(folder / "checkpoints", ["*.tmp"])
                remove_folder(folder, NEW_FILES)
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


def _keep_new_labels(folder: Path, saved: DictConfig) -> None:
    """Copies datamodule.relabel into the folder: it may be edited, and a resumed run keeps its labels."""
    table, kept = saved.datamodule.get("relabel"), folder / "relabel.csv"
    if table and Path(table).resolve() != kept.resolve():
        content = Path(table).expanduser().read_bytes()
        write_durably(kept, lambda file: file.write(content))
        saved.datamodule.relabel = saved_config.KEPT_RELABEL


def _owner(lock_file: Path) -> str:
    """Name of the process that holds a run's folder."""
    try:
        return lock_file.read_text(encoding="utf-8").strip() or "another process"
    except OSError:  # Windows protects a locked file
        return "another process"


def _checkpoint_times(folder: Path) -> dict[Path, int]:
    """Modification time in ns by checkpoint, and by run of a cross-validation."""
    paths = [*folder.glob("checkpoints/*.ckpt"), *folder.glob("folds/*/")]
    return {path: path.lstat().st_mtime_ns for path in paths if path.suffix != ".log"}


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
    except (KeyError, TypeError, ValueError, OverflowError, csv.Error):
        pass
    raise UserError(f"{metrics}: is malformed; restore it from a backup")


def check_epochs(folder: Path, max_epochs: int | None) -> None:
    """Raises UserError if a run to resume has done more than `max_epochs` epochs; -1 and None: no limit."""
    done = len(read_metrics(folder))
    if max_epochs is not None and -1 < max_epochs < done:
        raise UserError(f"epochs: {done} are done already, more than {max_epochs}; set epochs={done} or more")


def write_summary(folder: Path, metadata: dict[str, Any]) -> None:
    """Writes summary.json: `metadata`, package versions and the git commit."""
    versions = {f"version/{package}": version(package) for package in PACKAGES}
    summary = metadata | versions | {"git_commit": _git_commit()}
    write_text(folder / "summary.json", json.dumps(summary, indent=2) + "\n")


def _git_commit() -> str | None:
    command = ["git", "-C", str(saved_config.CONF.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
