"""Learning-rate schedules in a fit equal torch's own, also when resumed."""

import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conf.errors import UserError
from tests.fits import SHORT, STEPS, Steps, fit


def plain_rates(scheduler: Callable[[Any], Any], interval: str, epochs: int, steps: int) -> list[float]:
    """The learning rate of every step of a run with a scheduler of torch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.001)
    stepper = scheduler(optimizer)
    rates = []
    for _ in range(epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if interval == "step":
                stepper.step()
        if interval == "epoch":
            stepper.step()
    return rates


def warmup_cosine(total: int) -> Callable[[Any], Any]:
    def factor(step: int) -> float:
        done = (step + 1) / (total + 1)
        return done / 0.2 if done < 0.2 else (1 + math.cos(math.pi * (done - 0.2) / 0.8)) / 2

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "choice", ["warmup_cosine", "warmup_cosine by epoch", "one_cycle", "step", "cosine", "constant"]
)
def test_learning_rates_are_those_of_plain_torch(choice: str, accumulate: int) -> None:
    steps = math.ceil(STEPS / accumulate)
    schedulers = torch.optim.lr_scheduler
    interval, scheduler, *options = {
        "warmup_cosine": ("step", warmup_cosine(3 * steps)),
        "warmup_cosine by epoch": ("epoch", warmup_cosine(3), "lit_module.interval=epoch"),
        "one_cycle": ("step", lambda it: schedulers.OneCycleLR(it, max_lr=0.001, total_steps=3 * steps)),
        "step": ("epoch", lambda it: schedulers.StepLR(it, step_size=2, gamma=0.1), "lit_module.scheduler.step_size=2"),
        "cosine": ("epoch", lambda it: schedulers.CosineAnnealingLR(it, T_max=3)),
        "constant": ("epoch", lambda it: schedulers.ConstantLR(it, factor=1)),
    }[choice]
    spy = Steps()
    fit(
        f"lit_module/scheduler={choice.split()[0]}", *options, "trainer.max_epochs=3",
        f"trainer.accumulate_grad_batches={accumulate}", spies=(spy,),
    )  # fmt: skip
    assert spy.rates == pytest.approx(plain_rates(scheduler, interval, 3, steps), abs=1e-12)


def test_epoch_schedule_without_max_epochs_is_rejected() -> None:
    with pytest.raises(UserError, match=r"trainer\.max_epochs"):
        fit("trainer.max_epochs=-1", "trainer.max_steps=5", "lit_module.interval=epoch")


def test_plateau_uses_the_monitored_metric() -> None:
    spy = Steps()
    fit(
        "lit_module/scheduler=plateau", "lit_module.scheduler.patience=0", "monitor=train/loss", "mode=min",
        "trainer.max_epochs=6", "lit_module.optimizer.lr=1e-5", spies=(spy,),
    )  # fmt: skip
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    expected = [1e-5]
    for loss in spy.epoch_losses:
        scheduler.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert spy.rates[::STEPS] == expected
    assert len(set(expected)) > 1  # it did reduce


def test_one_cycle_is_not_resumed_with_another_length(one_cycle: Path, run: Callable[..., Path]) -> None:
    folder = shutil.copytree(one_cycle, one_cycle.with_name("longer"), symlinks=True)
    with pytest.raises(UserError, match=r"lit_module\.scheduler: the OneCycleLR of this run has 5 steps, not 10"):
        run(f"run={folder}", "trainer.max_epochs=2")
    # Nor is its config changed, by which it goes on as it was.
    assert (folder / "config.yaml").read_text() == (one_cycle / "config.yaml").read_text()


def test_cosine_is_not_resumed_with_another_length(run: Callable[..., Path]) -> None:
    folder = run(*SHORT, "lit_module/scheduler=cosine")
    with pytest.raises(UserError, match=r"lit_module\.scheduler: the CosineAnnealingLR of this run has 1"):
        run(f"run={folder}", "trainer.max_epochs=2")
