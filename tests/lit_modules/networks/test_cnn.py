"""The CNN has the shapes and counts that its choices say, and minds no memory format."""

from typing import Any

import pytest
import torch
from torch import nn

from conf.errors import UserError
from lit_modules.networks.cnn import CNN

DEFAULTS: dict[str, Any] = {
    "channels": [8, 4],
    "kernel_size": 3,
    "pool": 2,
    "pool_type": "max",
    "norm": "none",
    "activation": "Tanh",
    "dropout": 0.0,
    "head_dropout": 0.0,
    "global_pool": "none",
    "hidden": [],
}


def cnn(input_shape: tuple[int, ...] = (3, 16, 16), num_classes: int = 5, **choices: Any) -> CNN:
    torch.manual_seed(0)
    return CNN(input_shape, num_classes, **(DEFAULTS | choices))


def count(net: nn.Module) -> int:
    return sum(parameter.numel() for parameter in net.parameters())


@pytest.mark.parametrize("norm", ["batch", "instance", "none"])
@pytest.mark.parametrize("global_pool", ["avg", "max", "none"])
@pytest.mark.parametrize("input_shape", [(2, 50), (3, 17, 12), (1, 8, 9, 10)], ids=["1-D", "2-D", "3-D"])
def test_logits_have_a_row_for_each_sample(input_shape: tuple[int, ...], global_pool: str, norm: str) -> None:
    net = cnn(input_shape, 7, global_pool=global_pool, norm=norm, hidden=[6], dropout=0.1)
    assert net(torch.randn(4, *input_shape)).shape == (4, 7)


@pytest.mark.parametrize(("channels", "expected"), [([16, 8], 18_090), ([32, 16], 38_386)])
def test_book_network_has_its_parameter_count(channels: list[int], expected: int) -> None:
    # Stevens, Antiga and Viehmann, Deep Learning with PyTorch, section 8.3
    assert count(cnn((3, 32, 32), 2, channels=channels, hidden=[32])) == expected


def test_book_network_gives_the_same_logits() -> None:
    ours = cnn((3, 32, 32), 2, channels=[16, 8], hidden=[32])
    book = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2),
        nn.Conv2d(16, 8, 3, padding=1), nn.Tanh(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(8 * 8 * 8, 32), nn.Tanh(), nn.Linear(32, 2),
    )  # fmt: skip
    names = list(book.state_dict())
    book.load_state_dict(dict(zip(names, ours.state_dict().values(), strict=True)))
    inputs = torch.randn(4, 3, 32, 32)
    assert torch.allclose(ours(inputs), book(inputs), atol=1e-5)


@pytest.mark.parametrize(
    ("choices", "expected"),
    [
        # conv: in·out·k² (+ out without a norm, + 2·out for its scale and shift); then features·classes + classes
        ({"norm": "batch"}, 3 * 8 * 9 + 16 + 8 * 4 * 9 + 8 + 4 * 16 * 5 + 5),
        ({"norm": "instance"}, 3 * 8 * 9 + 8 * 4 * 9 + 4 * 16 * 5 + 5),
        ({"kernel_size": 5}, 3 * 8 * 25 + 8 + 8 * 4 * 25 + 4 + 4 * 16 * 5 + 5),
        ({"pool": [4, 1]}, 3 * 8 * 9 + 8 + 8 * 4 * 9 + 4 + 4 * 16 * 5 + 5),
        ({"pool": [1, 1]}, 3 * 8 * 9 + 8 + 8 * 4 * 9 + 4 + 4 * 256 * 5 + 5),
        ({"global_pool": "avg"}, 3 * 8 * 9 + 8 + 8 * 4 * 9 + 4 + 4 * 5 + 5),
        ({"hidden": [7, 6]}, 3 * 8 * 9 + 8 + 8 * 4 * 9 + 4 + 64 * 7 + 7 + 7 * 6 + 6 + 6 * 5 + 5),
    ],
    ids=str,
)
def test_options_give_the_expected_parameter_count(choices: dict[str, Any], expected: int) -> None:
    assert count(cnn(**choices)) == expected


@pytest.mark.parametrize("input_shape", [(3, 12), (3, 12, 10), (3, 8, 6, 4)], ids=["1-D", "2-D", "3-D"])
def test_input_memory_format_does_not_change_logits(input_shape: tuple[int, ...]) -> None:
    net = cnn(input_shape, norm="batch", activation="ReLU").eval()
    inputs = torch.randn(5, *input_shape)
    expected = net(inputs)

    transposed = inputs.transpose(1, -1).contiguous().transpose(1, -1)
    strided = torch.stack([inputs, torch.zeros_like(inputs)], -1)[..., 0]

    assert not transposed.is_contiguous() and not strided.is_contiguous()
    assert torch.equal(net(transposed), expected)
    assert torch.equal(net(strided), expected)


@pytest.mark.parametrize("global_pool", ["avg", "max", "none"])
def test_channels_last_inputs_give_the_same_logits(global_pool: str) -> None:
    net = cnn(global_pool=global_pool, hidden=[6])
    inputs = torch.randn(5, 3, 16, 16)
    assert torch.equal(net(inputs.to(memory_format=torch.channels_last)), net(inputs))


@pytest.mark.parametrize(
    ("input_shape", "memory_format"),
    [((3, 8, 8), torch.channels_last), ((3, 8, 8, 8), torch.channels_last_3d)],
    ids=["2-D", "3-D"],
)
def test_convolutions_compute_channels_last(input_shape: tuple[int, ...], memory_format: torch.memory_format) -> None:
    net = cnn(input_shape)
    seen: list[bool] = []
    for block in net.blocks:
        block.conv.register_forward_hook(
            lambda conv, inputs, _output: seen.extend(
                tensor.is_contiguous(memory_format=memory_format) for tensor in (inputs[0], conv.weight)
            )
        )
    net(torch.randn(2, *input_shape))
    assert seen == [True] * 4


@pytest.mark.parametrize("activation", ["ReLU", "Tanh", "Sigmoid", "LeakyReLU"])
def test_max_pooling_commutes_with_monotone_activation(activation: str) -> None:
    net = cnn(activation=activation)
    inputs = torch.randn(5, 3, 16, 16)
    after = inputs
    for block in net.blocks:
        after = block.pool(block.activation(block.conv(after)))
    assert torch.allclose(net.blocks(inputs), after, atol=1e-6)


def test_average_pooling_averages() -> None:
    net = cnn(channels=[4], pool_type="avg", activation="ReLU")
    inputs = torch.randn(2, 3, 16, 16)
    expected = net.blocks[0].conv(inputs).unfold(2, 2, 2).unfold(3, 2, 2).mean((-2, -1)).relu()
    assert torch.allclose(net.blocks(inputs), expected, atol=1e-6)


def test_dropout_is_active_in_training_only() -> None:
    net = cnn(dropout=0.5, hidden=[32])
    inputs = torch.randn(8, 3, 16, 16)
    assert not torch.equal(net(inputs), net(inputs))
    net.eval()
    assert torch.equal(net(inputs), net(inputs))
    assert torch.equal(net(inputs), cnn(hidden=[32])(inputs))


def test_dropout_zeroes_whole_channels_after_a_block() -> None:
    outputs = cnn(dropout=0.5, activation="Sigmoid").blocks(torch.randn(16, 3, 16, 16)).flatten(2)
    zeroed = (outputs == 0).all(2)
    assert torch.equal(zeroed, (outputs == 0).any(2))
    assert 0 < zeroed.float().mean() < 1


@pytest.mark.parametrize("activation", ["ReLU", "Tanh", "GELU", "SiLU", "ELU", "Hardswish"])
def test_activation_is_the_torch_class(activation: str) -> None:
    kinds = [type(layer) for layer in cnn(activation=activation, hidden=[6]).modules()]
    assert kinds.count(getattr(nn, activation)) == 3


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"channels": []}, r"lit_module\.net\.channels: \[\] is not a list of channel counts"),
        ({"channels": [4, 0]}, r"lit_module\.net\.channels: \[4, 0\]"),
        ({"pool": [2]}, r"lit_module\.net\.pool: \[2\] does not match 2 blocks"),
        ({"pool": 0}, r"lit_module\.net\.pool: \[0, 0\] does not match"),
        ({"pool": 5}, r"lit_module\.net\.pool: \[5, 5\] reduces 16×16 to nothing"),
        ({"kernel_size": 4}, r"lit_module\.net\.kernel_size: must be odd, not 4"),
        ({"kernel_size": -1}, r"lit_module\.net\.kernel_size: must be odd, not -1"),
        ({"hidden": [8, 0]}, r"lit_module\.net\.hidden: \[8, 0\] is not a list of widths"),
        ({"activation": "Relu"}, r"lit_module\.net\.activation: torch\.nn has no activation Relu; did you mean 'ReLU'"),
        ({"activation": "Linear"}, r"lit_module\.net\.activation: torch\.nn has no activation Linear"),
        ({"activation": "GLU"}, r"lit_module\.net\.activation: .*GLU"),  # halves the channels
        ({"input_shape": (3,)}, r"lit_module\.net: samples of shape \(3,\) do not have 1 to 3 spatial dimensions"),
        ({"input_shape": (3, 4, 4, 4, 4)}, r"lit_module\.net: samples of shape"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else "",
)
def test_invalid_argument_is_rejected(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cnn(**choices)
