"""What is typed takes effect or is refused: root keys, and the score that chooses the best epoch."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from omegaconf import OmegaConf

from conf import derived, validation
from conf.errors import UserError
from tests.configs import ROOT
from tests.conftest import TINY, Command, configure
from tests.runs import table

KEYS = ("${epochs}", "${seed}", "${run_dir}")


def values(node: Any, path: str) -> Iterator[tuple[str, str]]:
    """All strings in nested dicts, by their dotted path."""
    for key, child in node.items():
        if isinstance(child, dict):
            yield from values(child, f"{path}.{key}")
        elif isinstance(child, str):
            yield f"{path}.{key}", child


def test_all_derived_values_are_known() -> None:
    from_files = {}
    for file in (ROOT / "conf").glob("*/**/*.yaml"):
        group = file.relative_to(ROOT / "conf").parts[0]
        if group not in ("sweep", "experiment"):
            from_files |= dict(values(yaml.safe_load(file.read_text(encoding="utf-8")), group))
    assert {path: value for path, value in from_files.items() if value.startswith(KEYS)} == derived.DERIVED


def epochs(*overrides: str) -> int:
    cfg = configure(*overrides)
    derived.restore(cfg, overrides)
    validation.check(cfg, overrides)
    number: int = cfg.trainer.max_epochs
    return number


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["trainer=overfit"], 50),
        (["trainer=overfit", "epochs=3"], 3),
        (["trainer=debug", "epochs=2"], 2),
        (["+experiment=digits", "epochs=4"], 4),
        (["trainer.max_epochs=5"], 5),
        (["trainer.max_epochs=5", "epochs=5"], 5),
        (["trainer=overfit", "seed=3"], 50),
    ],
)
def test_typed_epochs_are_trained(overrides: list[str], expected: int) -> None:
    assert epochs(*overrides) == expected


def test_other_typed_keys_reach_what_is_built() -> None:
    cfg = configure("seed=3", "run_dir=here", "trainer=profile")
    for path in derived.DERIVED:
        OmegaConf.update(cfg, path, 7, force_add=True)
    derived.restore(cfg, ["seed=3", "run_dir=here"])
    assert (cfg.datamodule.seed, cfg.lit_module.seed, cfg.trainer.max_epochs) == (3, 3, 7)
    assert cfg.callbacks.checkpoint.weights_file == "here/model.pt" and cfg.trainer.profiler.dirpath == "here"


def test_two_numbers_of_epochs_are_refused() -> None:
    with pytest.raises(UserError, match=r"^epochs: trainer.max_epochs=5 is used instead; leave one of the two out$"):
        epochs("epochs=3", "trainer.max_epochs=5")


def test_resumed_run_has_the_typed_epochs_and_no_fewer(command: Command, tmp_path: Path) -> None:
    run = tmp_path / "run"
    short = [override for override in TINY if "max_epochs" not in override]
    assert command(*short, "trainer.max_epochs=2", f"run_dir={run}").returncode == 0
    config = (run / "config.yaml").read_bytes()
    result = command(f"run={run}", "epochs=1")
    line = "error: epochs: 2 are done already, more than 1; set epochs=2 or more\n"
    assert (result.returncode, result.stderr) == (2, line)
    assert len(table(run)) == 2 and (run / "config.yaml").read_bytes() == config
    assert command(f"run={run}", "epochs=3").returncode == 0
    assert len(table(run)) == 3
    assert command(f"run={run}", "epochs=4").returncode == 0
    assert len(table(run)) == 4


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (
            ["callbacks.checkpoint.mode=min"],
            "callbacks.checkpoint.mode: the best val/f1 is the maximum; set callbacks.checkpoint.mode=max",
        ),
        (
            ["callbacks.checkpoint.monitor=val/loss", "callbacks.checkpoint.mode=min"],
            "callbacks.checkpoint.monitor: the best epoch is chosen by val/f1; set monitor=val/loss mode=min",
        ),
        (
            ["callbacks.checkpoint.monitor=val/acc"],
            "callbacks.checkpoint.monitor: the best epoch is chosen by val/f1; ",
        ),
        (
            ["callbacks=[default,early_stopping]", "callbacks.early_stopping.mode=min"],
            "callbacks.early_stopping.mode: the best val/f1 is the maximum; ",
        ),
        (
            ["callbacks=[default,early_stopping]", "callbacks.early_stopping.monitor=train/loss"],
            "callbacks.early_stopping.mode: the best train/loss is the minimum; ",
        ),
        (
            ["lit_module/scheduler=plateau", "lit_module.scheduler.mode=min"],
            "lit_module.scheduler.mode: the best val/f1 is the maximum; set lit_module.scheduler.mode=max",
        ),
        (
            [
                "+callbacks.swa._target_=pytorch_lightning.callbacks.StochasticWeightAveraging",
                "+callbacks.swa.swa_lrs=0.1",
            ],
            "callbacks.swa: no best epoch would have its weights; use callbacks=[default,ema]",
        ),
    ],
)
def test_only_the_root_chooses_the_best_epoch(overrides: list[str], line: str) -> None:
    with pytest.raises(UserError) as caught:
        validation.check(configure(*overrides), overrides)
    assert str(caught.value).startswith(line)


@pytest.mark.parametrize(
    "overrides",
    [
        ["monitor=val/loss", "mode=min", "callbacks=[default,early_stopping]", "lit_module/scheduler=plateau"],
        ["callbacks=[default,early_stopping]", "callbacks.early_stopping={monitor:train/loss,mode:min}"],
    ],
)
def test_early_stopping_may_watch_another_score(overrides: list[str]) -> None:
    validation.check(configure(*overrides), overrides)
