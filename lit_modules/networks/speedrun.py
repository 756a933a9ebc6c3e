"""The network of the CIFAR-10 speed records: a whitening layer, three blocks, a linear head; in evaluation, views."""

from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.cnn import activation_named, sequential


class SpeedrunNet(nn.Module):
    """whitening convolution 2×2 → activation → three blocks → max pooling → linear head, divided by its inputs' number.

    After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498. The first layer's weights are
    those of `whitening.whiten_`; the other convolutions begin as the identity on their first inputs, and the head with
    a standard deviation of 1.

    Args:
        input_shape: (C, H, W), H and W at least 9; of 32 the three blocks leave 3.
        num_classes: number of logits.
        channels: output channels of the three blocks.
        depth: convolutions of a block: 2, or 3 of which the last two have a shortcut around them.
        activation: the name of a class in `torch.nn`.
        norm_momentum: share of a batch in the running statistics of batch normalisation.
        views: what logits are averaged over in evaluation: 1: the image; 2: and its mirror image; 6: these, and with
            half of the weight both shifted by a pixel up and left, and down and right.
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
            raise UserError(f"lit_module.net: takes images of 9×9 pixels or more, not {input_shape}; use net=cnn")
        if len(channels) != 3 or min(channels) < 1:
            raise UserError(f"lit_module.net.channels: {channels} is not three channel counts; try [64,256,256]")
        width = 2 * input_shape[0] * 2 * 2  # each direction of a patch, and its opposite
        activate = activation_named(activation)
        self.whiten = nn.Conv2d(input_shape[0], width, 2)
        self.activation = activate()
        self.blocks = nn.Sequential()
        for in_channels, out_channels in pairwise([width, *channels]):
            self.blocks.append(Block(in_channels, out_channels, depth, activate, norm_momentum))
        left = tuple((length - 1) // 8 for length in input_shape[1:])
        self.features = nn.Sequential(nn.MaxPool2d(left), nn.Flatten())  # [N, C, 3, 3] → [N, C]
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
            return self._both_ways(inputs)
        padded = F.pad(inputs, (1, 1, 1, 1), mode="reflect")
        shifted = self._both_ways(padded[:, :, :-2, :-2]) + self._both_ways(padded[:, :, 2:, 2:])
        return self._both_ways(inputs) / 2 + shifted / 4

    def _both_ways(self, inputs: Tensor) -> Tensor:
        return (self._logits(inputs) + self._logits(inputs.flip(-1))) / 2

    def _logits(self, inputs: Tensor) -> Tensor:
        return self.head(self.features(self.blocks(self.activation(self.whiten(inputs))))) / self.head.in_features


class Block(nn.Module):
    """conv → max pooling by 2 → norm → activation, then once or twice conv → norm → activation; float
    `[N, in_channels, H, W]` → `[N, out_channels, H/2, W/2]`. Arguments as for `SpeedrunNet`."""

    def __init__(
        self, in_channels: int, out_channels: int, depth: int, activate: type[nn.Module], norm_momentum: float
    ) -> None:
        super().__init__()

        def layer(inputs: int, pool: bool = False, last: bool = False) -> nn.Sequential:
            conv = nn.Conv2d(inputs, out_channels, 3, padding="same", bias=False)
            nn.init.dirac_(conv.weight[:inputs].detach())
            return sequential(
                conv=conv,
                pool=nn.MaxPool2d(2) if pool else None,
                norm=nn.BatchNorm2d(out_channels, eps=1e-12, momentum=norm_momentum),
                activation=None if last else activate(),
            )

        self.first = layer(in_channels, pool=True)
        self.second = layer(out_channels) if depth == 3 else None
        self.third = layer(out_channels, last=True)
        self.activation = activate()

    def forward(self, inputs: Tensor) -> Tensor:
        first = self.first(inputs)
        if self.second is None:
            return self.activation(self.third(first))
        return self.activation(first + self.third(self.second(first)))
