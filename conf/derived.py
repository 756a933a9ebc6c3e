"""A root key on the command line reaches every value derived from it, also where a file has replaced one."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf

from conf.errors import UserError
from conf.saved_config import flat

# What the YAML files derive from root keys. Not from monitor and mode: a callback may watch another score.
DERIVED = {
    "callbacks.checkpoint.dirpath": "${run_dir}/checkpoints",
    "callbacks.checkpoint.weights_file": "${run_dir}/model.pt",
    "callbacks.mid_epoch_checkpoint.file": "${run_dir}/checkpoints/last.ckpt",
    "datamodule.seed": "${seed}",
    "lit_module.seed": "${seed}",
    "logger.epoch_csv.save_dir": "${run_dir}",
    "logger.tensorboard.save_dir": "${run_dir}",
    "trainer.default_root_dir": "${run_dir}",
    "trainer.max_epochs": "${epochs}",
    "trainer.profiler.dirpath": "${run_dir}",
}


def restore(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Derive values from root keys on the command line again, in place, except those that are on it too.

    An option such as trainer=overfit, an experiment, or an earlier command of the run may have replaced them.

    Raises:
        UserError: `epochs` would have no effect, since `trainer.max_epochs` is on the command line too.
    """
    typed = {override.lstrip("+").partition("=")[0] for override in overrides}
    values = flat(OmegaConf.to_container(cfg))
    for path, derived in DERIVED.items():
        key = derived[2 : derived.index("}")]
        if key not in typed or values.get(path, derived) in (derived, cfg[key]):
            continue
        if path not in typed:
            OmegaConf.update(cfg, path, derived)
        elif key == "epochs":
            raise UserError(f"epochs: {path}={values[path]} is used instead; leave one of the two out")
