"""ResNet: a small residual network for series, images and volumes."""

import math
from typing import Annotated, Literal

from annotated_types import Ge
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.cnn import (
    MEMORY_FORMATS,
    check_widths,
    find_activation,
    fully_connected,
    layer_class,
    sequential,
    spatial_dimensions,
)


class ResNet(nn.Module):
    """stem → residual blocks → max pooling by 2 → fully connected head.

    Each layer of the stem is conv 3 → max pooling by 2 → activation. A residual block computes x + f(x), where f is
    conv 3 → norm → activation: He et al., arXiv:1512.03385, with one convolution per block, as in Stevens, Antiga and
    Viehmann, "Deep Learning with PyTorch", section 8.5.3.

    Args:
        input_shape: (C, *spatial) of a sample, of 1, 2 or 3 dimensions.
        num_classes: number of logits.
        channels: output channels of each layer of the stem; the residual blocks have the last number of channels.
        blocks: number of residual blocks with separate weights.
        repeats: times that each block is applied in succession, with the same weights.
        norm: batch or none, in the residual blocks.
        norm_weight: initial scale of each norm; below 1, a deep stack starts closer to the identity.
        activation: the name of a class in `torch.nn`.
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
        blocks: Annotated[int, Ge(1)],
        repeats: Annotated[int, Ge(1)],
        norm: Literal["batch", "none"],
        norm_weight: float,
        activation: str,
        hidden: list[int],
    ) -> None:
        super().__init__()
        in_channels, *size = input_shape
        dimensions = spatial_dimensions(input_shape)
        check_widths(channels, hidden)
        size = [length // 2 ** (len(channels) + 1) for length in size]
        if min(size) < 1:
            shape = "×".join(map(str, input_shape[1:]))
            raise UserError(
                f"lit_module.net.channels: {len(channels) + 1} poolings reduce {shape} to nothing; use fewer channels"
            )
        conv_class = layer_class("Conv", dimensions)
        norm_class = layer_class("BatchNorm", dimensions)
        pool_class = layer_class("MaxPool", dimensions)
        activation_class = find_activation(activation)

        self.stem = nn.Sequential()
        for width in channels:
            layer = sequential(
                conv=conv_class(in_channels, width, 3, padding="same"),
                pool=pool_class(2),
                activation=activation_class(),
            )
            self.stem.append(layer)
            in_channels = width
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            norm_layer = norm_class(width) if norm == "batch" else None
            if norm_layer:
                nn.init.constant_(norm_layer.weight, norm_weight)
            block = sequential(
                conv=conv_class(width, width, 3, padding="same", bias=norm_layer is None),
                norm=norm_layer,
                activation=activation_class(),
            )
            self.blocks.append(block)
        self.repeats = repeats
        self.features = nn.Sequential(pool_class(2), nn.Flatten())
        self.head = fully_connected([width * math.prod(size), *hidden, num_classes], activation_class, dropout=0.0)
        self.memory_format = MEMORY_FORMATS[dimensions]
        self.to(memory_format=self.memory_format)

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, *spatial]` → logits `[N, num_classes]`"""
        outputs = self.stem(inputs.contiguous(memory_format=self.memory_format))
        for block in self.blocks:
            for _ in range(self.repeats):
                outputs = outputs + block(outputs)
        return self.head(self.features(outputs))
