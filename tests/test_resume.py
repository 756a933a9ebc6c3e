"""A run that goes on from a checkpoint ends with the bits of one that never stopped."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.runs import COMPARED, EPOCHS, RANDOM, assert_resumable_at_every_step, assert_same, cut_off_after, load, table


def test_states_of_an_optimizer_may_lie_otherwise_in_memory(run: Callable[..., Path], tmp_path: Path) -> None:
    whole = run(*TINY, "lit_module/scheduler=constant")
    turned = shutil.copytree(whole, tmp_path / "turned", symlinks=True)
    checkpoint = load(whole, "last.ckpt")
    states = checkpoint["optimizer_states"][0]["state"].values()
    assert any(not state["exp_avg"].is_contiguous() for state in states)
    for state in states:  # as FSDP leaves them
        state |= {name: state[name].contiguous() for name in ("exp_avg", "exp_avg_sq")}
    (turned / "checkpoints" / "last.ckpt").unlink()
    torch.save(checkpoint, turned / "checkpoints" / "last.ckpt")
    for folder in (whole, turned):
        run(f"run={folder}", "trainer.max_epochs=2")
    for part in COMPARED:
        assert_same(load(turned, "last.ckpt")[part], load(whole, "last.ckpt")[part], part)


@pytest.mark.parametrize(
    "choices",
    [
        ("lit_module/scheduler=warmup_cosine",),
        ("callbacks=[default,ema]", "callbacks.ema.decay=0.9", "trainer.accumulate_grad_batches=2"),
    ],
    ids=["plain", "average and accumulation"],
)
def test_run_resumed_at_any_step_has_the_same_bits(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, choices: tuple[str, ...]
) -> None:
    assert_resumable_at_every_step(
        run, monkeypatch, *TINY, *RANDOM, *choices, "trainer.max_epochs=2", "datamodule.batch_size=160"
    )


@pytest.mark.parametrize(
    "choices",
    [
        ("lit_module/scheduler=warmup_cosine",),
        ("lit_module/scheduler=step", "lit_module.scheduler.step_size=1"),
        ("lit_module/scheduler=cosine", "lit_module/optimizer=sgd"),
        ("lit_module/scheduler=plateau", "lit_module.scheduler.patience=0", "monitor=train/loss", "mode=min"),
        ("lit_module/scheduler=one_cycle",),
        ("callbacks=[default,ema]", "callbacks.ema.decay=0.9"),
        ("trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5"),
        ("callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1", "monitor=train/loss", "mode=min"),
        ("trainer.precision=bf16-mixed",),
    ],
    ids=lambda choices: choices[0].split("=", 1)[1],
)
def test_resumed_run_has_the_same_bits(run: Callable[..., Path], choices: tuple[str, ...]) -> None:
    whole = run(*TINY, *RANDOM, *choices, f"trainer.max_epochs={EPOCHS}")
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch=1)

    run(f"run={resumed}")

    ours, theirs = load(whole, "last.ckpt"), load(resumed, "last.ckpt")
    for part in COMPARED:
        assert_same(ours[part], theirs[part], part)
    assert table(whole) == table(resumed)
    assert [row["epoch"] for row in table(whole)] == [str(epoch) for epoch in range(len(table(whole)))]


def test_order_that_is_not_derived_fails_the_same_check(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The negative control: were an epoch's order drawn from a generator that a process begins anew, it would show."""
    derived = np.random.default_rng
    drawn = itertools.count()

    def not_derived(entropy: object) -> np.random.Generator:
        return derived(next(drawn)) if isinstance(entropy, tuple) else derived(entropy)

    monkeypatch.setattr(np.random, "default_rng", not_derived)
    whole = run(*TINY, f"trainer.max_epochs={EPOCHS}")
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch=1)
    drawn = itertools.count()
    run(f"run={resumed}")
    with pytest.raises(AssertionError, match="state_dict"):
        assert_same(load(whole, "last.ckpt")["state_dict"], load(resumed, "last.ckpt")["state_dict"], "state_dict")
