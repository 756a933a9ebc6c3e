"""AdamToSGD switches once when validation accuracy oscillates, and resumed runs have the same bits."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.errors import InstantiationException
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from conf.errors import UserError
from conf.files import read_rows
from lit_modules.callbacks import adam_to_sgd
from lit_modules.callbacks.adam_to_sgd import rate_ratio
from lit_modules.optim.schedulers import WarmupCosineLR, transfer_schedule
from tests.conftest import TINY
from tests.runs import COMPARED, RANDOM, assert_resumable_at_every_step, assert_same, cut_off_after, load, table

EPOCHS = 4
CHANGING = (
    *TINY,
    *RANDOM,
    "callbacks=[default,adam_to_sgd]",
    "callbacks.adam_to_sgd.window=3",
    "lit_module.optimizer.lr=0.01",
    f"trainer.max_epochs={EPOCHS}",
)


@pytest.fixture
def change_after_the_second_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the scores are: they are those of one machine."""
    monkeypatch.setattr(adam_to_sgd, "jumps", lambda scores, min_jump: int(len(scores) == 3))


def optimizer_of(folder: Path, name: str = "last.ckpt") -> dict[str, object]:
    (state,) = load(folder, name)["optimizer_states"]
    return state


@pytest.mark.parametrize(
    ("scores", "size", "expected"),
    [
        ([0.1, 0.2, 0.3, 0.4, 0.5], 0.01, 0),  # a steady rise
        ([0.9, 0.8, 0.7], 0.01, 0),
        ([0.5, 0.6, 0.5, 0.6, 0.5], 0.01, 3),
        ([0.5, 0.6, 0.5, 0.6, 0.5], 0.2, 0),  # smaller than what counts
        ([0.5, 0.9, 0.895, 0.9], 0.01, 0),  # the way back is too small
        ([0.9, 0.9, 0.2, 0.9, 0.9], 0.01, 1),  # one bad epoch
        ([0.5], 0.01, 0),
        ([], 0.01, 0),
    ],
)
def test_jumps_are_turning_points_of_minimum_size(scores: list[float], size: float, expected: int) -> None:
    assert adam_to_sgd.jumps(scores, size) == expected


def test_random_scores_turn_at_two_of_three_places() -> None:
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(20_000, generator=generator).tolist()
    assert adam_to_sgd.jumps(scores, 1e-9) / len(scores) == pytest.approx(2 / 3, abs=0.01)


def test_rate_ratio_projects_sgd_steps_onto_adam_steps() -> None:
    torch.manual_seed(0)
    weights = nn.Parameter(torch.randn(50, dtype=torch.float64))
    adam = torch.optim.Adam([weights], lr=0.01)
    for _ in range(30):
        adam.zero_grad()
        (weights**4).sum().backward()
        before = weights.detach().clone()
        adam.step()
    mean, adams = adam.state[weights]["exp_avg"] / (1 - 0.9**30), weights.detach() - before
    sgds = -0.01 * rate_ratio(adam) * mean
    torch.testing.assert_close((sgds @ adams) / (adams @ adams) * adams, adams)


def test_schedule_continues_with_the_new_rates() -> None:
    def groups() -> list[dict[str, object]]:
        return [{"params": [nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.1, 2.0)]

    adam, sgd = torch.optim.Adam(groups()), torch.optim.SGD(groups())
    scheduler, alone = WarmupCosineLR(adam, 10, 0.3), WarmupCosineLR(torch.optim.SGD(groups()), 10, 0.3)
    for step in range(10):
        if step == 4:
            transfer_schedule(adam, sgd, 3.0, [scheduler])
        expected = [group["lr"] * (3 if step >= 4 else 1) for group in alone.optimizer.param_groups]
        assert [group["lr"] for group in scheduler.optimizer.param_groups] == pytest.approx(expected)
        scheduler.optimizer.step()
        alone.optimizer.step()
        scheduler.step()
        alone.step()
    assert scheduler.optimizer is sgd


def test_switch_happens_once_at_the_first_oscillation(
    run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder = run(
        *CHANGING, "lit_module.optimizer.lr=0.3", "callbacks.adam_to_sgd.min_jump=1e-9", "trainer.max_epochs=10"
    )
    notice = "val/acc oscillates (1 of 3 epochs): switching from AdamW to SGD, lr 0.3 → "
    assert capsys.readouterr().out.count(notice) == 1
    accuracies = [float(row["val/acc"]) for row in read_rows(folder / "metrics.csv")]
    turned = next(epoch for epoch in range(2, 10) if adam_to_sgd.jumps(accuracies[epoch - 2 : epoch + 1], 1e-9))
    adams = ["exp_avg" in str(optimizer_of(folder, f"epoch={epoch:03d}.ckpt")["state"]) for epoch in range(10)]
    assert adams == [epoch < turned for epoch in range(10)]
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.value for event in events.Scalars("adam_to_sgd/sgd")] == [float(not adam) for adam in adams]


@pytest.mark.usefixtures("change_after_the_second_epoch")
@pytest.mark.parametrize(
    "choices",
    [
        ("lit_module/scheduler=warmup_cosine",),
        ("lit_module/scheduler=step", "+lit_module.param_groups.head={pattern:head.*,lr:0.1,weight_decay:0.0}"),
        pytest.param(
            ("lit_module/scheduler=plateau", "lit_module.scheduler.patience=0", "monitor=train/loss", "mode=min"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("lit_module/scheduler=constant", "callbacks=[default,ema,adam_to_sgd]", "callbacks.ema.decay=0.9"),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            ("lit_module.freeze=[blocks.0.*]", "lit_module.unfreeze_epoch=3", "lit_module.layer_decay=0.5"),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["warmup_cosine", "step and groups", "plateau", "average", "frozen until later"],
)
@pytest.mark.parametrize("epoch", [pytest.param(1, marks=pytest.mark.slow), 2], ids=["before", "after"])
def test_resumed_run_has_the_same_bits(run: Callable[..., Path], choices: tuple[str, ...], epoch: int) -> None:
    whole = run(*CHANGING, *choices)
    assert "exp_avg" in str(optimizer_of(whole, "epoch=001.ckpt")["state"])
    assert "momentum_buffer" in str(optimizer_of(whole)["state"])
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch)

    run(f"run={resumed}")

    ours, theirs = load(whole, "last.ckpt"), load(resumed, "last.ckpt")
    for part in COMPARED:
        assert_same(ours[part], theirs[part], part)
    assert table(whole) == table(resumed)


@pytest.mark.slow
@pytest.mark.usefixtures("change_after_the_second_epoch")
def test_run_resumed_at_any_step_has_the_same_bits(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    # Three steps an epoch; the change comes after the ninth.
    assert_resumable_at_every_step(run, monkeypatch, *CHANGING, "datamodule.batch_size=500", first=4)


@pytest.mark.slow
def test_two_ranks_switch_together_and_resume(
    process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    choices = [*CHANGING, "lit_module.optimizer.lr=0.3", "callbacks.adam_to_sgd.min_jump=1e-9", "trainer.max_epochs=10"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    two = ("devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2")
    assert (result := process(*choices, *two, f"run_dir={whole}")).returncode == 0, result.stderr
    assert result.stdout.count("from AdamW to SGD") == 1
    shutil.copytree(whole, resumed, symlinks=True)
    for later in range(9, 10):
        (resumed / "checkpoints" / f"epoch={later:03d}.ckpt").unlink()
    (resumed / "checkpoints" / "last.ckpt").unlink()
    assert (result := process(f"run={resumed}")).returncode == 0, result.stderr
    assert "from AdamW to SGD" not in result.stdout
    ours, theirs = load(whole, "last.ckpt"), load(resumed, "last.ckpt")
    assert "momentum_buffer" in str(optimizer_of(resumed)["state"])
    for part in COMPARED:
        assert_same(ours[part], theirs[part], part)


@pytest.mark.parametrize(
    ("choices", "problem"),
    [
        (("lit_module/optimizer=sgd",), r"lit_module\.optimizer: adam_to_sgd requires Adam, .* not SGD"),
        (
            ("lit_module/scheduler=one_cycle",),
            r"lit_module\.scheduler: OneCycleLR cannot continue with another",
        ),
        (("+lit_module.param_groups.h={pattern:head.*,eps:1.0}",), r"param_groups\.h\.eps: the optimizer has no such"),
    ],
    ids=["optimizer", "schedule", "group"],
)
def test_unsupported_options_are_rejected_before_writing(
    run: Callable[..., Path], tmp_path: Path, choices: tuple[str, ...], problem: str
) -> None:
    with pytest.raises((UserError, InstantiationException)) as refused:
        run(*CHANGING, *choices)
    assert re.search(problem, f"{refused.value}{refused.value.__cause__}")
    assert not (tmp_path / "run").exists()


def test_resumed_run_keeps_the_callback(run: Callable[..., Path]) -> None:
    folder = run(*CHANGING, "trainer.max_epochs=1")
    with pytest.raises(UserError, match=r"^callbacks\.adam_to_sgd\..*a resumed run keeps it"):
        run(f"run={folder}", "callbacks=[default]")
