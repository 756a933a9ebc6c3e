"""Restores the network of the best epoch from a run's folder."""

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from conf import saved_config
from lit_modules.runs import checkpoints


def best_network(cfg: DictConfig) -> Any:
    """Builds the LitClassifier of the best epoch on the CPU, in eval mode; needs no data."""
    checkpoint = checkpoints.best(Path(cfg.run_dir))
    channels, names = checkpoint["input_shape"][0], checkpoint["class_names"]
    module = instantiate(
        saved_config.without_pretrained_weights(cfg).lit_module,
        input_shape=tuple(checkpoint["input_shape"]),
        class_names=names,
        class_counts=[1] * len(names),
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
    """
    checkpoint = checkpoints.best(folder)
    module.check_same_data(checkpoint)
    load(module, checkpoint, folder)
    return int(checkpoint["epoch"])


def load(module: Any, checkpoint: dict[str, Any], folder: Path) -> None:
    """Loads the weights of a run's best checkpoint into a LitClassifier.

    Raises:
        UserError: they are of another network, or not finite.
    """
    weights = checkpoint["state_dict"]
    checkpoints.check_weights(weights, module.state_dict(), checkpoints.best_path(folder))
    set_model_state_dict(module, weights, options=StateDictOptions(full_state_dict=True))
