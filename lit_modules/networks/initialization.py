"""Kaiming initialisation of convolutions and linear layers, each with the gain of the activation that follows it."""

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
    """Draws every conv and linear weight from N(0, gain² / fan) and zeroes the biases, in place.

    The gain belongs to the activation that comes next, in order of registration, before another such layer; it is 1
    where there is none, as for the layer that gives the logits. He et al., arXiv:1502.01852, section 2.2.

    Args:
        module: the network.
        mode: fan_in keeps the variance of the forward pass, fan_out that of the gradients.
    """
    following = 1.0
    for layer in reversed(list(module.modules())):
        if isinstance(layer, WEIGHT_LAYERS):
            nn.init.kaiming_normal_(layer.weight, mode=mode, nonlinearity="linear")
            with torch.no_grad():
                layer.weight.mul_(following)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            following = 1.0
        elif type(layer).__module__ == nn.modules.activation.__name__:
            following = gain(layer)


def gain(activation: nn.Module) -> float:
    """PyTorch's recommended gain where it has one; else 1 / √E[f(z)²] for z ~ N(0, 1), which keeps the variance."""
    if isinstance(activation, nn.LeakyReLU):
        return nn.init.calculate_gain("leaky_relu", activation.negative_slope)
    if type(activation) in RECOMMENDED_GAINS:
        return RECOMMENDED_GAINS[type(activation)]
    z = torch.linspace(-8, 8, 16001)
    density = torch.exp(-z.double().square() / 2) / math.sqrt(2 * math.pi)
    with torch.no_grad():
        values = activation(z).double()
    return 1 / math.sqrt(float(torch.trapezoid(values.square() * density, z.double())))
