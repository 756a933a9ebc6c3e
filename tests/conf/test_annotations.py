"""Values have the types of annotations, and numbers are within their bounds."""

from collections.abc import Callable
from typing import Annotated, Any, Literal

import pytest
from annotated_types import Ge, Gt, Interval, Le

from conf.annotations import describe, fits, out_of_range, shown

NODE = {"_target_": "torch.nn.ReLU"}


@pytest.mark.parametrize(
    ("value", "annotation", "expected"),
    [
        (1, float, True),
        (True, float, False),
        (1, Literal["auto", 1, 3], True),
        (True, Literal["auto", 1, 3], False),
        (1.0, Literal["auto", 1, 3], False),
        ({"a": 1}, dict[str, int], True),
        ({"a": "x"}, dict[str, int], False),
        ({"a": {"b": 1}}, dict[str, dict[str, Any]], True),
        ({"a": 3}, dict[str, dict[str, Any]], False),
        (NODE, Callable[..., Any], True),
        (NODE, Callable[..., Any] | None, True),
        (0.5, Callable[..., Any], False),
        ("x", Callable[..., Any] | None, False),
        ({"a": 1}, Callable[..., Any], False),
        (None, Callable[..., Any] | None, True),
        (NODE, int, False),
    ],
)
def test_value_fits_an_annotation_of_its_type(value: object, annotation: Any, expected: bool) -> None:
    assert fits(value, annotation) == expected


def test_annotation_is_described_as_its_values_are_written() -> None:
    assert describe(int | list[Annotated[int, Ge(1)]] | None) == "int or list[int] or null"
    assert describe(dict[str, str | None]) == "dict[str, str or null]"
    assert describe(Callable[..., Any] | None) == "a _target_ with _partial_: true or null"


def test_bounds_of_an_annotation_are_checked() -> None:
    fraction = Annotated[float, Interval(ge=0, lt=1)]
    assert out_of_range(1, fraction) == "must be at least 0 and below 1, not 1; correct it"
    assert out_of_range(0.5, fraction) is None
    assert out_of_range(0, Annotated[int, Gt(0)] | None) == "must be above 0, not 0; correct it"
    assert out_of_range(None, Annotated[int, Gt(0)] | None) is None
    assert out_of_range(3, Annotated[int, Le(2)]) == "must be at most 2, not 3; correct it"
    sizes = list[Annotated[int, Ge(1)]] | None
    assert out_of_range([2, 0], sizes) == "must be at least 1, not 0; correct it"
    assert out_of_range({"a": -1}, dict[str, Annotated[int, Ge(0)]]) == "must be at least 0, not -1; correct it"
    assert out_of_range([2, 1], sizes) is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 2**63, 10**400])
@pytest.mark.parametrize("annotation", [float, int | float, Annotated[float, Ge(0)] | None, Any])
def test_number_that_is_none_is_out_of_every_range(value: float, annotation: Any) -> None:
    assert out_of_range(value, annotation)
    assert out_of_range({"a": [value]}, Any)
    assert out_of_range({**NODE, "a": value}, Any) is None  # checked as a node of its own


def test_long_value_is_shortened() -> None:
    assert shown([1]) == "[1]"
    assert len(shown("x" * 5_000)) == 100
