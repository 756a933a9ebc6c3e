"""Checks a composed config before anything heavy: root values, and every `_target_` node. Imports no torch."""

import inspect
import operator
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from conf.errors import UserError, nearest
from conf.schema import TASKS, Fit

# A `_target_` runs code, so only these packages may stand there, by name and by the place of definition.
PACKAGES = (
    "datamodules.",
    "lit_modules.",
    "optuna.pruners.",
    "optuna.samplers.",
    "pytorch_lightning.",
    "torch.nn.",
    "torch.optim.",
    "torchmetrics.",
    "torchvision.models.",
    "torchvision.transforms.",
)
# The bounds of `annotated_types`, by attribute.
BOUNDS = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}
DIRECTIVES = {"_target_", "_partial_", "_convert_", "_recursive_"}


def check(cfg: DictConfig, overrides: Sequence[str] = ()) -> None:
    """Checks what composition alone lets pass: root values and every `_target_` node, and the command line's overrides
    for one that changes nothing.

    Raises:
        UserError: a value is missing, a target is not allowed, a key is not a parameter, or a value has the wrong type.
    """
    for key, value in (text.lstrip("+").split("=", 1) for text in overrides if "=" in text):
        if value.replace(" ", "") == "{}" and (there := OmegaConf.select(cfg, key)):
            fix = f"{key}=null" if "_target_" in there else f"~{key}.{next(iter(there))}"
            raise UserError(f"{key}: {{}} is added to what is there, and so changes nothing; take away by {fix}")
    schema = TASKS[cfg.task]
    known = {each.name for each in fields(schema)}
    for key in map(str, cfg):
        if key not in known:
            raise UserError(f"{key}: no such key; {nearest(key, known)}")
        if OmegaConf.is_missing(cfg, key):
            raise UserError(f"{key}: is not set; add {key}=… to the command")
        if cfg[key] == "":
            raise UserError(f"{key}: is empty; give it a value, or leave it out")
    for key in sorted(OmegaConf.missing_keys(cfg)):
        raise UserError(f"{key}: is not set; add {key}=… to the command")
    if issubclass(schema, Fit):
        check_settings(cfg)
    for path, node in _nodes(OmegaConf.to_container(cfg, resolve=True), ""):
        _check_node(path, node)
    if issubclass(schema, Fit):
        check_trainer(cfg)  # whose values are of their types now


def _nodes(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict with a `_target_` in a plain config, with its dotted path."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key, child in value.items():
            yield from _nodes(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _nodes(child, f"{path}.{position}")


def _check_node(path: str, node: dict[str, Any]) -> None:
    target = str(node["_target_"])
    if not target.startswith(PACKAGES) or "._" in target:  # what begins with _ is no library's public part
        packages = ", ".join(package.rstrip(".") for package in PACKAGES)
        raise UserError(f"{path}._target_: {target} is not from an allowed package; use one of {packages}")
    try:
        constructor = pkgutil.resolve_name(target)
    except (AttributeError, ImportError):
        module, _, name = target.rpartition(".")
        raise UserError(f"{path}._target_: there is no {name} in {module}; {_hint(module, name)}") from None
    home = f"{getattr(constructor, '__module__', '')}."
    # A class or a function of a module, never a method: load_from_checkpoint, for one, unpickles what it is given.
    if not home.startswith(PACKAGES) or "." in getattr(constructor, "__qualname__", "."):
        raise UserError(f"{path}._target_: {target} is not defined by an allowed package; name a class of one")
    parameters = _parameters(constructor)
    any_key = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in node.items():
        if key in DIRECTIVES:
            continue
        if any_key and key not in parameters and not get_close_matches(key, parameters):
            continue  # of a constructor that passes it on
        if key not in parameters:
            raise UserError(f"{path}.{key}: {constructor.__name__} has no such parameter; {nearest(key, parameters)}")
        if not _fits(value, parameters[key].annotation):
            expected = " or ".join(dict.fromkeys(_describe(parameters[key].annotation)))
            raise UserError(f"{path}.{key}: {value!r} does not fit; give {expected}")
        if problem := out_of_range(value, parameters[key].annotation):
            raise UserError(f"{path}.{key}: {problem}")


def _parameters(constructor: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(constructor, eval_str=True).parameters
    except NameError:  # annotations that only type checkers can read: their values are then accepted unseen
        return inspect.signature(constructor).parameters


def out_of_range(value: Any, annotation: Any) -> str | None:
    """Why a number breaks the bounds of an annotation such as `Annotated[float, Interval(ge=0, le=1)]`; None if not."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        problems = [out_of_range(value, part) for part in typing.get_args(annotation) if _fits(value, part)]
        return problems[0] if problems and all(problems) else None
    if typing.get_origin(annotation) is not typing.Annotated or isinstance(value, dict):
        return None
    wanted, broken = [], False
    for metadata in annotation.__metadata__:
        for name, (words, holds) in BOUNDS.items():
            bound = getattr(metadata, name, None)
            if bound is not None:
                wanted.append(f"{words} {bound}")
                broken = broken or not holds(value, bound)
    return f"must be {' and '.join(wanted)}, not {value}; correct it" if broken else None


def _hint(module: str, name: str) -> str:
    try:
        return nearest(name, [word for word in dir(pkgutil.resolve_name(module)) if word[0].isalpha()])
    except (AttributeError, ImportError):
        return "correct the name"


def _describe(annotation: Any) -> Iterator[str]:
    """What may be written for a parameter of this annotation, in parts."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _describe(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _describe(argument)
    elif origin is typing.Literal:
        yield from map(str, arguments)
    elif annotation is type(None):
        yield "null"
    else:
        yield inspect.formatannotation(annotation).replace("typing.", "")


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain config value can stand for a parameter of this annotation; unknown annotations accept all."""
    if annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, str):
        return True
    if isinstance(value, dict) and "_target_" in value:
        return True
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return _fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return value in arguments
    if origin in (list, tuple, typing.get_origin(typing.Sequence[int])):
        item = arguments[0] if arguments else Any
        return isinstance(value, list) and all(_fits(element, item) for element in value)
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(annotation, type):
        return isinstance(value, annotation)
    return origin is not dict or isinstance(value, dict)


MONITORS = [f"{split}/{score}" for split in ("train", "val") for score in ("loss", "acc", "f1", "likelihood")]
LARGEST_SEED = 2**32 - 1  # NumPy's
COUNTS = (
    "trainer.accumulate_grad_batches",
    "trainer.check_val_every_n_epoch",
    "callbacks.checkpoint.every_n_epochs",
)


def check_settings(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: a value would be found wrong, or of no effect, only after the data are read or the epochs are over.
    """
    if not 0 <= cfg.seed <= LARGEST_SEED:
        raise UserError(f"seed: must be from 0 to {LARGEST_SEED}, not {cfg.seed}; choose seed=0")
    if Path(cfg.name).is_absolute() or ".." in Path(cfg.name).parts:
        raise UserError(f"name: {cfg.name} lies outside of logs_dir; choose a plain one, or set run_dir")
    if cfg.run and Path(cfg.run_dir) != Path(cfg.run):
        raise UserError(f"run_dir: the run {cfg.run} stays in its folder; leave run_dir out, and sweep new runs only")
    if cfg.monitor not in MONITORS:
        why = "test data chooses nothing" if cfg.monitor.startswith("test/") else "there is no such score"
        raise UserError(f"monitor: {cfg.monitor}: {why}; {nearest(cfg.monitor, MONITORS)}")
    if cfg.monitor.startswith("val/") and not cfg.trainer.get("limit_val_batches", 1):
        raise UserError(f"monitor: {cfg.monitor} needs validation; set trainer.limit_val_batches or monitor=train/f1")
    if cfg.test and cfg.trainer.get("limit_test_batches", 1) == 0:
        raise UserError("trainer.limit_test_batches: 0 tests on nothing; set test=false")
    lower_is_better = cfg.monitor.endswith("loss")
    if (cfg.mode == "min") != lower_is_better or cfg.mode not in ("min", "max"):
        mode = "min" if lower_is_better else "max"
        raise UserError(f"mode: {cfg.monitor} is better when it is {mode}imal; set mode={mode}")
    for name, node in cfg.callbacks.items():
        if node and "monitor" in node and node.monitor not in MONITORS:
            raise UserError(f"callbacks.{name}.monitor: there is no such score; {nearest(node.monitor, MONITORS)}")
    for path in ("callbacks", "logger", "datamodule.augment"):
        parts = OmegaConf.select(cfg, path)
        for name, node in parts.items() if isinstance(parts, DictConfig) else ():
            if node is not None and "_target_" not in node:
                group = path.replace(".", "/")
                raise UserError(f"{path}.{name!s}: was not chosen; add it by {group}=[…,{name!s}]")


def check_trainer(cfg: DictConfig) -> None:
    """
    Raises:
        UserError: Lightning would take a value, and fail on it, or keep no epoch that could be called the best.
    """
    for key in COUNTS:
        value = OmegaConf.select(cfg, key, default=1)
        if value is not None and (not isinstance(value, int) or value < 1):
            raise UserError(f"{key}: must be 1 or more, not {value}; leave it out")
    if (cfg.trainer.get("gradient_clip_val") or 0) < 0:  # it would turn gradients round
        raise UserError(f"trainer.gradient_clip_val: must be 0 or more, not {cfg.trainer.gradient_clip_val}; try 1.0")
    interval = cfg.trainer.get("val_check_interval", 1)
    if interval is not None and (not isinstance(interval, int | float) or interval <= 0):
        raise UserError(
            f"trainer.val_check_interval: must be batches or a share of an epoch, not {interval}; leave it out"
        )
    epochs, validated = cfg.trainer.get("max_epochs") or 0, cfg.trainer.get("check_val_every_n_epoch") or 1
    if cfg.trainer.get("max_epochs") == 0:
        raise UserError("epochs: 0 trains nothing; try 1")
    if cfg.monitor.startswith("val/") and 0 < epochs < validated:
        raise UserError(f"trainer.check_val_every_n_epoch: none of {epochs} epochs is validated; lower it")
    if cfg.trainer.get("fast_dev_run"):
        raise UserError("trainer.fast_dev_run: keeps no checkpoint, which a run cannot do without; use trainer=debug")
    if cfg.trainer.get("limit_train_batches", 1) == 0:
        raise UserError("trainer.limit_train_batches: 0 trains on nothing; leave it out")
    if cfg.trainer.get("precision") in ("16-true", "bf16-true"):
        raise UserError("trainer.precision: samples come in 32 bits; use 16-mixed or bf16-mixed")
