"""Kaiming initialization with the gain of the activation that follows each layer."""

import math
from typing import Literal

import torch
from torch import nn

WEIGHT_LAYERS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
RECOMMENDED_GAINS: dict[type[nn.Module], float] = {
    nn.ReLU: nn.init.calculate_gain("relu"),
    nn.Tanh: nn.init.calculate_gain("tanh"),
    nn.Sigmoid: nn.init.calculate_gain("sigmoid"),
    nn.SELU: nn.init.calculate_gain("selu"),
}


def kaiming_init_(module: nn.Module, mode: Literal["fan_in", "fan_out"]) -> None:
    """Draws conv and linear weights from N(0, gain² / fan) and zeroes biases, in place.

    The gain is that of the first activation between this layer and the next conv or linear layer, in order of
    registration, and 1 if there is none, as after the output layer. He et al., arXiv:1502.01852, section 2.2.

    Args:
        module: the network.
        mode: fan_in preserves the variance in the forward pass, fan_out in the backward pass.
    """
    next_gain = 1.0
    for layer in reversed(list(module.modules())):
        if isinstance(layer, WEIGHT_LAYERS):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="linear")
            with torch.no_grad():
                layer.weight.mul_(next_gain)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            next_gain = 1.0
        elif type(layer).__module__ == nn.modules.activation.__name__:
            next_gain = gain(layer)


def gain(activation: nn.Module) -> float:
    """PyTorch's recommended gain if it has one; else 1 / √E[f(z)²] for z ~ N(0, 1), which preserves the variance."""
    if isinstance(activation, nn.LeakyReLU):
        return nn.init.calculate_gain("leaky_relu", activation.negative_slope)
    if type(activation) in RECOMMENDED_GAINS:
        return RECOMMENDED_GAINS[type(activation)]
    z = torch.linspace(-8, 8, 16001, device="cpu")  # also while networks are built on the meta device
    density = torch.exp(-z.double().square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        values = activation(z).double()
    return 1 / math.sqrt(float(torch.trapezoid(values.square() * density, z.double())))
