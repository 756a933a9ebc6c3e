"""A run from a stranger: each task ends in one line, and executes, reads and writes nothing for its sender."""

import os
import shutil
from collections.abc import Callable
from itertools import cycle, product
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from tests.conftest import TINY, Command

TASKS = {
    "resume": ["trainer.max_epochs=2"],
    "test": ["task=test"],
    "predict": ["task=predict", "input={folder}/mine"],
    "export": ["task=export", "format=safetensors"],
    "inspect": ["task=inspect"],
    "report": ["task=report"],
    "tune": ["task=tune"],
    "sweep": ["task=sweep", "+space={{seed:[0]}}"],
}


class Code:
    """What a pickle executes when it is loaded without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.file),)


def setting(key: str, value: str) -> Callable[[Path, Path], None]:
    """Sets a key of config.yaml; {mine} stands for a folder of the receiver."""

    def change(run: Path, mine: Path) -> None:
        cfg = OmegaConf.load(run / "config.yaml")
        OmegaConf.update(cfg, key, OmegaConf.create(f"x: {value.replace('{mine}', str(mine))}").x, force_add=True)
        OmegaConf.save(cfg, run / "config.yaml")

    return change


def link(name: str) -> Callable[[Path, Path], None]:
    def change(run: Path, mine: Path) -> None:
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(mine)

    return change


def code(run: Path, mine: Path) -> None:
    for path in [*run.glob("checkpoints/epoch=*.ckpt"), run / "checkpoints" / "last.ckpt", run / "model.pt"]:
        torch.save({"state_dict": Code(mine / "executed"), "class_names": ["a", "b"]}, path)


WRITER = "pytorch_lightning.core.saving.save_hparams_to_yaml"
HOSTILE = {
    "cache folder by a class": setting("datamodule.cache", "{_target_: torch.nn.ReLU}"),
    "a function that writes": setting("lit_module.net", f"{{_target_: {WRITER}, config_yaml: '{{mine}}/a'}}"),
    "a network that is no module": setting("lit_module.net._target_", "os.system"),
    "weights over a thesis": setting("callbacks.checkpoint.weights_file", "{mine}/thesis.tex"),
    "a variable of the environment": setting("name", "${oc.env:HOME}"),
    "Hydra's section": setting("hydra.job.env_set.PATH", "{mine}"),
    "a tracker": setting("logger.tracker._target_", "pytorch_lightning.loggers.MLFlowLogger"),
    "an output": setting("output", "{mine}"),
    "predictions elsewhere": link("predictions"),
    "a report elsewhere": link("report"),
    "a lock elsewhere": link(".lock"),
    "a bucket": setting("datamodule.root", "s3://evil/images"),
    "pickled code": code,
}
# Tasks that use nothing of what is hostile, and may do their work.
HARMLESS = (
    {("pickled code", task) for task in ("inspect", "tune", "sweep")}
    | {(name, "predict") for name in ("cache folder by a class",)}
    | {("a tracker", task) for task in ("test", "predict", "export", "inspect", "tune")}
)


def state(folder: Path) -> dict[str, bytes | None]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def honest(shared_run: Callable[..., Path]) -> Path:
    return shared_run(*TINY)


def check(tmp_path: Path, command: Command, honest: Path, name: str, task: str) -> None:
    """Run a task on a hostile copy of a run."""
    mine, run = tmp_path / "mine", tmp_path / "received"
    mine.mkdir()
    (mine / "thesis.tex").write_text("years of work")
    before = state(mine)
    shutil.copytree(honest, run, symlinks=True)
    HOSTILE[name](run, mine)
    result = command(f"run={run}", *(word.format(folder=tmp_path) for word in TASKS[task]), cwd=tmp_path)
    output = f"{result.stdout}\n{result.stderr}"
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert (result.returncode, len(lines)) == (2, 1) or (name, task) in HARMLESS, output
    assert "Traceback" not in result.stderr, output
    assert state(mine) == before, output


EACH_WITH_ONE_TASK = list(zip(HOSTILE, cycle(TASKS), strict=False))


@pytest.mark.parametrize(("name", "task"), EACH_WITH_ONE_TASK)
def test_hostile_run_does_nothing(tmp_path: Path, command: Command, honest: Path, name: str, task: str) -> None:
    check(tmp_path, command, honest, name, task)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "task"), [pair for pair in product(HOSTILE, TASKS) if pair not in EACH_WITH_ONE_TASK])
def test_hostile_run_does_nothing_in_any_task(
    tmp_path: Path, command: Command, honest: Path, name: str, task: str
) -> None:
    check(tmp_path, command, honest, name, task)


def test_comparison_follows_no_link_of_a_received_run(tmp_path: Path, command: Command, honest: Path) -> None:
    shutil.copytree(honest, tmp_path / "run", symlinks=True)
    (tmp_path / "secret.json").write_text('{"test/acc": 1.0, "password": 12345}')
    link("summary.json")(tmp_path / "run", tmp_path / "secret.json")
    result = command("task=compare", f"runs=[{honest},{tmp_path / 'run'}]", f"output={tmp_path / 'out'}")
    assert result.returncode == 2
    assert "summary.json: is a link that leaves its folder" in result.stderr
    assert "12345" not in result.stdout + result.stderr
