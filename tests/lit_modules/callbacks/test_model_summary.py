"""The table of layers has the right shapes and counts, and making it changes nothing."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from lit_modules.callbacks.model_summary import Layer, describe, fold_frozen
from lit_modules.networks.cnn import CNN
from tests.conftest import TINY


def network(norm: str = "none", dropout: float = 0.0) -> CNN:
    """The network of Deep Learning with PyTorch, section 8.3, with 2 classes."""
    return CNN(
        (3, 32, 32), 2, channels=[16, 8], kernel_size=3, pool=2, pool_type="max", norm=norm, activation="Tanh",
        dropout=dropout, head_dropout=0.0, global_pool="none", hidden=[32],
    )  # fmt: skip


def test_layers_have_the_shapes_and_counts_of_the_book() -> None:
    layers = describe(network(), (3, 32, 32))
    assert [(layer.kind, layer.output_shape, layer.parameters) for layer in layers] == [
        ("Conv2d", (16, 32, 32), 448),
        ("MaxPool2d", (16, 16, 16), 0),
        ("Tanh", (16, 16, 16), 0),
        ("Conv2d", (8, 16, 16), 1160),
        ("MaxPool2d", (8, 8, 8), 0),
        ("Tanh", (8, 8, 8), 0),
        ("Flatten", (512,), 0),
        ("Linear", (32,), 16_416),
        ("Tanh", (32,), 0),
        ("Linear", (2,), 66),
    ]
    assert sum(layer.parameters for layer in layers) == 18_090


def test_every_parameter_is_listed_with_its_shape() -> None:
    net = network(norm="batch")
    listed = {
        f"{layer.name}.{name}": shape
        for layer in describe(net, (3, 32, 32))
        for name, shape in layer.parameter_shapes.items()
    }
    assert listed == {name: tuple(parameter.shape) for name, parameter in net.named_parameters()}


def test_frozen_parameters_are_not_counted_as_trainable() -> None:
    net = network()
    net.blocks[0].conv.weight.requires_grad = False
    first = describe(net, (3, 32, 32))[0]
    assert (first.parameters, first.trainable) == (448, 16)


def test_layer_that_is_called_twice_is_listed_once() -> None:
    layer = nn.Linear(4, 4)
    (described,) = describe(nn.Sequential(layer, layer), (4,))
    assert (described.name, described.parameters) == ("0", 20)


@pytest.mark.parametrize("training", [True, False])
def test_describing_changes_neither_modes_nor_statistics(training: bool) -> None:
    net = network(norm="batch", dropout=0.5).train(training)
    net.blocks[0].eval()
    modes = {name: module.training for name, module in net.named_modules()}
    state = {name: value.clone() for name, value in net.state_dict().items()}

    describe(net, (3, 32, 32))

    assert {name: module.training for name, module in net.named_modules()} == modes
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_modes_are_restored_where_the_network_fails() -> None:
    net = network().train()
    with pytest.raises(RuntimeError):
        describe(net, (5, 32, 32))
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())


def test_fit_prints_the_table(run: Callable[..., Path], capsys: pytest.CaptureFixture[str]) -> None:
    run(*TINY, "trainer=debug", "lit_module.freeze=[blocks.0.*]")
    out = capsys.readouterr().out
    # blocks: 1·4·9 + 2·4 = 44 frozen, 4·8·9 + 2·8 = 304; head: 8·2·2·10 + 10 = 330
    assert "trains 634 of 678 parameters, starting from random weights, on" in out
    assert "36 frozen" in out and "4×8×8" in out and "weight 8×4×3×3" in out


def layer(name: str, parameters: int, trainable: int) -> Layer:
    return Layer(name, "Conv2d", (4, 2, 2), {}, parameters, trainable)


def test_frozen_layers_in_a_row_are_one_line() -> None:
    frozen = [layer(f"body.{i}", 10 * (i % 2 == 0), 0) for i in range(9)]
    summary = fold_frozen([layer("first", 0, 0), *frozen, layer("head", 7, 7)])
    assert [(part.name, part.parameters) for part in summary] == [("first", 0), ("body.0 … body.8", 50), ("head", 7)]
    few = [layer("first", 0, 0), *frozen[:8], layer("head", 7, 7)]
    assert fold_frozen(few) == few
