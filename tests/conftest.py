"""What several tests share: runs in this process, runs as a user starts them, and small folders of images."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from PIL import Image

import train
from conf import saved_config, schema, validation
from datamodules.datamodule import DataModule

# Two threads in each of several processes fight over two cores; and the bits of a sum depend on their number.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HYDRA_FULL_ERROR"] = "1"
Command = Callable[..., subprocess.CompletedProcess[str]]
ROOT = Path(__file__).parent.parent
# Without what draws, which takes longer than such a run; its own tests take DRAWN.
UNDRAWN = ("++callbacks.predictions=null", "++callbacks.dashboard=null")
DRAWN = ("devices=cpu", "lit_module.net.channels=[4,8]", "trainer.max_epochs=1")
TINY = (*DRAWN, *UNDRAWN)
# A data module of images with nothing but what it cannot do without.
PLAIN = {
    "batch_size": 8, "val_fraction": 0.25, "test_fraction": 0.25, "split_seed": 0, "seed": 0, "classes": None,
    "sampler": "shuffle", "augment": {}, "mix": None, "drop_last": False, "on_error": "raise",
    "gpu_cache_fraction": 0.0,
    "channels": "auto", "image_size": None, "resize": "pad", "jpeg_draft": True, "cache": "memory", "cache_dir": "",
    "num_workers": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def stamp(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    monkeypatch.setenv("LITMUS_STAMP", "now")
    monkeypatch.setenv("LITMUS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    schema.register()


def configure(*overrides: str) -> DictConfig:
    """The config that a command line gives."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        return compose(saved_config.base_config(list(overrides)), list(overrides))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Runs a task in this process, by overrides, and returns the run's folder."""

    def run(*overrides: str) -> Path:
        placed = any(override.startswith(("run=", "run_dir=", "task=compare")) for override in overrides)
        cfg = configure(*overrides, *([] if placed else [f"run_dir={tmp_path / 'run'}"]))
        validation.check(cfg)
        train.TASKS[cfg.task](cfg)
        return Path(cfg.get("run_dir", tmp_path))

    return run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `python train.py …` in this process, which spares the import of torch: for one rank."""

    def command(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        code: Any = 0
        with monkeypatch.context() as patch, warnings.catch_warnings():
            patch.chdir(cwd)
            patch.delenv("LITMUS_STAMP")
            for name, value in environment.items():
                patch.setenv(name, value)
            patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
            capfd.readouterr()
            try:
                train.start()
            except SystemExit as error:
                code = error.code or 0
            os.environ.pop("LITMUS_STAMP", None)
        HydraConfig.instance().cfg = None
        return subprocess.CompletedProcess(arguments, code, *capfd.readouterr())

    return command


@pytest.fixture
def process() -> Command:
    """Runs `python train.py …` in a process of its own: for several ranks, signals and what is imported."""

    def process(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
        full = [sys.executable, str(ROOT / "train.py"), *arguments]
        clean = {key: value for key, value in os.environ.items() if key not in ("LITMUS_STAMP", "HYDRA_FULL_ERROR")}
        return subprocess.run(full, cwd=cwd, env=clean | environment, capture_output=True, text=True, timeout=300)

    return process


def error_line(code: object, stderr: str) -> str:
    """The one line of a refused command, without `error: `."""
    assert code == 2
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    line = stderr.removeprefix("error: ").removesuffix("\n")
    assert not line.endswith(("choose from ", "; ", ": ")), "there is a fix"
    return line


def inputs_of(datamodule: DataModule, split: str) -> torch.Tensor:
    """The samples of a split in their order, as they are kept."""
    return torch.cat([inputs for inputs, _ in datamodule.batches(split)])


def write_images(
    folder: Path, count: int, *, level: int, size: tuple[int, int] = (12, 12), suffix: str = "png"
) -> None:
    """`count` noisy RGB images around a grey level."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(level)
    for i in range(count):
        pixels = np.clip(generator.normal(level, 40, (*size, 3)), 0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{i:03d}.{suffix}")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder with two classes that are easy to tell apart."""
    write_images(tmp_path / "images" / "dark", 40, level=60)
    write_images(tmp_path / "images" / "light", 30, level=190, suffix="jpg")
    return tmp_path / "images"
