"""Loss functions: class weights, accepted targets, and the divisor of the mean."""

import inspect
import warnings
from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conf.errors import UserError

NOT_ON_LOGITS = (nn.NLLLoss, nn.KLDivLoss, nn.BCELoss)


def resolve_class_weights(
    class_weights: Literal["auto"] | list[float] | None, class_counts: list[int], num_samples: int | None = None
) -> Tensor | None:
    """One weight per class, float32 `[num_classes]`, or None.

    Args:
        class_weights: the weights; "auto": N / (num_classes · count), so that all classes contribute equally; of
            several labels (N - count) / count, so that a label counts as much as its absence.
        class_counts: training samples of each class.
        num_samples: N, where a sample may have several labels.

    Raises:
        UserError: the weights are invalid, or a class without samples makes "auto" undefined.
    """
    if class_weights is None:
        return None
    if class_weights == "auto":
        if 0 in class_counts:
            raise UserError("lit_module.class_weights: a class has no training samples; give the weights as numbers")
        if num_samples in class_counts:
            raise UserError("lit_module.class_weights: a label is in every sample; give the weights as numbers")
        if num_samples is not None:
            return torch.tensor([(num_samples - count) / count for count in class_counts])
        return torch.tensor([sum(class_counts) / (len(class_counts) * count) for count in class_counts])
    if len(class_weights) != len(class_counts):
        problem = f"{len(class_weights)} weights for {len(class_counts)} classes"
        raise UserError(f"lit_module.class_weights: {problem}; give one for each class")
    if min(class_weights) < 0 or sum(class_weights) == 0:
        problem = f"{class_weights} has a negative weight or only zeros"
        raise UserError(f"lit_module.class_weights: {problem}; use weights of 0 or more, at least one above 0")
    return torch.tensor(class_weights, dtype=torch.float32)


def is_weighted(loss: nn.Module) -> bool:
    """Whether the loss averages over a batch by class weight; among torch's losses on logits, only cross-entropy."""
    return isinstance(loss, nn.CrossEntropyLoss) and loss.weight is not None


def loss_denominator(loss: nn.Module, targets: Tensor) -> Tensor:
    """The divisor of the mean loss of a batch, a scalar: the number of samples, or the sum of their class weights if
    the loss is weighted and the targets are labels."""
    if is_weighted(loss) and not targets.is_floating_point():
        weight: Tensor = loss.weight  # type: ignore[assignment]
        return weight[targets].sum()
    return torch.full((), float(len(targets)), device=targets.device)


def takes_inputs(loss: nn.Module) -> bool:
    """Whether the loss is called with the inputs of the network, after the logits and the targets."""
    return "inputs" in inspect.signature(loss.forward).parameters


def targets_of(batch: Any, logits: Tensor, loss: nn.Module, accepted: set[str]) -> Tensor:
    """The targets that a loss accepts, see `build_loss`, of a batch and its logits.

    Raises:
        UserError: samples are mixed, and the loss accepts labels only.
    """
    if batch.targets is not None and "probs" not in accepted:
        name = type(loss).__name__
        raise UserError(f"datamodule.mix: {name} accepts no class probabilities; use CrossEntropyLoss or no mixing")
    if batch.targets is not None:
        return batch.targets
    if batch.labels.ndim == 2:  # several labels a sample
        return batch.labels.to(logits)
    if "labels" in accepted:
        return batch.labels
    return F.one_hot(batch.labels, logits.shape[1]).to(logits)


def build_loss(
    loss: Callable[..., nn.Module],
    class_weights: Tensor | None,
    class_names: list[str],
    input_shape: tuple[int, ...],
    multi_label: bool = False,
) -> tuple[nn.Module, set[str]]:
    """The loss module, and the targets that it accepts: `labels` (class indices), `probs` (class probabilities).

    Both are tried in eval mode, on logits whose shape cannot broadcast.

    Args:
        loss: called with `weight` (of several labels `pos_weight`) if there are class weights, and with `class_names`
            and `input_shape` if it has these parameters.
        class_weights: float32 `[num_classes]`, or None.
        class_names: in the order of the labels.
        input_shape: (C, *spatial) of a sample.
        multi_label: whether a sample may have several labels; targets are then 0/1, float32 `[N, num_classes]`.

    Raises:
        UserError: the loss has no such option, another reduction than the mean, accepts neither kind of targets, or
            takes several labels for the probabilities of one.
    """
    options: dict[str, Any] = {"class_names": class_names, "input_shape": input_shape}
    options = {name: options[name] for name in options.keys() & inspect.signature(loss).parameters.keys()}
    if class_weights is not None:
        options["pos_weight" if multi_label else "weight"] = class_weights
    try:
        module = loss(**options).eval()
    except TypeError as error:
        fix = "a loss without class weights needs lit_module.class_weights=null"
        raise UserError(f"lit_module.loss: {error}; {fix}") from error
    name = type(module).__name__
    if getattr(module, "reduction", "mean") != "mean":
        raise UserError(
            "lit_module.loss.reduction: must be mean, which gradient accumulation and DDP require; leave it out"
        )
    if isinstance(module, NOT_ON_LOGITS):
        raise UserError(
            f"lit_module.loss: {name} expects probabilities or log-probabilities, not logits; use CrossEntropyLoss"
        )
    num_classes = len(class_names)
    labels = torch.arange(num_classes + 1) % num_classes
    targets = {"labels": labels, "probs": F.one_hot(labels, num_classes).float()}
    inputs = [torch.zeros(1).expand(len(labels), *input_shape)] if takes_inputs(module) else []
    accepted, problem = _accepted(module, targets, inputs)
    if multi_label and ("probs" not in accepted or _compares_classes(module, targets["probs"], inputs)):
        raise UserError(
            f"lit_module.loss: {name} is of one label a sample, these have several; use lit_module/loss=bce"
        )
    if accepted:
        return module.train(), accepted
    raise UserError(f"lit_module.loss: {name} is not a classification loss on logits ({problem}); try CrossEntropyLoss")


def _accepted(loss: nn.Module, targets: dict[str, Tensor], inputs: list[Tensor]) -> tuple[set[str], str]:
    """The kinds of targets with which a loss is a scalar, and what is wrong with another one."""
    logits = torch.zeros_like(targets["probs"])
    accepted = set()
    problem = ""
    for kind, values in targets.items():
        try:
            with warnings.catch_warnings(action="error"):  # torch only warns if targets broadcast
                if loss(logits, values, *inputs).ndim == 0:
                    accepted.add(kind)
        except (RuntimeError, ValueError, IndexError, TypeError, UserWarning) as error:
            problem = problem or str(error).splitlines()[0].rstrip(".")
    return accepted, problem


def _compares_classes(loss: nn.Module, one_hot: Tensor, inputs: list[Tensor]) -> bool:
    """Whether a loss is a function of a softmax, and so does not change if a constant is added to all logits."""
    logits = torch.zeros_like(one_hot)
    return bool(torch.isclose(loss(logits, one_hot, *inputs), loss(logits + 1, one_hot, *inputs)))
