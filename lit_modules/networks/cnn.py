"""CNN: a convolutional network for series (1-D), images (2-D), volumes and video (3-D)."""

import math
from collections import OrderedDict
from collections.abc import Callable
from itertools import pairwise
from typing import Annotated, Any, Literal

import torch
from annotated_types import Interval
from torch import Tensor, nn

from conf.errors import UserError, nearest

# Channels-last formats make convolutions faster on CPU and GPU.
MEMORY_FORMATS = {1: torch.contiguous_format, 2: torch.channels_last, 3: torch.channels_last_3d}
# Activations that are not applied element by element.
NOT_ELEMENTWISE = {"GLU", "MultiheadAttention", "Softmax", "Softmax2d", "Softmin", "LogSoftmax"}


class CNN(nn.Module):
    """blocks → global pooling or flattening → fully connected head, each an `nn.Sequential`.

    A block is conv → norm → pool → activation → dropout. Pooling before the activation takes fewer operations, with the
    same result for max pooling and monotone activations. `input_shape` determines the number of dimensions.

    Args:
        input_shape: (C, *spatial) of a sample.
        num_classes: number of logits.
        channels: output channels of each block; its length is the number of blocks.
        kernel_size: odd; convolutions preserve the spatial size.
        pool: size and stride of pooling, one number for all blocks or one per block; 1: no pooling.
        pool_type: max or avg.
        norm: batch, instance, or none.
        activation: the name of a class in `torch.nn`, such as ReLU, Tanh, GELU or SiLU.
        dropout: probability that a channel is zeroed after a block.
        head_dropout: probability that a feature is zeroed after a hidden layer of the head.
        global_pool: avg or max over the remaining spatial dimensions; none: flatten them.
        hidden: widths of the hidden layers of the head.

    Raises:
        UserError: an argument is invalid for this input.
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
        dropout: Annotated[float, Interval(ge=0, lt=1)],
        head_dropout: Annotated[float, Interval(ge=0, lt=1)],
        global_pool: Literal["avg", "max", "none"],
        hidden: list[int],
    ) -> None:
        super().__init__()
        in_channels, *size = input_shape
        dimensions = spatial_dimensions(input_shape)
        pools = [pool] * len(channels) if isinstance(pool, int) else pool
        check_widths(channels, hidden)
        check_blocks(len(channels), kernel_size, pools)
        for stride in pools:
            size = [length // stride for length in size]
        if min(size) < 1:
            shape = "×".join(map(str, input_shape[1:]))
            raise UserError(f"lit_module.net.pool: {pools} reduces {shape} to nothing; pool less or use fewer blocks")

        conv_class = layer_class("Conv", dimensions)
        pool_class = layer_class(f"{pool_type.title()}Pool", dimensions)
        norm_class = None if norm == "none" else layer_class(f"{norm.title()}Norm", dimensions)
        dropout_class = layer_class("Dropout", dimensions)
        activation_class = find_activation(activation)

        self.blocks = nn.Sequential()
        for out_channels, stride in zip(channels, pools, strict=True):
            block = sequential(
                conv=conv_class(in_channels, out_channels, kernel_size, padding="same", bias=norm_class is None),
                norm=norm_class(out_channels) if norm_class else None,
                pool=pool_class(stride) if stride > 1 else None,
                activation=activation_class(),
                dropout=dropout_class(dropout) if dropout else None,
            )
            self.blocks.append(block)
            in_channels = out_channels

        features = in_channels
        self.features = nn.Sequential()
        if global_pool == "none":
            features *= math.prod(size)
        else:
            self.features.append(layer_class(f"Adaptive{global_pool.title()}Pool", dimensions)(1))
        self.features.append(nn.Flatten())  # [N, C, *spatial] → [N, features] in any memory format

        self.head = fully_connected([features, *hidden, num_classes], activation_class, head_dropout)

        self.memory_format = MEMORY_FORMATS[dimensions]
        self.to(memory_format=self.memory_format)

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, *spatial]` → logits `[N, num_classes]`"""
        inputs = inputs.contiguous(memory_format=self.memory_format)
        return self.head(self.features(self.blocks(inputs)))


def sequential(**layers: nn.Module | None) -> nn.Sequential:
    """An `nn.Sequential` of named layers, without those that are None."""
    return nn.Sequential(OrderedDict((name, layer) for name, layer in layers.items() if layer is not None))


def fully_connected(widths: list[int], activation: Callable[[], nn.Module], dropout: float) -> nn.Sequential:
    """Linear layers with activation and dropout between them: float `[N, widths[0]]` → `[N, widths[-1]]`."""
    head = nn.Sequential()
    for in_features, out_features in pairwise(widths[:-1]):
        head.append(
            sequential(
                linear=nn.Linear(in_features, out_features),
                activation=activation(),
                dropout=nn.Dropout(dropout) if dropout else None,
            )
        )
    head.append(nn.Linear(widths[-2], widths[-1]))
    return head


def spatial_dimensions(input_shape: tuple[int, ...]) -> int:
    """The number of spatial dimensions: 1 for series, 2 for images, 3 for volumes."""
    dimensions = len(input_shape) - 1
    if dimensions not in MEMORY_FORMATS:
        problem = f"samples of shape {input_shape} do not have 1 to 3 spatial dimensions"
        raise UserError(f"lit_module.net: {problem}; use samples of shape (C, *spatial)")
    return dimensions


def check_widths(channels: list[int], hidden: list[int]) -> None:
    if not channels or min(channels) < 1:
        raise UserError(f"lit_module.net.channels: {channels} is not a list of channel counts; try [32,64]")
    if hidden and min(hidden) < 1:
        raise UserError(f"lit_module.net.hidden: {hidden} is not a list of widths; try [64] or []")


def layer_class(name: str, dimensions: int) -> Any:
    """The class of `torch.nn` for a number of dimensions, such as Conv2d."""
    return getattr(nn, f"{name}{dimensions}d")


def find_activation(name: str) -> type[nn.Module]:
    """The elementwise activation class of `torch.nn` with this name."""
    names = set(nn.modules.activation.__all__) - NOT_ELEMENTWISE
    if name not in names:
        raise UserError(f"lit_module.net.activation: torch.nn has no activation {name}; {nearest(name, names)}")
    return getattr(nn, name)


def check_blocks(blocks: int, kernel_size: int, pools: list[int]) -> None:
    if len(pools) != blocks or min(pools) < 1:
        raise UserError(f"lit_module.net.pool: {pools} does not match {blocks} blocks; give one number for all")
    if kernel_size < 1 or kernel_size % 2 == 0:
        raise UserError(f"lit_module.net.kernel_size: must be odd, not {kernel_size}; try 3")
