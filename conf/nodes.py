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
# The bounds of `annotated_types`, by attribute.
BOUNDS = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}
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
