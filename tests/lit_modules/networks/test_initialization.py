"""Kaiming initialisation has the variances of the paper, with each activation's own gain."""

import math
from collections.abc import Callable

import pytest
import torch
from scipy.integrate import quad
from torch import nn

from lit_modules.networks.initialization import gain, kaiming_init_


def preserving_gain(f: Callable[[float], float]) -> float:
    """1 / √E[f(z)²] for z ~ N(0, 1)"""
    density = quad(lambda z: f(z) ** 2 * math.exp(-z * z / 2) / math.sqrt(2 * math.pi), -12, 12, points=[0], limit=200)
    return 1 / math.sqrt(density[0])


ACTIVATIONS: dict[str, tuple[Callable[[], nn.Module], float]] = {
    "ReLU": (nn.ReLU, math.sqrt(2)),
    "LeakyReLU": (lambda: nn.LeakyReLU(0.3), math.sqrt(2 / 1.09)),
    "Tanh": (nn.Tanh, 5 / 3),
    "GELU": (nn.GELU, preserving_gain(lambda z: z * 0.5 * (1 + math.erf(z / math.sqrt(2))))),
    "SiLU": (nn.SiLU, preserving_gain(lambda z: z / (1 + math.exp(-z)))),
}
# Each layer with the number of weights that lead to an output, and that lead away from an input.
LAYERS: dict[str, tuple[Callable[[], nn.Module], int, int]] = {
    "Conv1d": (lambda: nn.Conv1d(48, 96, 5), 48 * 5, 96 * 5),
    "Conv2d": (lambda: nn.Conv2d(24, 72, 3), 24 * 9, 72 * 9),
    "Conv3d": (lambda: nn.Conv3d(12, 48, 3), 12 * 27, 48 * 27),
    "Linear": (lambda: nn.Linear(100, 300), 100, 300),
}


@pytest.mark.parametrize("mode", ["fan_in", "fan_out"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layer", LAYERS)
def test_variance_is_gain_squared_over_fan(layer: str, activation: str, mode: str) -> None:
    make_layer, fan_in, fan_out = LAYERS[layer]
    make_activation, expected_gain = ACTIVATIONS[activation]
    weights = make_layer()
    torch.manual_seed(0)

    kaiming_init_(nn.Sequential(weights, make_activation()), mode=mode)

    fan = fan_in if mode == "fan_in" else fan_out
    assert weights.weight.var().item() == pytest.approx(expected_gain**2 / fan, rel=0.05)
    assert weights.weight.mean().abs().item() < 4 * math.sqrt(expected_gain**2 / fan / weights.weight.numel())
    assert not weights.bias.any()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gain_follows_its_definition(activation: str) -> None:
    make, expected = ACTIVATIONS[activation]
    assert gain(make()) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["relu", "tanh", "sigmoid", "selu"])
def test_gain_equals_pytorchs_recommendation(name: str) -> None:
    activation = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid, "selu": nn.SELU}[name]()
    assert gain(activation) == pytest.approx(nn.init.calculate_gain(name))


def test_gain_is_that_of_the_next_activation() -> None:
    first, norm, none = nn.Conv2d(32, 64, 3, bias=False), nn.BatchNorm2d(64), nn.Linear(100, 200)
    second, last = nn.Linear(200, 300), nn.Linear(300, 200)
    torch.manual_seed(0)
    kaiming_init_(nn.Sequential(first, norm, nn.MaxPool2d(2), nn.ReLU(), none, second, nn.Tanh(), last), mode="fan_in")
    assert first.weight.var().item() == pytest.approx(2 / (32 * 9), rel=0.05)
    assert none.weight.var().item() == pytest.approx(1 / 100, rel=0.05)
    assert second.weight.var().item() == pytest.approx((5 / 3) ** 2 / 200, rel=0.05)
    assert last.weight.var().item() == pytest.approx(1 / 300, rel=0.05)
    assert (norm.weight == 1).all() and not norm.bias.any()


def test_deep_stack_preserves_activation_scale() -> None:
    net = nn.Sequential(*[layer for _ in range(20) for layer in (nn.Linear(512, 512), nn.ReLU())])
    torch.manual_seed(0)
    kaiming_init_(net, mode="fan_in")
    inputs = torch.randn(64, 512)
    with torch.no_grad():
        outputs = net(inputs)
    # A gain of 1 would halve the mean square in each of the 20 layers: 1e-6 would be left.
    assert 1 / 3 < outputs.square().mean() / inputs.square().mean() < 3


def test_same_seed_draws_the_same_weights() -> None:
    nets = [nn.Sequential(nn.Linear(10, 10), nn.GELU(), nn.Linear(10, 2)) for _ in range(2)]
    for net in nets:
        torch.manual_seed(3)
        kaiming_init_(net, mode="fan_in")
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))
