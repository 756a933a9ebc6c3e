"""The typed root of the config, and the check that every constructor node fits its constructor. Imports no torch."""

import inspect
import pkgutil
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from conf.closed_hydra import ClosedHydra
from conf.errors import UserError, nearest
from conf.settings import check_settings, check_trainer

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
DIRECTIVES = {"_target_", "_partial_", "_convert_", "_recursive_"}


@dataclass
class Fit:
    """Train, then test the best checkpoint once, unless `test` is false. With `run=DIR`: continue that run."""

    task: str = "fit"
    name: str = MISSING
    seed: int = 0
    epochs: int = MISSING
    monitor: str = "val/f1"
    mode: str = "max"
    logs_dir: str = "logs"
    run_dir: str = MISSING
    run: str | None = None
    init_from: str | None = None
    test: bool = True
    datamodule: dict[str, Any] = field(default_factory=dict)
    lit_module: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    callbacks: dict[str, dict[str, Any] | None] = field(default_factory=dict)
    logger: dict[str, dict[str, Any] | None] = field(default_factory=dict)


@dataclass
class Test(Fit):
    """Test the best checkpoint of the run `run=DIR`."""

    task: str = "test"
    run: str | None = MISSING


class Views(Enum):
    """What of a picture is predicted and averaged: itself, or itself and its mirror image."""

    none = "none"
    flip = "flip"


@dataclass
class Predict(Fit):
    """Classify pictures by the best epoch of the run `run=DIR`."""

    task: str = "predict"
    run: str | None = MISSING
    input: str = MISSING
    tta: Views = Views.none
    calibrate: bool = False
    output: str = "${run_dir}/predictions/${oc.env:LITMUS_STAMP}"


class Format(Enum):
    """Of an exported file."""

    torch_export = "torch_export"
    onnx = "onnx"
    safetensors = "safetensors"


class Input(Enum):
    """What an exported network takes: pictures as they are, or scaled to [0, 1]."""

    uint8 = "uint8"
    float = "float"


@dataclass
class Export(Fit):
    """Make the best epoch of the run `run=DIR` a file that needs no Litmus."""

    task: str = "export"
    run: str | None = MISSING
    format: Format = MISSING
    input: Input = Input.uint8
    calibrate: bool = False
    output: str = "${run_dir}/export"


@dataclass
class Inspect(Fit):
    """Look at the data and train nothing."""

    task: str = "inspect"
    output: str = "${logs_dir}/inspect/${oc.env:LITMUS_STAMP}"


@dataclass
class Tune(Fit):
    """Try learning rates from `low` to `high` and batch sizes, some steps each, and say which are sensible."""

    task: str = "tune"
    low: float = 1e-6
    high: float = 10.0
    steps: int = 100
    output: str = "${logs_dir}/tune/${oc.env:LITMUS_STAMP}"


@dataclass
class Sweep(Fit):
    """Run trials of one config, each with other values of `space`. With `run=DIR`: go on, or join those who do."""

    task: str = "sweep"
    space: dict[str, Any] = MISSING
    trials: int | None = MISSING
    workers: int = MISSING
    storage: str = MISSING
    sampler: dict[str, Any] | None = MISSING
    pruner: dict[str, Any] | None = MISSING
    overrides: list[str] = field(default_factory=list)


@dataclass
class Compare:
    """Tell finished runs apart: scores, their intervals, what differs. `runs`: a list of folders, or one glob."""

    task: str = "compare"
    runs: Any = MISSING
    output: str | None = None


TASKS: dict[str, type] = {each.task: each for each in (Fit, Test, Predict, Export, Inspect, Tune, Sweep, Compare)}


def register() -> None:
    """Makes the root schemas the options of the config group `task`, and closes Hydra's section."""
    ConfigStore.instance().store(group="hydra", name="config", node=ClosedHydra(), provider="hydra")
    for name, schema in TASKS.items():
        ConfigStore.instance().store(group="task", name=name, node=schema, package="_global_")


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
        if key in DIRECTIVES or (any_key and key not in parameters):
            continue
        if key not in parameters:
            raise UserError(f"{path}.{key}: {constructor.__name__} has no such parameter; {nearest(key, parameters)}")
        if not _fits(value, parameters[key].annotation):
            expected = " or ".join(dict.fromkeys(_describe(parameters[key].annotation)))
            raise UserError(f"{path}.{key}: {value!r} does not fit; give {expected}")


def _parameters(constructor: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(constructor, eval_str=True).parameters
    except NameError:  # annotations that only type checkers can read: their values are then accepted unseen
        return inspect.signature(constructor).parameters


def _hint(module: str, name: str) -> str:
    try:
        return nearest(name, [word for word in dir(pkgutil.resolve_name(module)) if word[0].isalpha()])
    except (AttributeError, ImportError):
        return "correct the name"


def _describe(annotation: Any) -> Iterator[str]:
    """What may be written for a parameter of this annotation, in parts."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
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
