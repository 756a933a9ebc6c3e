"""A learning rate and a batch size are found by real training steps, and what is suggested trains well."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, Trainer

import train
from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.runs.run_folder import read_metrics
from lit_modules.runs.tuning import (
    SHORT,
    LRRangeTest,
    Throughput,
    smallest_near_peak,
    smooth,
    steepest_lr,
    time_batch_sizes,
)
from tests.conftest import configure

UNDRAWN = ("++callbacks.predictions=null", "++callbacks.dashboard=null")
DIGITS = ("+experiment=digits", "devices=cpu", "lit_module.net.channels=[8,16,16]", *UNDRAWN)
RATES = np.geomspace(1e-6, 10, 100)


def test_steepest_fall_is_found() -> None:
    decades = np.log10(RATES)
    losses = 2.3 - 2 / (1 + np.exp(-4 * (decades + 2.5))) + np.exp(5 * decades)  # falls at 10^-2.5, is lost at 1
    noise = np.random.default_rng(0).normal(0, 0.02, 100)
    found = steepest_lr(RATES.tolist(), (losses + noise).tolist())
    assert found is not None and abs(np.log10(found) + 2.5) < 0.25


def test_smoothing_is_not_late() -> None:
    step = np.repeat([1.0, 0.0], 50)
    assert smooth(step)[49] + smooth(step)[50] == pytest.approx(1)
    assert smooth([3.0] * 7) == pytest.approx([3.0] * 7)


@pytest.mark.parametrize("losses", [np.linspace(1, 2, 100), np.full(100, np.nan), np.array([1.0, np.nan])])
def test_no_rate_is_suggested_where_the_loss_never_falls(losses: np.ndarray) -> None:
    assert steepest_lr(RATES[: len(losses)].tolist(), losses.tolist()) is None


def test_losses_that_are_no_numbers_are_left_out() -> None:
    losses = np.append(np.linspace(2, 1, 60), [np.inf, *[np.nan] * 39])
    found = steepest_lr(RATES.tolist(), losses.tolist())
    assert found is not None and found < RATES[60]


def test_smallest_batch_of_nearly_the_highest_speed_is_enough() -> None:
    speeds = [Throughput(8 * 2**i, speed, None) for i, speed in enumerate([10.0, 50.0, 91.0, 100.0, 99.0])]
    assert smallest_near_peak(speeds) == 32


def trainer_of(overrides: tuple[str, ...]) -> tuple[Any, Any, Callable[..., Trainer]]:
    cfg = configure(*overrides)
    cfg.callbacks, cfg.logger, cfg.lit_module.scheduler = {}, {}, None
    datamodule, module, _ = train.build(cfg)

    def build(**choices: Any) -> Trainer:
        return Trainer(accelerator="cpu", logger=False, enable_model_summary=False, **choices)

    return datamodule, module, build


def test_rates_rise_geometrically_and_groups_keep_ratios(tmp_path: Path) -> None:
    datamodule, module, build = trainer_of((*DIGITS, "lit_module.layer_decay=0.5", f"logs_dir={tmp_path}"))
    seen: list[list[float]] = []

    class Look(Callback):
        def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
            seen.append([group["lr"] for group in optimizer.param_groups])

    test = LRRangeTest(1e-5, 1e-2, 30)
    build(callbacks=[test, Look()], max_steps=30, **SHORT).fit(module, datamodule)
    assert test.rates == pytest.approx(np.geomspace(1e-5, 1e-2, 30))
    assert [max(rates) for rates in seen] == pytest.approx(test.rates)
    proportions = np.array(seen) / np.array(seen).max(1, keepdims=True)
    assert len(set(np.round(proportions[0], 9))) > 2
    assert np.allclose(proportions, proportions[0])


def test_several_batches_of_a_step_have_one_rate(tmp_path: Path) -> None:
    datamodule, module, build = trainer_of((*DIGITS, f"logs_dir={tmp_path}"))
    test = LRRangeTest(1e-5, 1e-1, 20)
    build(callbacks=[test], max_steps=20, accumulate_grad_batches=2, **SHORT).fit(module, datamodule)
    assert test.rates == pytest.approx(np.geomspace(1e-5, 1e-1, 20))
    assert 2 < test.losses[0] < 6, "a mean of both, not what each adds to the gradient"


def test_it_stops_when_the_loss_is_lost(tmp_path: Path) -> None:
    datamodule, module, build = trainer_of((*DIGITS, "lit_module/optimizer=sgd", f"logs_dir={tmp_path}"))
    test = LRRangeTest(1e-3, 1e6, 60)
    build(callbacks=[test], max_steps=60, **SHORT).fit(module, datamodule)
    assert 5 < len(test.losses) < 60


def test_sizes_that_do_not_fit_end_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule, module, build = trainer_of((*DIGITS, f"logs_dir={tmp_path}"))
    step = module.training_step

    def full_from_64_on(batch: Any, batch_idx: int) -> Any:
        if len(batch.labels) > 63:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return step(batch, batch_idx)

    monkeypatch.setattr(module, "training_step", full_from_64_on)
    monkeypatch.setattr("lit_modules.runs.tuning.MIN_SPEEDUP", 0.0)
    speeds, all_fit = time_batch_sizes(module, datamodule, build)
    assert [speed.batch_size for speed in speeds] == [8, 16, 32] and not all_fit
    assert all(speed.per_second > 0 for speed in speeds)


def test_another_error_is_no_lack_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datamodule, module, build = trainer_of((*DIGITS, f"logs_dir={tmp_path}"))
    monkeypatch.setattr(module, "training_step", lambda batch, batch_idx: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        time_batch_sizes(module, datamodule, build)


@pytest.mark.slow
def test_suggested_rate_trains_better_than_others(
    run: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*DIGITS, "task=tune", f"output={tmp_path / 'tune'}")
    found = json.loads((tmp_path / "tune" / "tuning.json").read_text())
    assert sorted(path.name for path in (tmp_path / "tune").iterdir()) == ["tuning.json", "tuning.png"]
    assert not (tmp_path / "run").exists(), "no run was made"
    rate, size = found["learning_rate"]["suggested"], found["batch_size"]["suggested"]
    lines = capsys.readouterr().out
    assert f"lit_module.optimizer.lr={rate:.2g}" in lines and f"datamodule.batch_size={size}" in lines
    assert size in [speed["batch_size"] for speed in found["batch_size"]["speeds"]]
    accuracy = {}
    for factor in (0.01, 1.0, 100.0):
        folder = tmp_path / f"{factor}"
        choices = (f"lit_module.optimizer.lr={rate * factor}", "lit_module/scheduler=constant", "epochs=2")
        run(*DIGITS, *choices, f"run_dir={folder}", "~callbacks.divergence_guard", "test=false")
        accuracy[factor] = read_metrics(folder)[-1]["val/acc"]
    assert accuracy[1.0] > max(accuracy[0.01], accuracy[100.0]) + 0.1


def test_no_rate_at_all_is_one_line(run: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^lit_module\.optimizer\.lr: 0 leaves the ratios"):
        run(*DIGITS, "task=tune", "lit_module.optimizer.lr=0", f"output={tmp_path / 'tune'}")


def test_a_loss_that_is_never_a_number_is_one_line(
    run: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = LitClassifier.training_step
    monkeypatch.setattr(LitClassifier, "training_step", lambda *arguments: step(*arguments) * float("nan"))
    with pytest.raises(UserError, match=r"^lit_module: the loss is not finite from the first step"):
        run(*DIGITS, "task=tune", f"output={tmp_path / 'tune'}")


@pytest.mark.parametrize("wrong", ["min_lr=1", "min_lr=0", "max_lr=1e-9", "num_steps=3"])
def test_a_range_that_is_none_is_one_line(run: Callable[..., Path], tmp_path: Path, wrong: str) -> None:
    choices = ("max_lr=0.1",) if wrong == "min_lr=1" else ()
    with pytest.raises(UserError, match=r"^min_lr, max_lr, num_steps: .* is not a range"):
        run(*DIGITS, "task=tune", wrong, *choices, f"output={tmp_path / 'tune'}")
    assert not (tmp_path / "tune").exists()
