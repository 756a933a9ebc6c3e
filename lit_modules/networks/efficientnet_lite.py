"""EfficientNet-Lite: accurate and fast on CPUs."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_modules.networks.initialization import kaiming_init_

# (expansion, kernel size, stride, blocks, channels) of each stage.
STAGES = (
    (1, 3, 1, 1, 16),
    (6, 3, 2, 2, 24),
    (6, 5, 2, 2, 40),
    (6, 3, 2, 3, 80),
    (6, 5, 1, 3, 112),
    (6, 5, 2, 4, 192),
    (6, 3, 1, 1, 320),
)
STEM_CHANNELS = 32
FEATURES = 1280


class EfficientNetLite(nn.Module):
    """EfficientNet without squeeze-and-excitation, with ReLU6. Takes RGB images.

    Tan and Le, arXiv:1905.11946; the lite variants: github.com/tensorflow/tpu, models/official/efficientnet/lite.

    Args:
        num_classes: number of logits.
        width: scales the channels of the stages.
        depth: scales the blocks of the stages, except for the first and the last.
    """

    def __init__(self, num_classes: int, width: float, depth: float) -> None:
        super().__init__()
        self.stem = conv_norm(3, STEM_CHANNELS, kernel_size=3, stride=2)
        self.blocks = nn.Sequential()
        in_channels = STEM_CHANNELS
        for stage, (expansion, kernel_size, stride, blocks, channels) in enumerate(STAGES):
            if 0 < stage < len(STAGES) - 1:
                blocks = math.ceil(blocks * depth)
            out_channels = _multiple_of_8(channels * width)
            for _ in range(blocks):
                self.blocks.append(InvertedResidual(in_channels, out_channels, expansion, kernel_size, stride))
                in_channels, stride = out_channels, 1
        self.features = nn.Sequential(
            conv_norm(in_channels, FEATURES, kernel_size=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.head = nn.Linear(FEATURES, num_classes)
        kaiming_init_(self, mode="fan_in")
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, 3, H, W]` → logits `[N, num_classes]`"""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        return self.head(self.features(self.blocks(self.stem(inputs))))


class InvertedResidual(nn.Module):
    """Expansion, depthwise convolution and projection, with a shortcut where the shape stays. Sandler et al.,
    arXiv:1801.04381."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int) -> None:
        super().__init__()
        hidden = in_channels * expansion
        self.layers = nn.Sequential()
        if expansion > 1:
            self.layers.append(conv_norm(in_channels, hidden, kernel_size=1))
        self.layers.append(conv_norm(hidden, hidden, kernel_size=kernel_size, stride=stride, groups=hidden))
        self.layers.append(conv_norm(hidden, out_channels, kernel_size=1, activation=False))
        self.shortcut = stride == 1 and in_channels == out_channels

    def forward(self, inputs: Tensor) -> Tensor:
        outputs = self.layers(inputs)
        return inputs + outputs if self.shortcut else outputs


class SamePadConv2d(nn.Conv2d):
    """A convolution padded as TensorFlow's `SAME`: with a stride, an odd pixel of padding is at the right and bottom.

    The pretrained weights expect it.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        padding: list[int] = []
        for length, kernel_size, stride in zip(inputs.shape[2:], self.kernel_size, self.stride, strict=True):
            total = max(0, (math.ceil(length / stride) - 1) * stride + kernel_size - length)
            padding = [total // 2, total - total // 2, *padding]  # F.pad starts with the last axis
        return super().forward(F.pad(inputs, padding))


def conv_norm(
    in_channels: int, out_channels: int, *, kernel_size: int, stride: int = 1, groups: int = 1, activation: bool = True
) -> nn.Sequential:
    """A convolution, BatchNorm, and ReLU6 if wanted."""
    conv_class, padding = (nn.Conv2d, kernel_size // 2) if stride == 1 else (SamePadConv2d, 0)
    layers = nn.Sequential(
        conv_class(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False),
        nn.BatchNorm2d(out_channels, eps=1e-3),
    )
    if activation:
        layers.append(nn.ReLU6(inplace=True))
    return layers


def _multiple_of_8(channels: float) -> int:
    """The nearest multiple of 8, but at least 8 and 90% of `channels`."""
    rounded = max(8, int(channels + 4) // 8 * 8)
    return rounded if rounded >= 0.9 * channels else rounded + 8
