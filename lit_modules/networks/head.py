"""The head of a network, the layers that map features to logits; all others are its body."""

import torch
from torch import Tensor, nn

from conf.errors import UserError


def head_of(net: nn.Module) -> nn.Module:
    """The layers named by `net.head_name`; else `net.head`; else the last linear layer, or the last one at all.

    Raises:
        UserError: the network has several heads.
    """
    if hasattr(net, "head_name"):
        if net.head_name is None:
            raise UserError("lit_module.freeze: body: this network has several heads; give patterns of parameter names")
        return net.get_submodule(str(net.head_name))
    if isinstance(getattr(net, "head", None), nn.Module):
        return net.get_submodule("head")
    layers = [layer for layer in net.modules() if any(True for _ in layer.parameters(recurse=False))]
    return next((layer for layer in reversed(layers) if isinstance(layer, nn.Linear)), layers[-1])


def body_parameters(net: nn.Module) -> set[str]:
    """The names of all parameters but those of the head."""
    head = {id(parameter) for parameter in head_of(net).parameters()}
    return {name for name, parameter in net.named_parameters() if id(parameter) not in head}


@torch.no_grad()
def ends_with_head(net: nn.Module, inputs: Tensor) -> bool:
    """Whether the head turns a row of features of each sample into its logits, and nothing follows it.

    Args:
        net: not changed.
        inputs: float `[N, C, *spatial]`, normalized.
    """
    logits: list[Tensor] = []

    def replace(_head: nn.Module, features: tuple[Tensor, ...], output: Tensor) -> Tensor:
        logits.append(torch.randn_like(output) if features[0].ndim == 2 else output.new_zeros(0))
        return logits[-1] if features[0].ndim == 2 else output

    handle = head_of(net).register_forward_hook(replace)
    try:
        output = _evaluate(net, inputs)
    finally:
        handle.remove()
    return len(logits) == 1 and torch.equal(logits[0], output)


@torch.no_grad()
def body_features(net: nn.Module, inputs: Tensor) -> Tensor:
    """What the head receives for some inputs, `[N, F]`, in eval mode; see `ends_with_head`."""
    received: list[Tensor] = []
    handle = head_of(net).register_forward_pre_hook(lambda _head, arguments: received.append(arguments[0]))
    try:
        _evaluate(net, inputs)
    finally:
        handle.remove()
    return received[0]


def _evaluate(net: nn.Module, inputs: Tensor) -> Tensor:
    """The output in eval mode; modes are restored."""
    modes = {layer: layer.training for layer in net.modules()}
    try:
        output: Tensor = net.eval().forward(inputs)  # not net(inputs), which may be compiled without hooks
    finally:
        for layer, mode in modes.items():
            layer.training = mode
    return output
