"""The residual network takes series, images and volumes, and passes each block as often as it is told."""

from typing import Any

import pytest
import torch

from conf.errors import UserError
from lit_modules.networks.resnet import ResNet

DEFAULTS: dict[str, Any] = {
    "channels": [4, 6],
    "blocks": 2,
    "repeats": 1,
    "norm": "batch",
    "norm_weight": 0.5,
    "activation": "ReLU",
    "hidden": [],
}


def resnet(input_shape: tuple[int, ...] = (3, 16, 16), num_classes: int = 5, **choices: Any) -> ResNet:
    torch.manual_seed(0)
    return ResNet(input_shape, num_classes, **(DEFAULTS | choices))


@pytest.mark.parametrize("norm", ["batch", "none"])
@pytest.mark.parametrize("input_shape", [(2, 50), (3, 17, 12), (1, 8, 9, 10)], ids=["1-D", "2-D", "3-D"])
def test_logits_have_a_row_for_each_sample(input_shape: tuple[int, ...], norm: str) -> None:
    assert resnet(input_shape, 7, norm=norm, hidden=[6])(torch.randn(4, *input_shape)).shape == (4, 7)


def test_repeated_block_shares_its_weights() -> None:
    shared, many = resnet(blocks=1, repeats=3, norm="none"), resnet(blocks=3, norm="none")
    for block in many.blocks:
        block.load_state_dict(shared.blocks[0].state_dict())
    many.stem.load_state_dict(shared.stem.state_dict())
    many.head.load_state_dict(shared.head.state_dict())
    inputs = torch.randn(4, 3, 16, 16)
    assert torch.equal(shared(inputs), many(inputs))
    one = sum(parameter.numel() for parameter in shared.blocks[0].parameters())
    count = [sum(parameter.numel() for parameter in net.parameters()) for net in (shared, many)]
    assert count[1] - count[0] == 2 * one


def test_input_memory_format_does_not_change_logits() -> None:
    net, inputs = resnet().eval(), torch.randn(4, 3, 16, 16)
    expected = net(inputs)
    assert torch.equal(net(inputs.contiguous(memory_format=torch.channels_last)), expected)
    assert torch.equal(net(inputs.transpose(2, 3).contiguous().transpose(2, 3)), expected)


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"channels": []}, r"net\.channels: \[\] is not a list of channel counts"),
        ({"channels": [4] * 5}, r"net\.channels: 6 poolings reduce 16×16 to nothing"),
        ({"hidden": [0]}, r"net\.hidden: \[0\] is not a list of widths"),
        ({"activation": "Relu"}, r"net\.activation: torch\.nn has no activation Relu; did you mean 'ReLU'"),
        ({"input_shape": (3,)}, r"net: samples of shape \(3,\) do not have 1 to 3 spatial dimensions"),
    ],
    ids=str,
)
def test_invalid_argument_is_rejected(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        resnet(**choices)
