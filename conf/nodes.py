"""Checks of `_target_` nodes: allowed packages, parameter names, types and ranges. Does not import torch itself."""

import importlib
import inspect
import operator
import types
import typing
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from conf.errors import UserError, nearest
from conf.renamed import TARGETS
from conf.unknown_keys import renamed_key

# A `_target_` runs code, so only these packages are allowed, by the target's name and by where it is defined.
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
# What each place takes: a class of this kind, or a function whose return annotation is one. Other classes and functions
# of an allowed package may write files.
KINDS = {
    "callbacks.*": "pytorch_lightning.callbacks.callback.Callback",
    "datamodule": "pytorch_lightning.core.datamodule.LightningDataModule",
    "lit_module": "pytorch_lightning.core.module.LightningModule",
    "lit_module.loss": "torch.nn.modules.module.Module",
    "lit_module.net": "torch.nn.modules.module.Module",
    "lit_module.optimizer": "torch.optim.optimizer.Optimizer",
    "lit_module.scheduler": "torch.optim.lr_scheduler.LRScheduler",
    "logger.*": "pytorch_lightning.loggers.logger.Logger",
    "pruner": "optuna.pruners._base.BasePruner",
    "sampler": "optuna.samplers._base.BaseSampler",
    "trainer": "pytorch_lightning.trainer.trainer.Trainer",
    "trainer.profiler": "pytorch_lightning.profilers.profiler.Profiler",
    "trainer.strategy": "pytorch_lightning.strategies.strategy.Strategy",
}
# What other places, such as a parameter of a callback, take beside these kinds.
OTHER_KINDS = (
    "lightning_fabric.plugins.environments.cluster_environment.ClusterEnvironment",
    "lightning_fabric.plugins.io.checkpoint_io.CheckpointIO",
    "lightning_fabric.plugins.precision.precision.Precision",
    "torchmetrics.metric.Metric",
)
# Packages whose classes have no common base class, or whose functions return nothing; all are harmless.
HARMLESS = ("datamodules.augment.", "lit_modules.networks.initialization.", "torch.nn.init.", "torchvision.transforms.")
# Demonstrations download data; this sampler unpickles what a study holds.
REFUSED = ("pytorch_lightning.demos.", "optuna.samplers._cmaes.")
# The bounds of `annotated_types`, by attribute.
BOUNDS = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}
PLAIN_TYPES = (str, int, float, bool, type(None), list, tuple, dict)
MAX_NAMES = 20  # in a hint
DIRECTIVES = {"_target_", "_partial_", "_convert_", "_recursive_"}


def check_nodes(cfg: Any) -> None:
    """Check every dict with a `_target_` in a plain config.

    Raises:
        UserError: a target is not allowed or does not exist, a key is not a parameter, or a value has the wrong type or
            is out of range.
    """
    for path, node in _nodes(cfg, ""):
        _check_node(path, node)


def _nodes(value: Any, path: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every dict with a `_target_`, with its dotted path."""
    if isinstance(value, dict):
        if "_target_" in value:
            yield path, value
        for key, child in value.items():
            yield from _nodes(child, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _nodes(child, f"{path}.{position}")


def _check_node(path: str, node: dict[str, Any]) -> None:
    constructor = _constructor(f"{path}._target_", str(node["_target_"]))
    _check_kind(path, str(node["_target_"]), constructor)
    parameters = _parameters(constructor)
    takes_any_key = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
    for key, value in node.items():
        if key in DIRECTIVES:
            continue
        if key not in parameters:
            if takes_any_key and not get_close_matches(key, parameters):
                continue  # the constructor passes it on
            new_key = renamed_key(f"{path}.{key}", parameters)
            if new_key:
                raise UserError(f"{path}.{key}: is called {new_key} now; rename it")
            raise UserError(f"{path}.{key}: {constructor.__name__} has no such parameter; {nearest(key, parameters)}")
        annotation = parameters[key].annotation
        if not _fits(value, annotation):
            expected = " or ".join(dict.fromkeys(_describe(annotation)))
            raise UserError(f"{path}.{key}: {value!r} does not fit; give {expected}")
        problem = out_of_range(value, annotation)
        if problem:
            raise UserError(f"{path}.{key}: {problem}")


def _constructor(key: str, target: str) -> Any:
    """The class or function that a `_target_` names."""
    if not target.startswith(PACKAGES) or "._" in target:  # names that begin with _ are private
        packages = ", ".join(package.rstrip(".") for package in PACKAGES)
        raise UserError(f"{key}: {target} is not from an allowed package; use one of {packages}")
    constructor = _resolve(target)
    if constructor is None and target in TARGETS:
        raise UserError(f"{key}: {target} is called {TARGETS[target]} now; rename it")
    if constructor is None:
        module, _, name = target.rpartition(".")
        raise UserError(f"{key}: there is no {name} in {module}; {_hint(module, name)}")
    home = f"{getattr(constructor, '__module__', '')}."
    # A class or a function of a module, never a method: load_from_checkpoint, for example, unpickles its argument.
    if not home.startswith(PACKAGES) or "." in getattr(constructor, "__qualname__", "."):
        raise UserError(f"{key}: {target} is not defined by an allowed package; name a class of one")
    return constructor


def _check_kind(path: str, target: str, constructor: Any) -> None:
    """Raises UserError if a place takes no such class."""
    home = f"{constructor.__module__}."
    section = path.partition(".")[0]
    place = path if path in KINDS else f"{section}.*" if path.count(".") == 1 else ""
    wanted = (KINDS[place],) if place in KINDS else (*KINDS.values(), *OTHER_KINDS)
    built = constructor
    if not isinstance(constructor, type):
        built = inspect.signature(constructor, eval_str=True).return_annotation
    bases = [f"{base.__module__}.{base.__qualname__}" for base in getattr(built, "__mro__", ())]
    harmless = home.startswith(HARMLESS) and place not in KINDS
    if home.startswith(REFUSED) or not (harmless or set(bases) & set(wanted)):
        kind = f"a {wanted[0].rpartition('.')[2]}" if len(wanted) == 1 else "anything that Litmus builds"
        fix = "name a class of that kind, or a function with such a return annotation"
        raise UserError(f"{path}._target_: {target} is not {kind}; {fix}")


def _resolve(target: str) -> Any:
    """The object of a dotted name; None if there is none.

    Raises:
        ImportError: a module of that name exists, but its own imports fail.
    """
    names = target.split(".")
    found: Any = importlib.import_module(names[0])
    for count, name in enumerate(names[1:], 2):
        module = ".".join(names[:count])
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not f"{module}.".startswith(f"{error.name}."):
                raise
        found = getattr(found, name, None)
    return found


def _hint(module: str, name: str) -> str:
    """The public classes and functions that a module or its submodules define."""
    names = []
    for word, value in getattr(_resolve(module), "__dict__", {}).items():
        defined_in = getattr(value, "__module__", None) or ""
        if word[0].isalpha() and f"{defined_in}.".startswith(f"{module}."):
            names.append(word)
    hint = nearest(name, names)
    return hint if hint.startswith("did you mean") or 0 < len(names) <= MAX_NAMES else "correct the name"


def _parameters(constructor: Any) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(constructor, eval_str=True).parameters
    except NameError:  # annotations that exist for type checkers only: their values are not checked
        return inspect.signature(constructor).parameters


def _fits(value: Any, annotation: Any) -> bool:
    """Whether a plain config value has the type of an annotation; unknown annotations accept all."""
    if annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, str):
        return True
    if isinstance(value, dict) and "_target_" in value:
        return _takes_objects(annotation)
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


def _takes_objects(annotation: Any) -> bool:
    """Whether a parameter takes what a `_target_` builds, and not only words, numbers, or lists of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(map(_takes_objects, arguments))
    if origin is typing.Annotated:
        return _takes_objects(arguments[0])
    return origin not in (typing.Literal, list, tuple, dict) and annotation not in PLAIN_TYPES


def _describe(annotation: Any) -> Iterator[str]:
    """The parts of an annotation, as a user may write them."""
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


def out_of_range(value: Any, annotation: Any) -> str | None:
    """Why a number breaks the bounds of an annotation such as `Annotated[float, Interval(ge=0, le=1)]`, or None."""
    if isinstance(annotation, types.UnionType) or typing.get_origin(annotation) is typing.Union:
        problems = [out_of_range(value, part) for part in typing.get_args(annotation) if _fits(value, part)]
        return problems[0] if problems and all(problems) else None
    if typing.get_origin(annotation) is not typing.Annotated or isinstance(value, dict):
        return None
    bounds: list[str] = []
    is_broken = False
    for metadata in annotation.__metadata__:
        for name, (words, holds) in BOUNDS.items():
            bound = getattr(metadata, name, None)
            if bound is not None:
                bounds.append(f"{words} {bound}")
                is_broken = is_broken or not holds(value, bound)
    return f"must be {' and '.join(bounds)}, not {value}; correct it" if is_broken else None
