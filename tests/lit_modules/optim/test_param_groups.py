"""Parameters are grouped by patterns of their names and by layers."""

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from conf.errors import UserError
from lit_modules.optim.freezing import Freezing
from lit_modules.optim.param_groups import build_optimizer, parameter_groups, split_by_layer


@pytest.fixture
def net() -> nn.Sequential:
    """0.weight, 0.bias, 1.weight, 1.bias, 2.weight, 2.bias"""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def names(net: nn.Module, group: dict[str, Any]) -> list[str]:
    known = {id(parameter): name for name, parameter in net.named_parameters()}
    return [known[id(parameter)] for parameter in group["params"]]


def test_without_groups_every_parameter_is_in_the_rest(net: nn.Sequential) -> None:
    (rest,) = parameter_groups(net, {})
    assert names(net, rest) == [name for name, _ in net.named_parameters()]
    assert rest.keys() == {"params", "name"}


def test_parameter_belongs_to_the_first_group_it_matches(net: nn.Sequential) -> None:
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
    Freezing(net, ["0.*"], unfreeze_epoch=None)
    groups = parameter_groups(net, {"bias": {"pattern": "*.bias", "lr": 0.1}})
    assert [names(net, group) for group in groups] == [["1.weight", "2.weight"], ["1.bias", "2.bias"]]


def test_group_without_pattern_is_rejected(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"lit_module\.param_groups\.head: has no pattern"):
        parameter_groups(net, {"head": {"lr": 0.1}})


def test_group_without_match_is_rejected(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"lit_module\.param_groups\.head\.pattern: 'haed' matches no parameter"):
        parameter_groups(net, {"head": {"pattern": "haed", "lr": 0.1}})


def test_layer_decay_scales_the_rate_of_each_layer() -> None:
    net = nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 2))
    groups = {"bias": {"pattern": "*.bias", "lr": 0.5}}
    optimizer = build_optimizer(net, lambda chosen: torch.optim.SGD(chosen, lr=1.0), groups, layer_decay=0.1)
    rates = {names(net, group)[0]: group["lr"] for group in optimizer.param_groups}
    assert optimizer.param_groups[0]["lr"] == 1.0  # the one that is logged
    expected = {
        "0.0.weight": 0.01,
        "0.0.bias": 0.005,
        "0.1.weight": 0.1,
        "0.1.bias": 0.05,
        "2.weight": 1,
        "2.bias": 0.5,
    }
    assert rates == pytest.approx(expected)


def test_children_of_sequentials_are_separate_layers() -> None:
    net = torchvision.models.resnet18()
    layers = split_by_layer(net, parameter_groups(net, {}))
    assert [group["depth"] for group in layers] == list(range(11))  # conv1, bn1, 4 × 2 blocks, fc
    assert names(net, layers[0]) == ["fc.weight", "fc.bias"]
    assert names(net, layers[-1]) == ["conv1.weight"]
    assert sum(len(group["params"]) for group in layers) == len(list(net.parameters()))


@pytest.mark.parametrize("option", ["capturable", "differentiable"])
def test_option_for_other_training_loops_is_rejected(net: nn.Sequential, option: str) -> None:
    with pytest.raises(UserError, match=rf"^lit_module\.optimizer\.{option}: "):
        build_optimizer(net, lambda chosen: torch.optim.Adam(chosen, **{option: True}), {}, layer_decay=1.0)
