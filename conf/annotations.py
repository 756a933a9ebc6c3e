"""Compares plain config values with the annotations of parameters: types, words and bounds."""

import collections.abc
import inspect
import math
import operator
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

from conf.errors import UserError

# The bounds of `annotated_types`, by attribute.
BOUNDS: dict[str, tuple[str, Callable[[Any, Any], bool]]] = {
    "ge": ("at least", operator.ge),
    "gt": ("above", operator.gt),
    "le": ("at most", operator.le),
    "lt": ("below", operator.lt),
}
PLAIN_TYPES = (str, int, float, bool, type(None), list, tuple, dict)
SEQUENCES = (list, tuple, collections.abc.Sequence)
MAX_INT = 2**63 - 1  # torch's
MAX_SHOWN = 100  # characters of a value


def check_value(key: str, value: Any, annotation: Any) -> None:
    """Raises UserError unless a plain config value has the type of an annotation, and is within its bounds."""
    if not fits(value, annotation):
        raise UserError(f"{key}: {shown(value)} does not fit; give {describe(annotation)}")
    problem = out_of_range(value, annotation)
    if problem:
        raise UserError(f"{key}: {problem}")


def fits(value: Any, annotation: Any) -> bool:
    """Whether a plain config value has the type of an annotation; unknown annotations accept all."""
    if annotation in (inspect.Parameter.empty, Any) or isinstance(annotation, str):
        return True
    if isinstance(value, dict) and "_target_" in value:
        return _takes_objects(annotation)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return fits(value, arguments[0])
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, argument) for argument in arguments)
    if origin is typing.Literal:
        return any(value == word and type(value) is type(word) for word in arguments)
    if origin in SEQUENCES:
        item = arguments[0] if arguments else Any
        return isinstance(value, list) and all(fits(element, item) for element in value)
    if origin is dict:
        return isinstance(value, dict) and all(fits(child, arguments[1]) for child in value.values())
    if annotation is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if annotation is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if isinstance(annotation, type):
        return isinstance(value, annotation)
    return origin is not collections.abc.Callable


def _takes_objects(annotation: Any) -> bool:
    """Whether a parameter takes what a `_target_` builds, and not only words, numbers, or lists of them."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return any(map(_takes_objects, arguments))
    if origin is typing.Annotated:
        return _takes_objects(arguments[0])
    return origin not in (typing.Literal, list, tuple, dict) and annotation not in PLAIN_TYPES


def describe(annotation: Any) -> str:
    """An annotation as a user may write its values."""
    return " or ".join(dict.fromkeys(_parts(annotation)))


def _parts(annotation: Any) -> Iterator[str]:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        yield from _parts(arguments[0])
    elif origin in (typing.Union, types.UnionType):
        for argument in arguments:
            yield from _parts(argument)
    elif origin is typing.Literal:
        yield from map(str, arguments)
    elif origin is collections.abc.Callable:
        yield "a _target_ with _partial_: true"
    elif origin in SEQUENCES and arguments:
        yield f"list[{' or '.join(_parts(arguments[0]))}]"
    elif origin is dict:
        yield f"dict[{', '.join(' or '.join(_parts(argument)) for argument in arguments)}]"
    elif annotation is type(None):
        yield "null"
    else:
        yield inspect.formatannotation(annotation).replace("typing.", "")


def out_of_range(value: Any, annotation: Any) -> str | None:
    """Why a number breaks the bounds of an annotation such as `Annotated[float, Interval(ge=0, le=1)]`, or None.

    Infinite numbers, and integers that torch cannot hold, are out of every range.
    """
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        problems = [out_of_range(value, part) for part in arguments if fits(value, part)]
        return problems[0] if problems and all(problems) else None
    if isinstance(value, dict) and "_target_" in value:
        return None  # a node, whose own values are checked
    if isinstance(value, list | dict):
        children = value.values() if isinstance(value, dict) else value
        part = arguments[-1] if origin in (*SEQUENCES, dict) and arguments else Any
        return next(filter(None, (out_of_range(child, part) for child in children)), None)
    if isinstance(value, float) and not math.isfinite(value):
        return f"must be a finite number, not {value}; correct it"
    if isinstance(value, int) and abs(value) > MAX_INT:
        return f"must be at most {MAX_INT}, not {shown(value)}; correct it"
    if origin is not typing.Annotated:
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


def shown(value: Any) -> str:
    """A value in an error line, shortened."""
    text = repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"
