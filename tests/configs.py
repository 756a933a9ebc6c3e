"""Command lines of small runs, and the configs they give. Imports no torch: worker processes may load this file."""

from copy import deepcopy
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, ListConfig, OmegaConf

from conf import saved_config, schema

ROOT = Path(__file__).parent.parent
schema.register()  # once in a process: it takes as long as many a test
# Without plots, which take longer than such a run; the tests of plots use DRAWN.
UNDRAWN = ("++callbacks.predictions=null", "++callbacks.dashboard=null")
DRAWN = ("devices=cpu", "lit_module.net.channels=[4,8]", "trainer.max_epochs=1")
TINY = (*DRAWN, *UNDRAWN)


def configure(*overrides: str) -> DictConfig:
    """The config of a command line, composed anew only if it may contain files of its own or was not among the last."""
    has_own_files = any(word.startswith(("run=", "hydra.searchpath=")) for word in overrides)
    return composed(*overrides) if has_own_files else known(*overrides).copy()


def composed(*overrides: str) -> DictConfig:
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), **schema.VERSION_BASE):
        return compose(saved_config.base_config(list(overrides)), list(overrides))


known = lru_cache(maxsize=64)(composed)
parsed = cache(OmegaConf.load)


def load(file: Any) -> DictConfig | ListConfig:
    """`OmegaConf.load`, which takes a quarter of the time of composing, but once for each file under conf/."""
    path = Path(getattr(file, "name", file))
    return deepcopy(parsed(path)) if path.is_relative_to(ROOT / "conf") else parsed.__wrapped__(file)
