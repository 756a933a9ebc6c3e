"""Saved configs and checkpoints in a folder, without a fit."""

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from omegaconf import DictConfig, OmegaConf

from lit_modules.runs import run_folder
from tests.conftest import configure

CHOICES = (
    "seed=3",
    "name=mine",
    "datamodule/augment=[crop]",
    "datamodule.augment.crop.padding=1",
    "lit_module/optimizer=sgd",
    "lit_module.optimizer.lr=0.25",
    "lit_module/scheduler=cosine",
    "trainer.max_epochs=7",
    "devices=cpu",
    "callbacks=[default,ema]",
    "callbacks.progress_bar=null",
)


@cache
def composed(*overrides: str) -> DictConfig:
    return configure(*overrides)


def save(folder: Path, *overrides: str) -> DictConfig:
    """Writes the config.yaml of a run, and returns the config."""
    cfg = composed(*overrides).copy()
    cfg.run_dir = str(folder)
    with run_folder.claim(folder, cfg):
        pass
    return cfg


def plain(cfg: DictConfig) -> dict[str, Any]:
    found = OmegaConf.to_container(cfg)
    assert isinstance(found, dict)
    return found


@cache
def saved_default() -> dict[str, Any]:
    """The saved config of a run without overrides."""
    with TemporaryDirectory() as folder:
        return plain(save(Path(folder)))
