"""A file system that fails at any operation: one line, exit code 2, nothing lost."""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import TINY, Command, write_images
from tests.faulty_files import ERRORS, FaultyFiles

FIT = ("+experiment=from_scratch", *TINY, "lit_module.net.pool=2")
TASKS = {
    "fit": (*FIT, "datamodule.root={root}", "run_dir={root}/../new"),
    "resume": ("run={root}/../run", "trainer.max_epochs=2"),
    "test": ("run={root}/../run", "task=test"),
    "predict": ("run={root}/../run", "task=predict", "input={root}", "output={root}/../predictions"),
    "export": ("run={root}/../run", "task=export", "format=safetensors", "output={root}/../export"),
    "inspect": ("task=inspect", "datamodule=image_folder", "datamodule.root={root}", "output={root}/../report"),
    "compare": ("task=compare", "runs=[{root}/../run,{root}/../run]", "output={root}/../comparison"),
}
SOME = 12  # operations of a task and an error that fail, one in each test


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def fail(tmp_path: Path, run: Callable[..., Path], command: Command, monkeypatch: pytest.MonkeyPatch) -> Callable:
    """Runs a task on a folder of images and a trained run, while one operation fails."""
    for name, level in (("dark", 60), ("light", 190)):
        write_images(tmp_path / "images" / name, 20, level=level)
    run(*FIT, f"datamodule.root={tmp_path / 'images'}")
    shutil.copytree(tmp_path / "run", tmp_path / "kept", symlinks=True)
    data = tree(tmp_path / "images")

    def fail(task: str, number: int, at: int | None) -> tuple[FaultyFiles, list[str]]:
        for name in ("new", "predictions", "export", "report", "comparison", "run", "cache"):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", tmp_path / "run", symlinks=True)
        faults = FaultyFiles(tmp_path, number, at)
        words = [word.format(root=tmp_path / "images").replace("images/../", "") for word in TASKS[task]]
        with monkeypatch.context() as patch:
            faults.install(patch)
            result = command(*words, f"logs_dir={tmp_path / 'logs'}", LITMUS_CACHE=str(tmp_path / "cache"))
        lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        trained = tmp_path / ("run" if task == "resume" else "new")
        told = f"{task}, errno {number}, operation {at}: {faults.failed}\n{result.stderr}\n{result.stdout}"
        assert "Traceback" not in result.stderr, told
        assert (result.returncode, len(lines)) in ((0, 0), (2, 1), (3, 0)), told
        assert tree(tmp_path / "images") == data, told
        if task in ("fit", "resume") and lines:
            has_checkpoint = any(trained.glob("checkpoints/*.ckpt"))
            resume = [f"run={trained}", "trainer.max_epochs=2"]
            again = command(*(resume if has_checkpoint else words), LITMUS_CACHE=str(tmp_path / "cache"))
            assert again.returncode == 0, f"{told}\nthen {again.stderr}"
        return faults, lines

    return fail


# TensorBoard's writer raises the error of its thread again in the main thread; Pillow leaves closing to the collector.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.slow
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("task", TASKS)
def test_any_failing_operation_is_one_line(fail: Callable, task: str, error: str) -> None:
    count = fail(task, ERRORS[error], None)[0].count
    assert count > SOME
    for at in sorted(random.Random(0).sample(range(count), SOME)):
        fail(task, ERRORS[error], at)
