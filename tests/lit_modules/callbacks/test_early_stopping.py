"""A run that was stopped stays so when it is resumed, unless it is given more patience."""

from collections.abc import Callable
from pathlib import Path

from lit_modules.runs.run_folder import read_metrics
from tests.conftest import TINY


def test_resumed_run_stays_stopped(run: Callable[..., Path]) -> None:
    still = ["lit_module.optimizer.lr=0", "lit_module.net.norm=none"]
    patience = ["callbacks=[default,early_stopping]", "callbacks.early_stopping.patience=1"]
    folder = run(*TINY, *still, *patience, "trainer.max_epochs=5")
    rows = read_metrics(folder)
    assert len(rows) == 2, "the second epoch is no better than the first"
    run(f"run={folder}")
    assert read_metrics(folder) == rows
    run(f"run={folder}", "callbacks.early_stopping.patience=2")
    assert len(read_metrics(folder)) == 3
