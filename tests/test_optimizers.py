"""Parameters are frozen and grouped by patterns of their names."""

from typing import Any

import pytest
from torch import nn

from conf.errors import UserError
from lit_modules.optimizers import freeze_, parameter_groups


@pytest.fixture
def net() -> nn.Sequential:
    """0.weight, 0.bias, 1.weight, 1.bias, 2.weight, 2.bias"""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def names(net: nn.Module, group: dict[str, Any]) -> list[str]:
    known = {id(parameter): name for name, parameter in net.named_parameters()}
    return [known[id(parameter)] for parameter in group["params"]]


def test_freeze_stops_what_fits_and_nothing_else(net: nn.Sequential) -> None:
    freeze_(net, ["0.*", "*.bias"])
    trainable = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trainable == ["1.weight", "2.weight"]


def test_freeze_refuses_a_pattern_that_fits_nothing(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"lit_module\.freeze: '0\.weigth' fits no parameter; did you mean '0\.weight'"):
        freeze_(net, ["0.weigth"])


def test_without_groups_every_parameter_is_in_the_rest(net: nn.Sequential) -> None:
    (rest,) = parameter_groups(net, {})
    assert names(net, rest) == [name for name, _ in net.named_parameters()]
    assert rest.keys() == {"params", "name"}


def test_first_group_that_fits_gets_the_parameter(net: nn.Sequential) -> None:
    groups = {
        "no_decay": {"pattern": ["*.bias", "1.*"], "weight_decay": 0.0},
        "head": {"pattern": "2.*", "lr": 0.5, "weight_decay": 0.1},
    }
    rest, no_decay, head = parameter_groups(net, groups)
    assert names(net, rest) == ["0.weight"]
    assert names(net, no_decay) == ["0.bias", "1.weight", "1.bias", "2.bias"]
    assert names(net, head) == ["2.weight"]
    assert {key: value for key, value in no_decay.items() if key != "params"} == {"name": "no_decay", "weight_decay": 0}
    assert {key: value for key, value in head.items() if key not in ("params", "name")} == {
        "lr": 0.5,
        "weight_decay": 0.1,
    }


def test_frozen_parameters_are_in_no_group(net: nn.Sequential) -> None:
    freeze_(net, ["0.*"])
    groups = parameter_groups(net, {"bias": {"pattern": "*.bias", "lr": 0.1}})
    assert [names(net, group) for group in groups] == [["1.weight", "2.weight"], ["1.bias", "2.bias"]]


def test_group_without_pattern_is_refused(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"lit_module\.param_groups\.head: has no pattern"):
        parameter_groups(net, {"head": {"lr": 0.1}})


def test_group_whose_pattern_fits_nothing_is_refused(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"lit_module\.param_groups\.head\.pattern: 'haed' fits no parameter"):
        parameter_groups(net, {"head": {"pattern": "haed", "lr": 0.1}})
