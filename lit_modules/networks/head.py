"""The head of a network, the layers that map features to logits; all others are its body."""

import torch
from torch import Tensor, nn


def head_of(net: nn.Module) -> nn.Module:
    """The layers named by `net.head_name`; else `net.head`; else the last linear layer, or the last one at all."""
    if hasattr(net, "head_name"):
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
def body_features(net: nn.Module, inputs: Tensor) -> Tensor | None:
    """What the head receives for some inputs, `[N, F]`, in eval mode; None if the logits are not just the head of it.

    Args:
        net: not changed.
        inputs: float `[N, C, *spatial]`, normalized.
    """
    head = head_of(net)
    received: list[Tensor] = []
    handle = head.register_forward_pre_hook(lambda _head, arguments: received.append(arguments[0]))
    modes = {layer: layer.training for layer in net.modules()}
    try:
        logits = net.eval().forward(inputs)  # not net(inputs), which may be compiled without the hook
    finally:
        handle.remove()
        for layer, mode in modes.items():
            layer.training = mode
    (features,) = received[:1] if len(received) == 1 else [None]
    if features is None or len(features) != len(inputs) or not torch.allclose(head(features), logits, rtol=1e-4):
        return None
    return features
