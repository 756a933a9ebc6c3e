"""Gradient checkpointing keeps fewer activations, and changes no bit."""

import copy
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.networks.gradient_checkpointing import blocks_of, checkpoint_blocks
from tests.conftest import TINY
from tests.fits import build, fit
from tests.runs import assert_same, assert_same_runs, cut_off_after

ON = "lit_module.gradient_checkpointing=true"
NETS: dict[str, tuple[Callable[[], nn.Module], set[str]]] = {
    "resnet18": (torchvision.models.resnet18, {"BasicBlock"}),
    "densenet121": (torchvision.models.densenet121, {"_DenseBlock", "_Transition"}),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, {"InvertedResidual", "Conv2dNormActivation"}),
    "convnext": (lambda: timm.create_model("convnext_atto"), {"ConvNeXtBlock"}),
    "efficientnet": (lambda: timm.create_model("efficientnet_b0"), {"DepthwiseSeparableConv", "InvertedResidual"}),
    "vit": (lambda: timm.create_model("test_vit", img_size=32, proj_drop_rate=0.1, drop_path_rate=0.1), {"Block"}),
}


def step(net: nn.Module) -> dict[str, Tensor]:
    """Gradients and buffers after a step, and the bytes that it keeps for the backward pass."""
    kept = 0

    def pack(value: Tensor) -> Tensor:
        nonlocal kept
        kept += value.nbytes if not isinstance(value, nn.Parameter) else 0
        return value

    torch.manual_seed(1)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loss = net(torch.rand(4, 3, 32, 32)).square().mean()
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in net.named_parameters() if parameter.grad is not None}
    return {**gradients, **dict(net.named_buffers()), "kept": torch.tensor(kept)}


@pytest.mark.parametrize("name", NETS)
def test_gradients_and_statistics_have_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    net = NETS[name][0]().train()
    checkpointed = copy.deepcopy(net)
    checkpoint_blocks(checkpointed)
    assert {type(block).__name__ for block in blocks_of(net)} == NETS[name][1]
    assert checkpointed.state_dict().keys() == net.state_dict().keys()
    expected, actual = step(net), step(checkpointed)
    assert actual.pop("kept") < 0.85 * expected.pop("kept")
    assert_same(actual, expected)


@pytest.mark.parametrize(
    "choices",
    [
        ("lit_module.net.dropout=0.3", "lit_module.net.hidden=[8]", "lit_module.net.head_dropout=0.5"),
        ("lit_module/net=resnet", "lit_module.net.repeats=2", "lit_module.net.blocks=2", "lit_module.net.channels=[4]"),
        ("lit_module/net=speedrun", "lit_module.net.channels=[4,8,8]", "datamodule.image_size=16"),
        ("lit_module.net.dropout=0.3", "trainer.precision=bf16-mixed", "trainer.accumulate_grad_batches=2"),
        ("lit_module.freeze=[blocks.0.*]", "lit_module.unfreeze_epoch=1", "trainer.max_epochs=2"),
    ],
    ids=["cnn", "shared weights", "speedrun", "amp", "frozen at first"],
)
def test_trained_weights_have_the_same_bits(choices: tuple[str, ...]) -> None:
    expected, actual = fit(*choices)[1], fit(*choices, ON)[1]
    assert_same(dict(actual.state_dict()), dict(expected.state_dict()))


def test_copy_trains_its_own_weights() -> None:
    """As callbacks that average weights make one."""
    net = torchvision.models.resnet18().train()
    checkpoint_blocks(net)
    twin = copy.deepcopy(net)
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.mul_(2)
    step(twin)
    assert all(parameter.grad is None for parameter in net.parameters())
    assert net.bn1.num_batches_tracked == 0 and next(blocks_of(net)).get_submodule("bn1").num_batches_tracked == 0


def test_run_is_resumed_with_and_without_it(run: Callable[..., Path], tmp_path: Path) -> None:
    choices = (*TINY, "lit_module.net.dropout=0.3", "callbacks=[default,ema]", "trainer.max_epochs=4")
    whole = run(*choices)
    resumed = shutil.copytree(whole, tmp_path / "resumed", symlinks=True)
    cut_off_after(resumed, epoch=1)
    run(f"run={resumed}", ON)
    assert_same_runs(resumed, whole)


def test_network_without_blocks_is_refused() -> None:
    with pytest.raises(UserError, match=r"^lit_module\.gradient_checkpointing: VGG has no .* of blocks; leave it out$"):
        checkpoint_blocks(torchvision.models.vgg11())


def test_inputs_changed_in_place_are_an_error() -> None:
    """Negative control: no wrong gradient is silent."""
    first: Any = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    net = nn.Sequential(first, nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 3)))
    checkpoint_blocks(net)
    with pytest.raises(RuntimeError, match="inplace operation"):
        net(torch.rand(2, 3, 9, 9)).mean().backward()


def test_compiled_network_has_the_same_gradients() -> None:
    module = build(ON)[1]
    plain = build()[1]
    plain.load_state_dict(module.state_dict())
    module.net.compile(backend="aot_eager")
    for network in (module, plain):
        network(torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))).square().mean().backward()
    for (name, actual), (_, expected) in zip(module.net.named_parameters(), plain.net.named_parameters(), strict=True):
        torch.testing.assert_close(actual.grad, expected.grad, msg=name)
    assert_same(dict(module.net.named_buffers()), dict(plain.net.named_buffers()))
