"""Profiling leaves the weights as they are."""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.conftest import TINY


def test_profiled_run_writes_a_profile_and_the_same_weights(run: Callable[..., Path], tmp_path: Path) -> None:
    plain = run(*TINY, f"run_dir={tmp_path / 'plain'}")
    profiled = run(*TINY, "trainer=profile", f"run_dir={tmp_path / 'profiled'}")
    assert not list(plain.glob("*profile*"))
    assert "SingleDeviceStrategy.training_step" in (profiled / "fit-profile.txt").read_text(encoding="utf-8")
    weights = torch.load(profiled / "model.pt", weights_only=True)
    for name, expected in torch.load(plain / "model.pt", weights_only=True).items():
        assert torch.equal(weights[name], expected)
