"""SpeedrunNet: the network of the CIFAR-10 speed records."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.cnn import find_activation, sequential


class SpeedrunNet(nn.Module):
    """2×2 whitening convolution → activation → three blocks → max pooling → linear head, scaled by 1 / in_features.

    After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498. The callback `Whitening` sets the
    weights of the first layer. The other convolutions are initialized to the identity on their first input channels,
    the head to a standard deviation of 1.

    Args:
        input_shape: (C, H, W) with H and W at least 9.
        num_classes: number of logits.
        channels: output channels of the three blocks.
        depth: convolutions per block; of 3, the last two have a residual connection.
        activation: the name of a class in `torch.nn`.
        norm_momentum: momentum of batch normalization.
        views: test-time augmentation. Logits are averaged over 1: the image; 2: the image and its horizontal flip;
            6: in addition, with half of the weight, both shifted by one pixel to the upper left and lower right.

    Raises:
        UserError: the input shape or the channels are invalid.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        *,
        channels: list[int],
        depth: Literal[2, 3],
        activation: str,
        norm_momentum: float,
        views: Literal[1, 2, 6],
    ) -> None:
        super().__init__()
        if len(input_shape) != 3 or min(input_shape[1:]) < 9:
            raise UserError(f"lit_module.net: needs images of at least 9×9 pixels, not {input_shape}; use net=cnn")
        if len(channels) != 3 or min(channels) < 1:
            raise UserError(f"lit_module.net.channels: must be three channel counts, not {channels}; try [64,256,256]")
        width = 2 * input_shape[0] * 2 * 2  # each direction of a 2×2 patch and its negative
        activation_class = find_activation(activation)
        self.whiten = nn.Conv2d(input_shape[0], width, 2)
        self.activation = activation_class()
        self.blocks = nn.Sequential()
        for in_channels, out_channels in pairwise([width, *channels]):
            self.blocks.append(Block(in_channels, out_channels, depth, activation_class, norm_momentum))
        output_size = tuple((length - 1) // 8 for length in input_shape[1:])
        self.features = nn.Sequential(nn.MaxPool2d(output_size), nn.Flatten())  # [N, C, *output_size] → [N, C]
        self.head = nn.Linear(channels[-1], num_classes, bias=False)
        with torch.no_grad():
            self.head.weight.div_(self.head.weight.std())
        self.views = views
        self.to(memory_format=torch.channels_last)

    def forward(self, inputs: Tensor) -> Tensor:
        """float `[N, C, H, W]` → logits `[N, num_classes]`"""
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        if self.training or self.views == 1:
            return self._logits(inputs)
        if self.views == 2:
            return self._flip_averaged_logits(inputs)
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        shifted = self._flip_averaged_logits(padded[:, :, :-2, :-2]) + self._flip_averaged_logits(padded[:, :, 2:, 2:])
        return self._flip_averaged_logits(inputs) / 2 + shifted / 4

    def _flip_averaged_logits(self, inputs: Tensor) -> Tensor:
        return (self._logits(inputs) + self._logits(inputs.flip(-1))) / 2

    def _logits(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(self.blocks(self.activation(self.whiten(inputs))))) / self.head.in_features


class Block(nn.Module):
    """conv → max pooling by 2 → norm → activation, then once or twice conv → norm → activation.

    float `[N, in_channels, H, W]` → `[N, out_channels, H/2, W/2]`. Arguments are those of `SpeedrunNet`.
    """

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, activation: type[nn.Module], norm_momentum: float
    ) -> None:
        super().__init__()

        def layer(inputs: int, pool: bool = False, last: bool = False) -> nn.Sequential:
            conv = nn.Conv2d(inputs, out_channels, 3, padding="same", bias=False)
            nn.init.dirac_(conv.weight[:inputs].detach())
            return sequential(
                conv=conv,
                pool=nn.MaxPool2d(2) if pool else None,
                norm=nn.BatchNorm2d(out_channels, eps=1e-12, momentum=norm_momentum),
                activation=None if last else activation(),
            )

        self.first = layer(in_channels, pool=True)
        self.second = layer(out_channels) if depth == 3 else None
        self.third = layer(out_channels, last=True)
        self.activation = activation()

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.first(inputs)
        if self.second is None:
            return self.activation(self.third(first))
        return self.activation(first + self.third(self.second(first)))
