"""Predictor: normalization, network, temperature and softmax as one module."""

import torch
from torch import Tensor, nn

from lit_modules.classifier import LitClassifier


class Predictor(nn.Module):
    """Maps inputs to class probabilities, in eval mode.

    Args:
        classifier: its modules are shared, not copied.
        temperature: divisor of the logits; 1 for none. See `inference.temperature`.
    """

    white: Tensor
    temperature: Tensor

    def __init__(self, classifier: LitClassifier, temperature: float) -> None:
        super().__init__()
        self.normalize = classifier.normalize
        self.net = classifier.net
        self.register_buffer("white", torch.tensor(255.0))
        self.register_buffer("temperature", torch.tensor(temperature))
        self.eval()

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs `[N, C, *spatial]` → probabilities, float32 `[N, num_classes]`.

        Args:
            inputs: uint8 in [0, 255], or float32 as for the classifier.
        """
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(torch.float32) / self.white  # a tensor: CUDA divides by scalars less exactly
        logits = self.net(self.normalize(inputs)).float()
        return (logits / self.temperature).softmax(1)
