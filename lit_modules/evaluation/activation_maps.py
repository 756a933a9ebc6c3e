"""Class activation maps: which positions of a sample speak for a class."""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from lit_modules.evaluation.predictions import Predictions

INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}
MAX_EXAMPLES = 6  # mistakes, and as many right predictions


class ActivationMaps:
    """HiResCAM: gradient of a class's logit × output of the last spatial layer, summed over its channels.

    Where only pooling and a linear layer follow, flattened or averaged, the values of a map and the bias add up to the
    logit: Draelos and Carin, arXiv:2011.08891. Grad-CAM (Selvaraju et al., arXiv:1610.02391) averages the gradient over
    all positions first, so that it also marks some that do not count; after global average pooling both are the same.

    The layer is the last whose output has several positions, unless the network names one by `map_layer`.

    Args:
        net: not changed; may be frozen or compiled, and in any mode.
        sample: float `[1, C, *spatial]`, normalized; the layer is found in a forward pass of it.

    Attributes:
        why_not: the reason why there are no maps; empty if there are.
    """

    def __init__(self, net: nn.Module, sample: Tensor) -> None:
        self.net = net
        self.layer: nn.Module = net
        self.why_not = ""
        if any(hasattr(parameter, "full_tensor") for parameter in net.parameters()):
            self.why_not = "each process holds only a part of the weights"
            return
        calls: list[tuple[nn.Module, torch.Size]] = []

        def record(layer: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.ndim > 2 and output[0, 0].numel() > 1:
                calls.append((layer, output.shape))

        layers = {name: layer for name, layer in net.named_modules() if name}
        if hasattr(net, "map_layer"):
            if net.map_layer not in layers:
                self.why_not = f"the network has no layer {net.map_layer}, its map_layer"
                return
            layers = {net.map_layer: layers[net.map_layer]}
        self._forward(sample, layers.values(), record)
        if not calls:
            self.why_not = "no layer has an output with several positions"
            return
        self.layer, shape = calls[-1]
        size = sample.shape[2:]
        if len(shape) != sample.ndim or any(a > b for a, b in zip(shape[2:], size, strict=True)):
            self.why_not = f"the outputs of {type(self.layer).__name__} have other dimensions than the samples"
        elif [layer for layer, _ in calls].count(self.layer) > 1:
            self.why_not = f"{type(self.layer).__name__}, the last layer with several positions, is applied repeatedly"
        else:
            self.why_not = self._why_no_gradient(sample)

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        """Contributions of each position to logits, in float32 and eval mode; positive ones speak for the class.

        Args:
            inputs: float `[N, C, *spatial]`, normalized.
            labels: int64 `[N, K]`: K classes of each sample.

        Returns:
            float32 `[N, K, *spatial of the layer]`
        """
        # Autocast would compute the backward pass too in 16 bits.
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(inputs.device.type, enabled=False):
            outputs, logits = self._cut_at_layer(inputs.clone())
            contributions = []
            for class_logits in logits.gather(1, labels.clone()).unbind(1):
                (gradient,) = torch.autograd.grad(
                    class_logits.sum(), outputs, retain_graph=True, allow_unused=True, materialize_grads=True
                )
                contributions.append((gradient * outputs).sum(1))
        return torch.stack(contributions, 1).detach()

    def _cut_at_layer(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The outputs of the layer, and the logits as a function of them."""
        outputs: list[Tensor] = []

        def cut(_layer: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            torch.set_grad_enabled(True)  # a network may run its body without
            outputs.append(output.detach().requires_grad_())
            return outputs[-1].clone()  # the next layer may work in place

        logits = self._forward(inputs, [self.layer], cut)
        return outputs[0], logits

    def _why_no_gradient(self, sample: Tensor) -> str:
        """Some networks of others cannot be differentiated; a training must not end for a figure."""
        try:
            self(sample, torch.zeros(1, 1, dtype=torch.int64, device=sample.device))
        except RuntimeError as error:
            return f"the logits have no gradient ({str(error).splitlines()[0]})"
        return ""

    def _forward(self, inputs: Tensor, layers: Iterable[nn.Module], hook: Callable[..., Tensor | None]) -> Tensor:
        """The logits in eval mode with a hook on some layers. No gradients of parameters; modes are restored."""
        handles = [layer.register_forward_hook(hook) for layer in layers]
        modes = {layer: layer.training for layer in self.net.modules()}
        parameters = {name: parameter.detach() for name, parameter in self.net.named_parameters()}
        try:
            with torch.compiler.set_stance("force_eager"):  # compiled code skips hooks
                logits: Tensor = functional_call(self.net.eval(), parameters, inputs)
        finally:
            for handle in handles:
                handle.remove()
            for layer, mode in modes.items():
                layer.training = mode
        return logits


def scaled(contributions: Tensor, size: torch.Size) -> Tensor:
    """What speaks for the classes, interpolated to the size of the samples: the maps of a sample have one scale.

    Args:
        contributions: float `[N, K, *spatial]`.
        size: of the samples.

    Returns:
        float `[N, K, *size]` in [0, 1], where 1 is the most of any of the K classes.
    """
    evidence = contributions.nan_to_num(0, 0, 0).clamp(min=0)
    evidence = F.interpolate(evidence, size=size, mode=INTERPOLATION[len(size)], align_corners=False)
    most = evidence.flatten(1).amax(1)
    return evidence / most.clamp(min=1e-12).view(-1, *[1] * (evidence.ndim - 1))


class Explained(NamedTuple):
    """Some worst mistakes and, after them, some right predictions with their maps."""

    rows: np.ndarray
    """int64 `[N]`: rows of the predictions"""
    inputs: np.ndarray
    """float32 `[N, C, *spatial]`, as passed to the classifier; of a volume, the slice with the most evidence"""
    maps: np.ndarray
    """float32 `[N, 2, *spatial]` in [0, 1]: of the predicted and of the true class"""


def explained_labels(predictions: Predictions, row: int) -> tuple[int, int]:
    """The predicted and the true class; of several labels the most probable, and the least probable true one.

    A sample without labels has the first twice.
    """
    true, probabilities = predictions.true[row], predictions.probabilities[row]
    if true.ndim == 0:
        return int(predictions.predicted[row]), int(true)
    most = int(probabilities.argmax())
    return most, int(np.where(true == 1, probabilities, 2).argmin()) if true.any() else most


def explain(classifier: Any, predictions: Predictions, samples: Callable[[Tensor], Tensor]) -> Explained | str:
    """The maps of up to six worst mistakes and six right predictions, evenly spaced; or why there are none.

    Args:
        classifier: has the layers `normalize` and `net`.
        predictions: of a split.
        samples: gives the samples of some positions in the split, int64 `[N]`, as passed to the classifier.
    """
    right = np.flatnonzero(predictions.correct)
    right = right[np.unique(np.linspace(0, len(right) - 1, MAX_EXAMPLES).astype(int))] if len(right) else right
    rows = np.concatenate([predictions.mistakes[:MAX_EXAMPLES], right])
    if not len(rows):
        return "there are no predictions"
    inputs = samples(torch.from_numpy(predictions.index[rows]))
    labels = torch.tensor([explained_labels(predictions, row) for row in rows.tolist()], device=inputs.device)
    with torch.no_grad():
        normalized = classifier.normalize(inputs)
    contributions = ActivationMaps(classifier.net, normalized[:1])
    if contributions.why_not:
        return contributions.why_not
    maps = scaled(contributions(normalized, labels), inputs.shape[2:])
    if inputs.ndim == 5:  # the slice with the most evidence of each volume
        volumes, depths = torch.arange(len(inputs)), maps.amax((1, 3, 4)).argmax(1)
        inputs, maps = inputs[volumes, :, depths], maps[volumes, :, depths]
    return Explained(rows, inputs.float().cpu().numpy(), maps.cpu().numpy())
