"""Frozen parameters stay fixed for the whole run or until an epoch, also in a resumed run."""

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from conf.errors import UserError
from lit_modules.optim.freezing import Freezing
from tests.conftest import TINY
from tests.runs import COMPARED, RANDOM, assert_resumable_at_every_step, assert_same, cut_off_after, load, table

GRADUAL = ("lit_module.freeze=[blocks.1.*,blocks.0.*]", "lit_module.unfreeze_epoch=[3,2]")
UNFREEZING = (*TINY, *RANDOM, "lit_module.freeze=[blocks.0.*]", "lit_module.unfreeze_epoch=2", "trainer.max_epochs=4")


@pytest.fixture
def net() -> nn.Sequential:
    """0.weight, 0.bias, 1.weight, 1.bias, 2.weight, 2.bias"""
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3), nn.Linear(3, 2))


def test_freeze_stops_only_matching_parameters(net: nn.Sequential) -> None:
    Freezing(net, ["0.*", "*.bias"], unfreeze_epoch=None)
    trainable = [name for name, parameter in net.named_parameters() if parameter.requires_grad]
    assert trainable == ["1.weight", "2.weight"]


def test_freeze_rejects_a_pattern_without_a_match(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"lit_module\.freeze: '0\.weigth' matches no parameter; did you mean '0"):
        Freezing(net, ["0.weigth"], unfreeze_epoch=None)


def test_frozen_norm_keeps_its_statistics_until_unfrozen(net: nn.Sequential) -> None:
    freezing = Freezing(net, ["1.*"], unfreeze_epoch=3)
    for epoch, learns in ((0, False), (2, False), (3, True), (7, True), (1, False)):
        freezing.apply(epoch, world_size=1)
        assert net[1].training is net[1].weight.requires_grad is learns
        assert net[0].training and net[0].weight.requires_grad


def test_unfreeze_epoch_without_freeze_is_rejected(net: nn.Sequential) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.unfreeze_epoch: nothing is frozen"):
        Freezing(net, [], unfreeze_epoch=3)


def test_each_pattern_is_unfrozen_at_its_own_epoch(net: nn.Sequential) -> None:
    freezing = Freezing(net, ["0.*", "*.bias", "1.weight"], [2, 3, 1])
    assert all(parameter.requires_grad for parameter in net.parameters())  # for the optimizer and DDP
    frozen = []
    for epoch in range(4):
        freezing.apply(epoch, world_size=1)
        frozen.append({name for name, parameter in net.named_parameters() if not parameter.requires_grad})
    biases = {"0.bias", "1.bias", "2.bias"}
    assert frozen == [{"0.weight", "1.weight", *biases}, {"0.weight", *biases}, biases, set()]


@pytest.mark.parametrize(
    ("freeze", "epochs"), [(["0.*", "1.*"], [1]), (["0.*"], [1, 2]), ("body", [1]), ([], [1]), (["0.*"], [])]
)
def test_epochs_that_match_no_patterns_are_rejected(net: nn.Sequential, freeze: Any, epochs: list[int]) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.unfreeze_epoch: \[.*\] for lit_module\.freeze=.*; give one "):
        Freezing(net, freeze, epochs)


def block(folder: Path, epoch: int, number: int) -> dict[str, Tensor]:
    """A block's weights and statistics after an epoch."""
    state = load(folder, f"epoch={epoch:03d}.ckpt")["state_dict"]
    return {name: value for name, value in state.items() if f"blocks.{number}." in name}


def moved(folder: Path, number: int = 0) -> list[bool]:
    """Of each epoch but the first, whether all of a block changed in it."""
    changes = []
    for epoch in (1, 2, 3):
        before, after = block(folder, epoch - 1, number), block(folder, epoch, number)
        (same,) = {torch.equal(before[name], after[name]) for name in after}
        changes.append(not same)
    return changes


@pytest.mark.parametrize(
    ("epoch", "choices"), [(0, ()), (1, ()), pytest.param(2, (), marks=pytest.mark.slow), (1, GRADUAL), (2, GRADUAL)]
)
def test_block_is_unfrozen_at_its_epoch_also_when_resumed(
    run: Callable[..., Path], epoch: int, choices: tuple[str, ...]
) -> None:
    whole = run(*UNFREEZING, *choices)
    assert moved(whole) == [False, True, True]
    assert moved(whole, 1) == ([False, False, True] if choices else [True, True, True])
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch)
    run(f"run={resumed}")
    expected = load(whole, "last.ckpt")
    checkpoint = load(resumed, "last.ckpt")
    for part in COMPARED:
        assert_same(expected[part], checkpoint[part], part)
    assert table(whole) == table(resumed)


@pytest.mark.slow
def test_run_resumed_at_any_step_has_the_same_bits(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    assert_resumable_at_every_step(run, monkeypatch, *UNFREEZING, "datamodule.batch_size=500", first=3)


@pytest.mark.slow
def test_two_ranks_unfreeze_as_one(
    process: Callable[..., subprocess.CompletedProcess[str]], run: Callable[..., Path], tmp_path: Path
) -> None:
    choices = [word for word in (*UNFREEZING, *GRADUAL) if "dropout" not in word]
    choices += ["lit_module.net.norm=none", "lit_module/optimizer=sgd", "lit_module.optimizer.lr=0.01"]
    two = ("devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"run_dir={tmp_path / 'two'}")
    assert (result := process(*choices, *two)).returncode == 0, result.stderr
    assert moved(tmp_path / "two") == [False, True, True]
    assert moved(tmp_path / "two", 1) == [False, False, True]
    expected = load(run(*choices), "last.ckpt")["state_dict"]
    two_ranks = load(tmp_path / "two", "last.ckpt")["state_dict"]
    for name, value in expected.items():
        torch.testing.assert_close(value, two_ranks[name], rtol=1e-3, atol=1e-4)


class ParameterBesideDropout(nn.Module):
    """Has a direct parameter and a child without parameters, like vision transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.pos = nn.Parameter(torch.zeros(4))
        self.dropout = nn.Dropout(0.5)
        self.head = nn.Linear(4, 2)


def test_freezing_a_parameter_keeps_sibling_dropout_active() -> None:
    net = ParameterBesideDropout().train()
    Freezing(net, ["pos"], None).apply(0, 1)
    assert not net.training and net.dropout.training and net.head.training
