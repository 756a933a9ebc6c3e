"""Which loss, with which weights of the classes, on which form of the targets."""

import warnings
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from conf.errors import UserError

NOT_ON_LOGITS = (nn.NLLLoss, nn.KLDivLoss, nn.BCELoss)


def weigh_classes(choice: Literal["auto"] | list[float] | None, counts: list[int]) -> Tensor | None:
    """One weight a class, float32 `[num_classes]`: those given, or for `auto` N / (K · count), so that every class has
    the same share of the loss."""
    if choice is None:
        return None
    if choice == "auto":
        if 0 in counts:
            raise UserError("lit_module.class_weights: a class has no training samples; give its weight by number")
        return torch.tensor([sum(counts) / (len(counts) * count) for count in counts])
    if len(choice) != len(counts):
        raise UserError(f"lit_module.class_weights: {len(choice)} numbers for {len(counts)} classes; give one for each")
    if min(choice) < 0 or sum(choice) == 0:
        raise UserError(f"lit_module.class_weights: {choice} is negative or 0 everywhere; weigh by 0 or more")
    return torch.tensor(choice, dtype=torch.float32)


def is_weighted(loss: nn.Module) -> bool:
    """Whether the mean over a batch is one by the weights of its classes; of torch's losses on logits, only here."""
    return isinstance(loss, nn.CrossEntropyLoss) and loss.weight is not None


def shares(loss: nn.Module, targets: Tensor) -> Tensor:
    """What a batch's mean loss was divided by, a scalar: the number of its samples, or if the targets are labels the
    sum of their weights."""
    if is_weighted(loss) and not targets.is_floating_point():
        weight: Tensor = loss.weight  # type: ignore[assignment]
        return weight[targets].sum()
    return torch.full((), float(len(targets)), device=targets.device)


def build_loss(loss: Callable[..., nn.Module], weight: Tensor | None, num_classes: int) -> tuple[nn.Module, set[str]]:
    """The loss module, and what it takes, `labels` or the `shares` that classes have or both: found by trying, on
    logits that cannot broadcast."""
    try:
        module = loss() if weight is None else loss(weight=weight)
    except TypeError as error:
        fix = "a loss without weights needs lit_module.class_weights=null"
        raise UserError(f"lit_module.loss: {error}; {fix}") from error
    if getattr(module, "reduction", "mean") != "mean":
        raise UserError("lit_module.loss.reduction: must be mean, which accumulation and ranks rely on; leave it out")
    if isinstance(module, NOT_ON_LOGITS):
        name = type(module).__name__
        raise UserError(
            f"lit_module.loss: {name} takes probabilities or their logarithms, not logits; use CrossEntropyLoss"
        )
    logits = torch.zeros(num_classes + 1, num_classes)
    labels = torch.arange(num_classes + 1) % num_classes
    takes, problem = set(), ""
    for kind, targets in (("labels", labels), ("shares", nn.functional.one_hot(labels, num_classes).float())):
        try:
            with warnings.catch_warnings(action="error"):  # torch only warns of targets that it broadcasts
                if module(logits, targets).ndim == 0:
                    takes.add(kind)
        except (RuntimeError, ValueError, IndexError, TypeError, UserWarning) as error:
            problem = problem or str(error).splitlines()[0].rstrip(".")
    if takes:
        return module, takes
    name = type(module).__name__
    raise UserError(f"lit_module.loss: {name} cannot score logits by classes ({problem}); try CrossEntropyLoss")
