"""A run is the same, watched or not."""

from collections.abc import Callable
from pathlib import Path

import torch

from tests.conftest import TINY


def test_profile_says_where_the_time_goes_and_changes_no_weight(run: Callable[..., Path], tmp_path: Path) -> None:
    plain = run(*TINY, f"run_dir={tmp_path / 'plain'}")
    watched = run(*TINY, "trainer=profile", f"run_dir={tmp_path / 'watched'}")
    assert not list(plain.glob("*profile*"))
    assert "SingleDeviceStrategy.training_step" in (watched / "fit-profile.txt").read_text(encoding="utf-8")
    ours, theirs = (torch.load(folder / "model.pt", weights_only=True) for folder in (watched, plain))
    assert all(torch.equal(ours[name], value) for name, value in theirs.items())
