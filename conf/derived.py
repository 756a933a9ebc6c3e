"""What a key on the command line changes elsewhere: values derived from it, and parameters of a replaced class."""

from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf, open_dict

from conf import nodes
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
    "logger.mlflow.run_dir": "${run_dir}",
    "logger.tensorboard.save_dir": "${run_dir}",
    "logger.wandb.run_dir": "${run_dir}",
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


def leave_out_parameters(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Where the command line replaces a `_target_`, leave out the parameters that only the class before it takes.

    Those on the command line stay.

    Raises:
        UserError: the target is not allowed or does not exist.
    """
    typed = {override.lstrip("+~").partition("=")[0] for override in overrides}
    for key in typed:
        path, _, name = key.rpartition(".")
        node = OmegaConf.select(cfg, path) if name == "_target_" and path else None
        if not isinstance(node, DictConfig) or not isinstance(node.get("_target_"), str):
            continue
        taken = nodes.parameter_names(path, node._target_)
        with open_dict(node):
            for parameter in list(node):
                if taken is not None and parameter not in taken and f"{path}.{parameter}" not in typed:
                    del node[parameter]
