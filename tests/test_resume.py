"""A resumed run ends with the bits of an uninterrupted one."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import TINY
from tests.runs import (
    COMPARED,
    EPOCHS,
    RANDOM,
    assert_resumable_at_every_step,
    assert_same,
    assert_same_runs,
    cut_off_after,
    load,
    table,
)


def test_optimizer_states_load_from_any_memory_format(run: Callable[..., Path], tmp_path: Path) -> None:
    whole = run(*TINY, "lit_module/scheduler=constant")
    contiguous = shutil.copytree(whole, tmp_path / "contiguous", symlinks=True)
    checkpoint = load(whole, "last.ckpt")
    states = checkpoint["optimizer_states"][0]["state"].values()
    assert any(not state["exp_avg"].is_contiguous() for state in states)
    for state in states:  # as FSDP leaves them
        state |= {name: state[name].contiguous() for name in ("exp_avg", "exp_avg_sq")}
    (contiguous / "checkpoints" / "last.ckpt").unlink()
    torch.save(checkpoint, contiguous / "checkpoints" / "last.ckpt")
    for folder in (whole, contiguous):
        run(f"run={folder}", "trainer.max_epochs=2")
    for part in COMPARED:
        assert_same(load(contiguous, "last.ckpt")[part], load(whole, "last.ckpt")[part], part)


@pytest.mark.parametrize(
    "choices",
    [
        ("datamodule.batch_size=300", "lit_module/scheduler=warmup_cosine"),
        pytest.param(
            (
                *("datamodule.batch_size=160", "callbacks=[default,ema]", "callbacks.ema.decay=0.9"),
                "trainer.accumulate_grad_batches=2",
            ),
            marks=pytest.mark.slow,
        ),
    ],
    ids=["plain", "average and accumulation"],
)
def test_run_resumed_at_any_step_has_the_same_bits(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, choices: tuple[str, ...]
) -> None:
    assert_resumable_at_every_step(run, monkeypatch, *TINY, *RANDOM, *choices, "trainer.max_epochs=2")


@pytest.mark.parametrize(
    "choices",
    [
        ("lit_module/scheduler=warmup_cosine",),
        pytest.param(("lit_module/scheduler=step", "lit_module.scheduler.step_size=1"), marks=pytest.mark.slow),
        pytest.param(("lit_module/scheduler=cosine", "lit_module/optimizer=sgd"), marks=pytest.mark.slow),
        ("lit_module/scheduler=plateau", "lit_module.scheduler.patience=0", "monitor=train/loss", "mode=min"),
        pytest.param(("lit_module/scheduler=one_cycle",), marks=pytest.mark.slow),
        ("callbacks=[default,ema]", "callbacks.ema.decay=0.9"),
        ("trainer.accumulate_grad_batches=3", "trainer.gradient_clip_val=0.5"),
        ("callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1", "monitor=train/loss", "mode=min"),
        pytest.param(("trainer.precision=bf16-mixed",), marks=pytest.mark.slow),
    ],
    ids=lambda choices: choices[0].split("=", 1)[1],
)
def test_resumed_run_has_the_same_bits(run: Callable[..., Path], choices: tuple[str, ...]) -> None:
    whole = run(*TINY, *RANDOM, *choices, f"trainer.max_epochs={EPOCHS}")
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch=1)

    run(f"run={resumed}")

    assert_same_runs(whole, resumed)
    assert [row["epoch"] for row in table(whole)] == [str(epoch) for epoch in range(len(table(whole)))]


def test_order_from_a_running_generator_fails_the_same_check(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: the check notices an order that depends on what the process drew before."""
    default_rng = np.random.default_rng
    seeds = itertools.count()

    def running(entropy: object) -> np.random.Generator:
        return default_rng(next(seeds) if isinstance(entropy, tuple) else entropy)

    monkeypatch.setattr(np.random, "default_rng", running)
    whole = run(*TINY, f"trainer.max_epochs={EPOCHS}")
    resumed = whole.with_name("resumed")
    shutil.copytree(whole, resumed, symlinks=True)
    cut_off_after(resumed, epoch=1)
    seeds = itertools.count()
    run(f"run={resumed}")
    with pytest.raises(AssertionError, match="state_dict"):
        assert_same(load(whole, "last.ckpt")["state_dict"], load(resumed, "last.ckpt")["state_dict"], "state_dict")
