"""The parts of the speed records do what their formulas say, and one step of them all is that of a plain loop."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hydra.utils import instantiate
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.callbacks.whitening import second_moments, whiten_
from lit_modules.networks.speedrun import SpeedrunNet
from tests.conftest import configure

NET: dict[str, Any] = {"channels": [8, 8, 8], "depth": 2, "activation": "GELU", "norm_momentum": 0.4, "views": 1}


def net(input_shape: tuple[int, ...] = (3, 16, 16), **choices: Any) -> SpeedrunNet:
    torch.manual_seed(0)
    return SpeedrunNet(input_shape, 5, **(NET | choices))


@pytest.fixture
def correlated() -> Tensor:
    """Images whose neighbours are alike."""
    noise = torch.rand(20, 3, 18, 18, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(noise, 3, stride=1) - 0.5


def test_moments_equal_a_loop_over_patches(correlated: Tensor) -> None:
    patches = [
        image[:, top : top + 2, left : left + 2].flatten().double()
        for image in correlated
        for top in range(15)
        for left in range(15)
    ]
    expected = torch.stack([torch.outer(patch, patch) for patch in patches]).mean(0)
    assert torch.allclose(second_moments(correlated, (2, 2)).double(), expected, atol=1e-6)


def test_whitened_patches_are_uncorrelated_and_of_unit_variance(correlated: Tensor) -> None:
    conv = nn.Conv2d(3, 24, 2, bias=False)
    whiten_(conv, second_moments(correlated, (2, 2)), eps=0.0)
    with torch.no_grad():
        outputs = conv(correlated).transpose(0, 1).flatten(1).double()
    moments = outputs[:12] @ outputs[:12].T / outputs.shape[1]
    assert torch.allclose(moments, torch.eye(12, dtype=torch.float64), atol=1e-3)
    assert torch.equal(outputs[12:], -outputs[:12])


def test_eps_limits_directions_of_low_variance(correlated: Tensor) -> None:
    conv, moments = nn.Conv2d(3, 24, 2, bias=False), second_moments(correlated, (2, 2))
    whiten_(conv, moments, eps=0.01)
    lengths = conv.weight[:12].flatten(1).norm(dim=1)
    expected = 1 / (torch.linalg.eigvalsh(moments) + 0.01).sqrt()
    assert torch.allclose(lengths, expected, rtol=1e-4)


def test_record_network_has_its_parameter_count() -> None:
    record = SpeedrunNet((3, 32, 32), 10, **(NET | {"channels": [64, 256, 256]}))
    convolutions = 9 * (24 * 64 + 64 * 64 + 64 * 256 + 256 * 256 + 256 * 256 + 256 * 256)
    assert sum(p.numel() for p in record.parameters()) == 24 * 12 + 24 + convolutions + 4 * 576 + 2560
    assert record(torch.rand(2, 3, 32, 32)).shape == (2, 10)


@pytest.mark.parametrize("depth", [2, 3])
def test_initial_convolutions_are_the_identity(depth: int) -> None:
    made = net(depth=depth)
    for block in made.blocks:
        for name, conv in block.named_modules():
            if isinstance(conv, nn.Conv2d):
                inputs = torch.rand(2, conv.in_channels, 6, 6)
                kept = min(conv.in_channels, conv.out_channels)
                assert torch.allclose(conv(inputs)[:, :kept], inputs[:, :kept], atol=1e-6), name
    assert made.head.weight.std().item() == pytest.approx(1)


def test_views_are_averaged_over_single_images() -> None:
    one, both, six = (net(views=views).eval() for views in (1, 2, 6))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    padded = np.pad(images.numpy(), [(0, 0), (0, 0), (1, 1), (1, 1)], mode="reflect")
    expected = torch.zeros(4, 5)
    with torch.no_grad():
        for shift, weight in ((1, 0.25), (0, 0.125), (2, 0.125)):
            seen = torch.from_numpy(padded[:, :, shift : shift + 16, shift : shift + 16].copy())
            expected += weight * (one(seen) + one(seen.flip(-1)))
        assert torch.allclose(six(images), expected, atol=1e-6)
        assert torch.allclose(both(images), (one(images) + one(images.flip(-1))) / 2, atol=1e-6)
        six.train()
        assert torch.equal(six(images), net().train()(images))


def test_unsupported_input_shape_is_rejected() -> None:
    for shape in ((3, 8, 32), (3, 32)):
        with pytest.raises(UserError, match=r"lit_module\.net: needs images of at least 9×9 pixels"):
            net(shape)


CHOICES = (
    "+experiment=cifar10_speedrun",
    "datamodule=digits",
    "~datamodule.dataset",
    "datamodule.batch_size=64",
    "datamodule.val_fraction=0.2",
    "datamodule.image_size=16",
    "lit_module.net.channels=[8,8,8]",
    "devices=cpu",
    "++callbacks.predictions=null",
    "++callbacks.dashboard=null",
)


def test_whitened_weights_are_set_and_stay_frozen(run: Callable[..., Path], tmp_path: Path) -> None:
    runs = [run(*CHOICES, f"epochs={epochs}", f"run_dir={tmp_path / str(epochs)}") for epochs in (1, 2)]
    first, second = (torch.load(folder / "model.pt", weights_only=True) for folder in runs)
    assert torch.equal(first["net.whiten.weight"], second["net.whiten.weight"])
    assert torch.equal(first["net.whiten.weight"][:4], -first["net.whiten.weight"][4:])
    assert not torch.equal(first["net.head.weight"], second["net.head.weight"])


def test_whitening_of_another_network_is_rejected(run: Callable[..., Path]) -> None:
    with pytest.raises(UserError, match=r"callbacks\.whitening\.layer: whiten is not a 2-D convolution"):
        whitening = "{_target_:lit_modules.callbacks.whitening.Whitening,layer:whiten,eps:0.1}"
        run(f"+callbacks.whitening={whitening}", "devices=cpu", "epochs=1")


def train_by_hand(reference: nn.Module, batches: list[tuple[Tensor, Tensor]]) -> None:
    """Takes a step per batch with a summed loss, Muon for convolutions and SGD for the rest, rates set by hand."""
    convolutions = [parameter for name, parameter in reference.named_parameters() if name.endswith("conv.weight")]
    biases = [p for name, p in reference.named_parameters() if name.endswith("norm.bias")]
    sgd = torch.optim.SGD(
        [
            {"params": [reference.whiten.bias], "lr": 0.053, "weight_decay": 0.004 / 0.053},
            {"params": biases, "lr": 0.053, "weight_decay": 0.004 / 0.053},
            {"params": [reference.head.weight], "lr": 0.67, "weight_decay": 0.004 / 0.67},
        ],
        lr=1,
        momentum=0.85,
        nesterov=True,
    )
    rates = [group["lr"] for group in sgd.param_groups]
    buffers = [torch.zeros_like(weight) for weight in convolutions]
    for step, (inputs, labels) in enumerate(batches):
        reference.zero_grad()
        logits = reference((inputs - 0.5) / 0.25)
        F.cross_entropy(logits, labels, label_smoothing=0.2, reduction="sum").backward()
        for group, rate, length in zip(sgd.param_groups, rates, (3, 8, 8), strict=True):
            group["lr"] = rate * (1 - step / length)
        sgd.step()
        with torch.no_grad():
            for weight, buffer in zip(convolutions, buffers, strict=True):
                assert weight.grad is not None
                buffer.mul_(0.6).add_(weight.grad)
                matrix = (weight.grad + 0.6 * buffer).flatten(1).double()
                left, values, right = torch.linalg.svd(matrix, full_matrices=False)
                values /= values.norm()
                for _ in range(3):
                    values = 3.4445 * values - 4.7750 * values**3 + 2.0315 * values**5
                weight.mul_(len(weight) ** 0.5 / weight.norm())
                weight.sub_((left * values @ right).view_as(weight).float(), alpha=0.24 * (1 - step / 8))


def test_two_steps_equal_a_plain_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the record's form: a summed loss, an optimizer for convolutions and one for the rest, rates set by hand."""
    monkeypatch.setattr(Tensor, "bfloat16", Tensor.double)  # whose rounding would hide a small mistake
    cfg = configure("+experiment=cifar10_speedrun", "lit_module.net.channels=[8,8,8]").lit_module
    facts = {"input_shape": (3, 16, 16), "class_names": list("abcde"), "class_counts": [4] * 5}
    generator = torch.Generator().manual_seed(0)
    batches = [
        (torch.rand(20, 3, 16, 16, generator=generator), torch.randint(5, (20,), generator=generator)) for _ in range(2)
    ]
    torch.manual_seed(0)
    module = instantiate(cfg, **facts, mean=[0.5] * 3, std=[0.25] * 3, _convert_="all").train()
    reference = net(channels=[8, 8, 8])
    reference.load_state_dict(module.net.state_dict())
    # Rates are for a mean over 2,000 samples; the loss of 20 is summed here.
    optimizer, scheduler = module._optimizer_and_scheduler(total_steps=8)
    small = 2000 / 20
    for group in optimizer.param_groups:
        if not group["orthogonal"]:
            group["initial_lr"] /= small
            group["weight_decay"] *= small
    scheduler.base_lrs = [group["initial_lr"] for group in optimizer.param_groups]
    for group, rate in zip(optimizer.param_groups, scheduler.base_lrs, strict=True):
        group["lr"] = rate
    for inputs, labels in batches:
        optimizer.zero_grad()
        module.loss(module(inputs), labels).backward()
        optimizer.step()
        scheduler.step()
    train_by_hand(reference, batches)
    trained = dict(module.net.named_parameters())
    for name, parameter in reference.named_parameters():
        if parameter.requires_grad and "norm.weight" not in name and name != "whiten.weight":
            assert (trained[name] - parameter).norm() <= 1e-3 * parameter.norm(), name
