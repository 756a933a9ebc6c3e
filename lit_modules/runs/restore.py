"""The best epoch's network, from a run's folder."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from conf import saved_config
from lit_modules.runs import run_folder


def best_network(cfg: DictConfig) -> Any:
    """The LitClassifier of the best epoch on the CPU, from the run's folder alone: its data need not be here."""
    import torch
    from hydra.utils import instantiate

    checkpoint = torch.load(run_folder.best_checkpoint(Path(cfg.run_dir)), map_location="cpu", weights_only=True)
    channels, names = checkpoint["input_shape"][0], checkpoint["class_names"]
    module = instantiate(
        saved_config.without_pretrained_weights(cfg).lit_module,
        input_shape=tuple(checkpoint["input_shape"]),
        class_names=names,
        class_counts=[1] * len(names),
        mean=[0.0] * channels,  # the checkpoint holds those of the data
        std=[1.0] * channels,
        init=None,
        _convert_="all",
    )
    load_best(module, Path(cfg.run_dir))
    return module.eval()


def load_best(module: Any, folder: Path) -> None:
    """Loads the best epoch's weights; by ckpt_path, Lightning's averaging callback would load those not averaged."""
    import torch
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    checkpoint = torch.load(run_folder.best_checkpoint(folder), map_location="cpu", weights_only=True)
    module.check_same_data(checkpoint)
    set_model_state_dict(module, checkpoint["state_dict"], options=StateDictOptions(full_state_dict=True))
