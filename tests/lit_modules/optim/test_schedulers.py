"""Warm-up and cosine follow their formula, and a run may be resumed with more epochs."""

import math
from itertools import pairwise

import pytest
import torch
from hydra.utils import instantiate

from lit_modules.optim.schedulers import LinearToZeroLR, WarmupCosineLR, build_scheduler, warmup_cosine
from tests.configs import ROOT, configure

SCHEDULERS = sorted(file.stem for file in (ROOT / "conf/lit_module/scheduler").glob("*.yaml"))


def optimizer(*rates: float) -> torch.optim.SGD:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in rates or (1.0,)])


def rates_over(scheduler: WarmupCosineLR | LinearToZeroLR, steps: int) -> list[list[float]]:
    """The learning rates of `steps` optimizer steps."""
    rates = []
    for _ in range(steps):
        rates.append([group["lr"] for group in scheduler.optimizer.param_groups])
        scheduler.optimizer.step()
        scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 0.05),  # 19 steps: the progress of step s is (s + 1) / 20
        (2, 0.15),
        (3, 0.2),
        (11, 0.6),
        (19, 1.0),
    ],
)
def test_factor_follows_the_formula(step: int, expected: float) -> None:
    rising, falling = expected / 0.2, (1 + math.cos(math.pi * (expected - 0.2) / 0.8)) / 2
    assert warmup_cosine(step, 19, warmup=0.2) == pytest.approx(rising if expected < 0.2 else falling, abs=1e-12)


def test_factor_passes_through_half_a_cosine() -> None:
    factors = [warmup_cosine(step, 19, warmup=0.2) for step in (3, 7, 11, 15, 19)]
    half = math.sqrt(0.5)
    assert factors == pytest.approx([1, (1 + half) / 2, 0.5, (1 - half) / 2, 0], abs=1e-12)


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.3, 0.9])
@pytest.mark.parametrize("total", [1, 7, 500])
def test_factor_rises_then_falls_to_zero(total: int, warmup: float) -> None:
    factors = [warmup_cosine(step, total, warmup) for step in range(total + 1)]
    peak = factors.index(max(factors))
    assert all(a < b for a, b in pairwise(factors[: peak + 1]))
    assert all(a > b for a, b in pairwise(factors[peak:]))
    assert abs((peak + 1) / (total + 1) - warmup) <= 1 / (total + 1)
    assert min(factors[:-1]) > 0 and max(factors) <= 1
    assert factors[-1] == pytest.approx(0, abs=1e-12)


def test_scheduler_scales_the_rate_of_each_group() -> None:
    rates = rates_over(WarmupCosineLR(optimizer(0.1, 2.0), total_steps=10, warmup=0.3), 10)
    factors = [warmup_cosine(step, 10, 0.3) for step in range(10)]
    assert rates == [pytest.approx([0.1 * factor, 2 * factor]) for factor in factors]


def test_state_excludes_the_length_of_the_run() -> None:
    scheduler = WarmupCosineLR(optimizer(), total_steps=10, warmup=0.3)
    rates_over(scheduler, 4)
    assert "total_steps" not in scheduler.state_dict() and 10 not in scheduler.state_dict().values()
    assert scheduler.total_steps == 10


@pytest.mark.parametrize(("done", "total"), [(3, 6), (3, 12), (6, 12)])
def test_resumed_run_follows_its_new_length(done: int, total: int) -> None:
    first = WarmupCosineLR(optimizer(), total_steps=6, warmup=0.3)
    rates_over(first, done)
    second = WarmupCosineLR(optimizer(), total_steps=total, warmup=0.3)
    second.optimizer.load_state_dict(first.optimizer.state_dict())  # in the order of Lightning
    second.load_state_dict(first.state_dict())
    expected = [warmup_cosine(step, total, 0.3) for step in range(done, total)]
    assert [rate for (rate,) in rates_over(second, total - done)] == pytest.approx(expected)


def test_linear_rates_reach_zero_at_end_fraction() -> None:
    weights = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [
        {"params": [weights[0]], "lr": 2.0, "name": "rest"},
        {"params": [weights[1]], "lr": 0.5, "end_fraction": 0.375},
    ]
    scheduler = LinearToZeroLR(torch.optim.SGD(groups), total_steps=8)
    rates = rates_over(scheduler, 9)
    assert [rest for rest, _ in rates] == pytest.approx([2 * (1 - step / 8) for step in range(9)])
    assert [bias for _, bias in rates] == pytest.approx([0.5, 0.5 * 2 / 3, 0.5 / 3, *[0] * 6], abs=1e-12)


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name != "constant"])
def test_groups_keep_the_ratio_of_their_rates(name: str) -> None:
    """Discriminative rates, of `param_groups` and `layer_decay`, under every schedule."""
    node = configure(f"lit_module/scheduler={name}", "lit_module.optimizer.lr=0.5").lit_module.scheduler
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in (0.5, 0.05)]
    scheduler = build_scheduler(instantiate(node, _convert_="all"), torch.optim.SGD(groups, lr=0.5), total_steps=8)
    for _ in range(8):
        large, small = (group["lr"] for group in scheduler.optimizer.param_groups)
        assert small == pytest.approx(0.1 * large, rel=1e-6, abs=1e-7)
        scheduler.optimizer.step()
        scheduler.step(*([1.0] if name == "plateau" else []))
