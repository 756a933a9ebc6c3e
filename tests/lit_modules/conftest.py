"""Fixtures of the tests of lit_modules."""

from pathlib import Path

import pytest

import train
from tests.conftest import configure
from tests.fits import SHORT


@pytest.fixture(scope="module")
def one_cycle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch whose schedule has a fixed length."""
    folder = tmp_path_factory.mktemp("one_cycle") / "run"
    train.fit(configure(*SHORT, "lit_module/scheduler=one_cycle", f"run_dir={folder}"))
    return folder
