"""Checkpoints of a run: found, verified and loaded, without executing code."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from traceback import walk_tb
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from conf import saved_config
from conf.error_messages import one_line
from conf.errors import UserError, first_line
from lit_modules.networks.weights import FLOATS, first_difference, load_verified
from lit_modules.runs.launcher import may_be_restarted
from lit_modules.runs.run_folder import read_metrics

# Examples of what a checkpoint must hold to predict and to resume, see `misfit`.
PREDICTABLE: dict[str, Any] = {
    "class_names": [""], "input_shape": [1], "state_dict": {str: torch.zeros(1)}, "epoch": 0
}  # fmt: skip
RESUMABLE = PREDICTABLE | {
    "global_step": 0,
    "loops": {"fit_loop": {}},
    "callbacks": {str: {}},
    "optimizer_states": [{"state": {}, "param_groups": [{"params": [], "lr": None}]}],
    "lr_schedulers": [{}],
    "train_scores": {str: torch.zeros(1)},
}
FIX = "restore it from a backup, or train again"
# Lightning's module whose functions restore checkpoints.
CONNECTOR = "pytorch_lightning.trainer.connectors.checkpoint_connector"


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
    saved_config.check_unchanged(folder, cfg)
    if not has_checkpoints and not (folder / "metrics.csv").exists():
        return None
    missing = _by_epoch(folder).keys() - {int(row["epoch"]) for row in read_metrics(folder)}
    if missing:
        raise UserError(f"{folder / 'metrics.csv'}: has no row of epoch {min(missing)}; restore it from a backup")
    return newest(folder)


def newest(folder: Path) -> Path:
    """The newest intact checkpoint of a run; skipped ones are reported on stderr.

    Raises:
        UserError: no checkpoint is intact.
    """
    by_epoch = _by_epoch(folder)
    candidates = [folder / "checkpoints" / "last.ckpt", *(by_epoch[epoch] for epoch in sorted(by_epoch, reverse=True))]
    problems: list[str] = []
    for path in candidates:
        try:
            load(path, RESUMABLE)
        except ValueError as error:
            if path.is_symlink() or path.exists():
                problems.append(f"{path}: {error}")
            continue
        for line in problems:
            print(f"skipped {line}", file=sys.stderr)
        return path
    tried = f" ({'; '.join(problems)})" if problems else ""
    raise UserError(f"run: {folder} has no readable checkpoint{tried}; start a new run")


def _by_epoch(folder: Path) -> dict[int, Path]:
    """The files `epoch=NNN.ckpt` of a run."""
    paths = {path.stem.removeprefix("epoch="): path for path in (folder / "checkpoints").glob("epoch=*.ckpt")}
    return {int(number): path for number, path in paths.items() if number.isdecimal()}


def best(folder: Path) -> dict[str, Any]:
    """The checkpoint of the best epoch; its tensors are memory-mapped.

    Raises:
        UserError: it is missing, corrupt, or was not written by Litmus.
    """
    path = best_path(folder)
    try:
        return load(path, PREDICTABLE)
    except ValueError as error:
        fix = FIX if path.exists() else f"resume the run with run={folder}"
        raise UserError(f"{path}: {error}; {fix}") from error


def best_path(folder: Path) -> Path:
    """The link to the checkpoint of the best epoch."""
    return folder / "checkpoints" / "best.ckpt"


def check_weights(weights: dict[str, Tensor], expected: dict[str, Tensor], path: Path) -> None:
    """Raises UserError unless the weights of a checkpoint are those of the network, and finite."""
    difference = first_difference(weights, expected, path)
    if difference:
        raise UserError(f"run: {difference}; {FIX}")
    for name, value in weights.items():
        if value.dtype in FLOATS and not value.isfinite().all():
            raise UserError(f"{path}: {name} holds NaN or infinity; {FIX}")


def load(path: Path, example: dict[str, Any]) -> dict[str, Any]:
    """A verified checkpoint; its tensors are memory-mapped.

    Args:
        example: `PREDICTABLE` or `RESUMABLE`.

    Raises:
        ValueError: it is missing, corrupt, or was not written by Litmus; the message is the reason.
    """
    checkpoint: Any = load_verified(path)
    if not isinstance(checkpoint, dict) or "class_names" not in checkpoint:
        raise ValueError("was not written by Litmus")
    problem = misfit(checkpoint, example)
    if problem:
        raise ValueError(f"has no valid {problem}")
    mean, input_shape = checkpoint["state_dict"].get("normalize.mean"), checkpoint["input_shape"]
    if mean is None or [*mean.shape] != [*input_shape[:1], *[1] * len(input_shape[1:])] or not all(input_shape):
        raise ValueError("has no valid input_shape")
    if not checkpoint["class_names"]:
        raise ValueError("has no valid class_names")
    name = path.resolve().stem  # last.ckpt and best.ckpt are links
    if name.startswith("epoch=") and name != f"epoch={checkpoint['epoch']:03d}":
        raise ValueError("has no valid epoch")
    return checkpoint


def misfit(value: Any, example: Any, place: str = "") -> str | None:
    """The place where a nested value differs in type from an example; None if there is none.

    A dict needs the keys of the example, where `str` stands for all keys. The items of a list are compared with the
    example's first. Integers must not be negative. None stands for anything but a missing item.
    """
    is_missing = value is ...
    is_negative = isinstance(value, int) and value < 0
    if is_missing or is_negative or not (example is None or isinstance(value, type(example))):
        return place
    for key, child, child_example in _children(value, example):
        problem = misfit(child, child_example, f"{place}.{key}".lstrip("."))
        if problem is not None:
            return problem
    return None


def _children(value: Any, example: Any) -> Iterator[tuple[Any, Any, Any]]:
    """Keys, items and the example's items of a dict or a list; `...` is a missing item."""
    if isinstance(example, dict) and str in example:
        for key, item in value.items():
            yield key, item if isinstance(key, str) else ..., example[str]
    elif isinstance(example, dict):
        for key, item_example in example.items():
            yield key, value.get(key, ...), item_example
    elif isinstance(example, list) and example:
        for position, item in enumerate(value):
            yield position, item, example[0]


def check_fits(path: Path, module: Any, trainer: Any) -> None:
    """Raises UserError unless a LitClassifier and its Trainer can resume from a checkpoint that `newest` chose."""
    checkpoint = load(path, RESUMABLE)
    module.check_same_data(checkpoint)
    difference = first_difference(checkpoint["state_dict"], module.state_dict(), path)
    if difference:
        raise UserError(f"run: {difference}; {FIX}")
    loop, saved_loop = trainer.fit_loop.state_dict(), checkpoint["loops"]["fit_loop"]
    problem = misfit(saved_loop, {name: loop[name] for name in loop.keys() & saved_loop.keys()}, "loops.fit_loop")
    for name, count in {"optimizer_states": 1, "lr_schedulers": 1 if module.scheduler else 0}.items():
        if len(checkpoint[name]) != count:
            problem = name
    if problem:
        raise UserError(f"{path}: has no valid {problem}; {FIX}")


@contextmanager
def restoring(path: Path | None) -> Iterator[None]:
    """Turns an exception from Lightning's restoring of a checkpoint into a UserError; others pass.

    Args:
        path: of the checkpoint; None: there is nothing to restore.
    """
    try:
        yield
    except Exception as error:
        functions = [frame.f_code.co_name for frame, _ in walk_tb(error.__traceback__) if _is_connector(frame)]
        is_restoring = any(name.lstrip("_").startswith(("restore", "resume")) for name in functions)
        if path is None or not is_restoring or one_line(error):
            raise
        raise UserError(f"{path}: cannot be restored ({type(error).__name__}: {first_line(error)}); {FIX}") from error


def _is_connector(frame: Any) -> bool:
    return bool(frame.f_globals.get("__name__") == CONNECTOR)
