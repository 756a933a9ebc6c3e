"""A convolutional network of equal blocks for series (1-D), images (2-D), volumes and video (3-D)."""

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from conf.errors import UserError, nearest

# Channels last in memory: the same shapes and values, and convolutions that are faster on CPU and GPU.
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
NOT_BY_ELEMENT = {"GLU", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}


class CNN(nn.Module):
    """blocks → pooling or flattening → fully connected head, each an `nn.Sequential`.

    A block is conv → norm → pool → activation → dropout. Pooling comes before the activation: for max pooling and a
    monotone activation the numbers are the same, from fewer operations. The number of dimensions is that of the input.

    Args:
        input_shape: (C, *spatial) of a sample.
        num_classes: number of logits.
        channels: output channels of each block, so its length is the number of blocks.
        kernel_size: odd; every convolution keeps the size.
        pool: size and stride of each block's pooling, one number for all or one a block; 1 pools nothing.
        pool_type: max or avg.
        norm: batch, instance, or none.
        activation: the name of a class in `torch.nn`, such as ReLU, Tanh, GELU or SiLU.
        dropout: probability that a channel is zeroed after a block.
        head_dropout: probability that a feature is zeroed within the head.
        global_pool: avg or max over what is left of space; none flattens it instead.
        hidden: widths of fully connected layers between the features and the logits.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: list[int],
        kernel_size: int,
        pool: int | list[int],
        pool_type: Literal["max", "avg"],
        norm: Literal["batch", "instance", "none"],
        activation: str,
        dropout: float,
        head_dropout: float,
        global_pool: Literal["avg", "max", "none"],
        hidden: list[int],
    ) -> None:
        super().__init__()
        in_channels, *size = input_shape
        dimensions = spatial_dimensions(input_shape)
        pools = [pool] * len(channels) if isinstance(pool, int) else pool
        check_widths(channels, hidden)
        _check(len(channels), kernel_size, pools)
        check_probabilities(dropout=dropout, head_dropout=head_dropout)
        for stride in pools:
            size = [length // stride for length in size]
        if min(size) < 1:
            shape = "×".join(map(str, input_shape[1:]))
            raise UserError(f"lit_module.net.pool: {pools} leaves nothing of {shape}; pool less or use fewer blocks")

        conv = of_dimension("Conv", dimensions)
        pooling = of_dimension(f"{pool_type.title()}Pool", dimensions)
        normalise = None if norm == "none" else of_dimension(f"{norm.title()}Norm", dimensions)
        drop = of_dimension("Dropout", dimensions)
        activate = activation_named(activation)

        self.blocks = nn.Sequential()
        for out_channels, stride in zip(channels, pools, strict=True):
            block = sequential(
                conv=conv(in_channels, out_channels, kernel_size, padding="same", bias=normalise is None),
                norm=normalise(out_channels) if normalise else None,
                pool=pooling(stride) if stride > 1 else None,
                activation=activate(),
                dropout=drop(dropout) if dropout else None,
            )
            self.blocks.append(block)
            in_channels = out_channels

        features = in_channels
        self.features = nn.Sequential()
        if global_pool == "none":
            features *= math.prod(size)
        else:
            self.features.append(of_dimension(f"Adaptive{global_pool.title()}Pool", dimensions)(1))
        self.features.append(nn.Flatten())  # [N, C, *spatial] → [N, features], whatever the memory format

        self.head = fully_connected([features, *hidden, num_classes], activate, head_dropout)

        self.memory_format = MEMORY_FORMATS[dimensions]
        self.to(memory_format=self.memory_format)

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, *spatial]` → logits `[N, num_classes]`"""
        inputs = inputs.contiguous(memory_format=self.memory_format)
        return self.head(self.features(self.blocks(inputs)))


def sequential(**layers: nn.Module | None) -> nn.Sequential:
    """The given layers by name, without those that are None."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))


def fully_connected(widths: list[int], activate: Callable[[], nn.Module], dropout: float) -> nn.Sequential:
    """Linear layers from each width to the next: float `[N, widths[0]]` → `[N, widths[-1]]`. Between them, activation
    and dropout."""
    head = nn.Sequential()
    for features, width in pairwise(widths[:-1]):
        head.append(
            sequential(
                linear=nn.Linear(features, width),
                activation=activate(),
                dropout=nn.Dropout(dropout) if dropout else None,
            )
        )
    head.append(nn.Linear(widths[-2], widths[-1]))
    return head


def spatial_dimensions(input_shape: tuple[int, ...]) -> int:
    """1 for series, 2 for images, 3 for volumes."""
    dimensions = len(input_shape) - 1
    if dimensions not in MEMORY_FORMATS:
        raise UserError(f"lit_module.net: samples of shape {input_shape} have no 1, 2 or 3 spatial dimensions")
    return dimensions


def check_widths(channels: list[int], hidden: list[int]) -> None:
    if not channels or min(channels) < 1:
        raise UserError(f"lit_module.net.channels: {channels} is not a list of channel counts; try [32,64]")
    if hidden and min(hidden) < 1:
        raise UserError(f"lit_module.net.hidden: {hidden} is not a list of widths; try [64] or []")


def check_probabilities(**probabilities: float) -> None:
    for key, value in probabilities.items():
        if not 0 <= value < 1:
            raise UserError(f"lit_module.net.{key}: must be at least 0 and below 1, not {value}; try 0.2")


def of_dimension(name: str, dimensions: int) -> Any:
    return getattr(nn, f"{name}{dimensions}d")


def activation_named(name: str) -> type[nn.Module]:
    known = set(nn.modules.activation.__all__) - NOT_BY_ELEMENT
    if name not in known:
        raise UserError(f"lit_module.net.activation: torch.nn has no activation {name}; {nearest(name, known)}")
    return getattr(nn, name)


def _check(blocks: int, kernel_size: int, pools: list[int]) -> None:
    if len(pools) != blocks or min(pools) < 1:
        raise UserError(f"lit_module.net.pool: {pools} does not fit {blocks} blocks; give one number for all")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UserError(f"lit_module.net.kernel_size: must be odd, not {kernel_size}; try 3")
