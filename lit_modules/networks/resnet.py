"""A plain residual network for series, images and volumes: a stem that pools, residual blocks of one size, a head."""

import math
from typing import Literal

from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.cnn import (
    MEMORY_FORMATS,
    activation_named,
    check_widths,
    fully_connected,
    of_dimension,
    sequential,
    spatial_dimensions,
)


class ResNet(nn.Module):
    """stem → residual blocks → max pooling by 2 → fully connected head.

    Each layer of the stem is conv 3 → max pooling by 2 → activation. A residual block adds to its input what conv 3 →
    norm → activation make of it; He et al., arXiv:1512.03385, with one convolution a block, as in Stevens, Antiga and
    Viehmann, "Deep Learning with PyTorch", section 8.5.3. Names are those of `CNN`, whose choices it shares.

    Args:
        input_shape: (C, *spatial) of a sample, of 1, 2 or 3 dimensions.
        num_classes: number of logits.
        channels: output channels of each layer of the stem; the residual blocks keep the last of them.
        blocks: residual blocks with weights of their own.
        repeats: how many times each of them is passed, one after another, with the same weights.
        norm: batch or none, in the residual blocks.
        norm_weight: what the scale of each norm begins with; below 1 a deep stack begins nearer to the identity.
        activation: the name of a class in `torch.nn`.
        hidden: widths of fully connected layers between the features and the logits.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: list[int],
        blocks: int,
        repeats: int,
        norm: Literal["batch", "none"],
        norm_weight: float,
        activation: str,
        hidden: list[int],
    ) -> None:
        super().__init__()
        in_channels, *size = input_shape
        dimensions = spatial_dimensions(input_shape)
        check_widths(channels, hidden)
        for key, value in (("blocks", blocks), ("repeats", repeats)):
            if value < 1:
                raise UserError(f"lit_module.net.{key}: must be 1 or more, not {value}; try 1")
        size = [length // 2 ** (len(channels) + 1) for length in size]
        if min(size) < 1:
            shape = "×".join(map(str, input_shape[1:]))
            raise UserError(
                f"lit_module.net.channels: {len(channels) + 1} poolings leave nothing of {shape}; use fewer"
            )
        conv, batch_norm, pooling = (of_dimension(name, dimensions) for name in ("Conv", "BatchNorm", "MaxPool"))
        activate = activation_named(activation)

        self.stem = nn.Sequential()
        for width in channels:
            self.stem.append(
                sequential(conv=conv(in_channels, width, 3, padding="same"), pool=pooling(2), activation=activate())
            )
            in_channels = width
        self.blocks = nn.ModuleList()
        for _ in range(blocks):
            normalise = batch_norm(width) if norm == "batch" else None
            if normalise:
                nn.init.constant_(normalise.weight, norm_weight)
            block = sequential(
                conv=conv(width, width, 3, padding="same", bias=normalise is None),
                norm=normalise,
                activation=activate(),
            )
            self.blocks.append(block)
        self.repeats = repeats
        self.features = nn.Sequential(pooling(2), nn.Flatten())
        self.head = fully_connected([width * math.prod(size), *hidden, num_classes], activate, dropout=0.0)
        self.memory_format = MEMORY_FORMATS[dimensions]
        self.to(memory_format=self.memory_format)

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, *spatial]` → logits `[N, num_classes]`"""
        outputs = self.stem(inputs.contiguous(memory_format=self.memory_format))
        for block in self.blocks:
            for _ in range(self.repeats):
                outputs = outputs + block(outputs)
        return self.head(self.features(outputs))
