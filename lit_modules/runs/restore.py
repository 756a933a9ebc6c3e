"""Restores the network of the best epoch from a run's folder."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from conf import saved_config
from conf.errors import UserError
from lit_modules.runs import checkpoints
from lit_modules.runs.run_folder import read_metrics


def best_network(cfg: DictConfig) -> Any:
    """Builds the LitClassifier of the best epoch on the CPU, in eval mode; needs no data."""
    checkpoint = checkpoints.best(Path(cfg.run_dir))
    channels, names = checkpoint["input_shape"][0], checkpoint["class_names"]
    module = instantiate(
        saved_config.without_pretrained_weights(cfg).lit_module,
        input_shape=tuple(checkpoint["input_shape"]),
        class_names=names,
        class_counts=[1] * len(names),
        multi_label=checkpoint.get("multi_label", False) is True,
        mean=[0.0] * channels,  # replaced by those in the checkpoint
        std=[1.0] * channels,
        init=None,
        _convert_="all",
    )
    load(module, checkpoint, Path(cfg.run_dir))
    return module.eval()


def load_best(module: Any, folder: Path) -> int:
    """Loads the weights of best.ckpt into a LitClassifier, and returns its zero-based epoch.

    With `ckpt_path`, Lightning's WeightAveraging would load the weights before averaging.

    Raises:
        UserError: the checkpoint is of other data, of another network, or of an epoch that metrics.csv lacks.
    """
    checkpoint = checkpoints.best(folder)
    epoch = checkpoint["epoch"]
    if all(row["epoch"] != epoch for row in read_metrics(folder)):
        raise UserError(f"{folder / 'metrics.csv'}: has no row of epoch {epoch}, the best; {checkpoints.FIX}")
    module.check_same_data(checkpoint)
    load(module, checkpoint, folder)
    return int(epoch)


def load(module: Any, checkpoint: dict[str, Any], folder: Path) -> None:
    """Loads the weights of a run's best checkpoint into a LitClassifier.

    Raises:
        UserError: they are of another network, or not finite.
    """
    weights = checkpoint["state_dict"]
    checkpoints.check_weights(weights, module.state_dict(), checkpoints.best_path(folder))
    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True))
