"""Fixtures: runs in this process and in a new one, and small folders of images."""

import os
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf
from PIL import Image

import train
from conf import validation
from datamodules.datamodule import DataModule
from tests.configs import DRAWN as DRAWN
from tests.configs import ROOT, configure, load
from tests.configs import TINY as TINY
from tests.configs import UNDRAWN as UNDRAWN

# Two threads in each of several processes compete for two cores; and the bits of a sum depend on their number.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
os.environ["HYDRA_FULL_ERROR"] = "1"
Command = Callable[..., subprocess.CompletedProcess[str]]
# The required parameters of an image data module.
PLAIN = {
    "batch_size": 8, "val_fraction": 0.25, "test_fraction": 0.25, "split_seed": 0, "seed": 0, "classes": None,
    "sampler": "shuffle", "augment": {}, "mix": None, "drop_last": False, "on_error": "raise",
    "gpu_cache_fraction": 0.0,
    "channels": "auto", "image_size": None, "resize": "pad", "jpeg_draft": True, "cache": "memory", "cache_dir": "",
    "num_workers": 0,
}  # fmt: skip


@pytest.fixture(autouse=True)
def stamp(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Give runs a fixed name, and images decoded in this session a cache; do not wait for the disk."""
    set_environment(monkeypatch, tmp_path_factory)


def set_environment(patch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    patch.setenv("LITMUS_STAMP", "now")
    patch.setenv("LITMUS_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    patch.setattr(OmegaConf, "load", load)
    patch.setattr(os, "fsync", lambda _: None)  # ten in a run wait for 0.1 s; test_files.py has tests of them


def execute(folder: Path, *overrides: str) -> Path:
    """Run a task in this process and return the run's folder: `folder` unless the overrides choose one."""
    has_folder = any(override.startswith(("run=", "run_dir=", "task=compare")) for override in overrides)
    cfg = configure(*overrides)
    if not has_folder:
        cfg.run_dir = str(folder)  # not an override, so that equal commands are composed once
    validation.check(cfg)
    train.TASKS[cfg.task](cfg)
    return Path(cfg.get("run_dir", folder.parent))


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., Path]:
    """Runs a task in this process, by overrides, and returns the run's folder."""
    return partial(execute, tmp_path / "run")


@pytest.fixture(scope="module")
def shared_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Path]]:
    """Like `run`, in a new folder each time: for runs that several tests of a module only read or copy."""

    def shared_run(*overrides: str) -> Path:
        return execute(tmp_path_factory.mktemp("shared") / "run", *overrides)

    with pytest.MonkeyPatch.context() as patch:
        set_environment(patch, tmp_path_factory)
        yield shared_run


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Command:
    """Runs `python train.py …` in this process, which saves importing torch: for one rank."""

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
    """Runs `python train.py …` in a new process: for several ranks, signals and tests of imports."""

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
    """The stored samples of a split, in order."""
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
    """An image folder with two classes that are easy to tell apart."""
    write_images(tmp_path / "images" / "dark", 40, level=60)
    write_images(tmp_path / "images" / "light", 30, level=190, suffix="jpg")
    return tmp_path / "images"
