"""Predictor: all that a trained network is to whoever uses it, in one module: images → class probabilities."""

import torch
from torch import Tensor, nn

from lit_modules.classifier import LitClassifier


class Predictor(nn.Module):
    """A classifier's normalisation and network, in evaluation, then a temperature and softmax.

    Args:
        classifier: whose layers these are; not copied.
        temperature: what the logits are divided by; 1 leaves them alone. See `calibration`.
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
        """uint8 in 0 … 255, or float32 as the classifier takes it, `[N, C, *spatial]` → float32 `[N, num_classes]`"""
        if inputs.dtype == torch.uint8:
            inputs = inputs.to(torch.float32) / self.white  # a tensor: CUDA divides by a number less exactly
        logits = self.net(self.normalize(inputs)).float()
        return (logits / self.temperature).softmax(1)
