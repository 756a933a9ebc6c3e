"""Restores the network of the best epoch from a run's folder."""

from pathlib import Path
from typing import Any

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from conf import saved_config
from lit_modules.runs import run_folder


def best_network(cfg: DictConfig) -> Any:
    """Builds the LitClassifier of the best epoch on the CPU, in eval mode; needs no data."""
    checkpoint = torch.load(run_folder.best_checkpoint(Path(cfg.run_dir)), map_location="cpu", weights_only=True)
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
    load_best(module, Path(cfg.run_dir))
    return module.eval()


def load_best(module: Any, folder: Path) -> None:
    """Loads the weights of best.ckpt into a LitClassifier.

    With `ckpt_path`, Lightning's WeightAveraging would load the weights before averaging.
    """
    checkpoint = torch.load(run_folder.best_checkpoint(folder), map_location="cpu", weights_only=True)
    module.check_same_data(checkpoint)
    set_model_state_dict(module, checkpoint["state_dict"], options=StateDictOptions(full_state_dict=True))
