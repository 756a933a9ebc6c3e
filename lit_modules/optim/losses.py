"""Loss functions: class weights, accepted targets, and the divisor of the mean."""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from conf.errors import UserError

NOT_ON_LOGITS = (nn.NLLLoss, nn.KLDivLoss, nn.BCELoss)


def resolve_class_weights(
    class_weights: Literal["auto"] | list[float] | None, class_counts: list[int]
) -> Tensor | None:
    """One weight per class, float32 `[num_classes]`, or None.

    Args:
        class_weights: the weights; "auto": N / (num_classes · count), so that all classes contribute equally.
        class_counts: training samples of each class.

    Raises:
        UserError: the weights are invalid, or a class without samples makes "auto" undefined.
    """
    if class_weights is None:
        return None
    if class_weights == "auto":
        if 0 in class_counts:
            raise UserError("lit_module.class_weights: a class has no training samples; give the weights as numbers")
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


def build_loss(
    loss: Callable[..., nn.Module], class_weights: Tensor | None, num_classes: int
) -> tuple[nn.Module, set[str]]:
    """The loss module, and the targets that it accepts: `labels` (class indices), `probs` (class probabilities).

    Both are tried on logits whose shape cannot broadcast.

    Raises:
        UserError: the loss has no such option, another reduction than the mean, or accepts neither kind of targets.
    """
    try:
        module = loss() if class_weights is None else loss(weight=class_weights)
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
    logits = torch.zeros(num_classes + 1, num_classes)
    labels = torch.arange(num_classes + 1) % num_classes
    probs = nn.functional.one_hot(labels, num_classes).float()
    accepted = set()
    problem = ""
    for kind, targets in (("labels", labels), ("probs", probs)):
        try:
            with warnings.catch_warnings(action="error"):  # torch only warns if targets broadcast
                if module(logits, targets).ndim == 0:
                    accepted.add(kind)
        except (RuntimeError, ValueError, IndexError, TypeError, UserWarning) as error:
            problem = problem or str(error).splitlines()[0].rstrip(".")
    if accepted:
        return module, accepted
    raise UserError(f"lit_module.loss: {name} is not a classification loss on logits ({problem}); try CrossEntropyLoss")
