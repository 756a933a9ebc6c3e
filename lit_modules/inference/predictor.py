"""Predictor: normalization, network, temperature and softmax (of several labels: sigmoid) as one module.

Imports no Lightning, which would take longer than a prediction.
"""

from pathlib import Path

import torch
from hydra.utils import instantiate
from omegaconf import DictConfig
from torch import Tensor, nn

from conf import saved_config
from lit_modules.evaluation.predictions import probabilities_of
from lit_modules.networks.normalize import Normalize
from lit_modules.runs import checkpoints


class Predictor(nn.Module):
    """Maps inputs to class probabilities, in eval mode.

    Args:
        normalize, net: of a classifier; shared, not copied.
        temperature: divisor of the logits, or of those of each label; 1 for none. See `inference.temperature`.
        multi_label: whether a sample may have several labels.
    """

    white: Tensor
    temperature: Tensor

    def __init__(self, normalize: Normalize, net: nn.Module, temperature: float, multi_label: bool = False) -> None:
        super().__init__()
        self.normalize = normalize
        self.net = net
        self.multi_label = multi_label
        self.register_buffer("white", torch.tensor(255.0))
        self.register_buffer("temperature", torch.tensor(temperature))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[N, C, *spatial]` → probabilities, float32 `[N, num_classes]`.

        Args:
            inputs: uint8 in [0, 255], or float32 as for the classifier.
        """
        return probabilities_of(self.logits(inputs) / self.temperature, self.multi_label)

    def logits(self, inputs: Tensor) -> Tensor:
        """Inputs as for `forward` → logits, float32 `[N, num_classes]`."""
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(torch.float32) / self.white  # a tensor: CUDA divides by scalars less exactly
        logits: Tensor = self.net(self.normalize(inputs)).float()
        return logits


def best_predictor(cfg: DictConfig) -> tuple[Predictor, list[str], tuple[int, ...]]:
    """The predictor of the best epoch on the CPU, calibrated with `cfg.calibrate`, its class names and input shape."""
    checkpoint = checkpoints.best(Path(cfg.run_dir))
    class_names, input_shape = list(checkpoint["class_names"]), tuple(checkpoint["input_shape"])
    config = saved_config.without_pretrained_weights(cfg).lit_module.net
    net = instantiate(config, _convert_="all")(input_shape=input_shape, num_classes=len(class_names))
    zeros = [0.0] * input_shape[0]  # replaced by those in the checkpoint
    normalize = Normalize(zeros, zeros, len(input_shape) - 1)
    predictor = Predictor(normalize, net, 1.0, checkpoint.get("multi_label", False) is True)
    prefixes = ("normalize.", "net.")
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith(prefixes)}
    expected = {name: value for name, value in predictor.state_dict().items() if name.startswith(prefixes)}
    checkpoints.check_weights(weights, expected, checkpoints.best_path(Path(cfg.run_dir)))
    predictor.load_state_dict(weights, strict=False)
    if cfg.calibrate:
        from lit_modules.inference.temperature import temperature_of  # imports SciPy

        predictor.temperature = torch.as_tensor(temperature_of(Path(cfg.run_dir)), dtype=torch.float32)
    return predictor, class_names, input_shape
