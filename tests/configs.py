"""Command lines of small runs, and the configs they give. Imports no torch: worker processes may load this file."""

from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from conf import saved_config, schema

ROOT = Path(__file__).parent.parent
# Without plots, which take longer than such a run; the tests of plots use DRAWN.
UNDRAWN = ("++callbacks.predictions=null", "++callbacks.dashboard=null")
DRAWN = ("devices=cpu", "lit_module.net.channels=[4,8]", "trainer.max_epochs=1")
TINY = (*DRAWN, *UNDRAWN)


def configure(*overrides: str) -> DictConfig:
    """Compose the config of a command line."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(ROOT / "conf"), **schema.VERSION_BASE):
        return compose(saved_config.base_config(list(overrides)), list(overrides))
