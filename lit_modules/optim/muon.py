"""Muon: SGD with momentum whose update is orthogonalized for matrix weights."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

# Coefficients of f(x) = a·x + b·x³ + c·x⁵, which raises small singular values fast and keeps them near 1 without
# converging to it.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Muon for weights of two or more dimensions, SGD with Nesterov momentum for all other parameters.

    Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), in the variant of the CIFAR-10
    speed records: before each step, a weight is scaled to a norm of √rows, where rows are its output channels. Groups
    with `orthogonal: false` are updated like `torch.optim.SGD`.

    Args:
        params: parameters or parameter groups.
        lr: learning rate.
        momentum: Nesterov momentum factor.
        weight_decay: of the parameters updated by SGD; the others have a fixed norm.
        iterations: Newton-Schulz iterations.
        orthogonal: whether weights of two or more dimensions are updated by Muon.

    Raises:
        ValueError: a value is out of range.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        momentum: float,
        weight_decay: float,
        iterations: int,
        orthogonal: bool,
    ) -> None:
        if lr < 0 or not 0 < momentum < 1 or weight_decay < 0 or iterations < 1:
            raise ValueError(
                f"Muon requires lr ≥ 0, 0 < momentum < 1, weight_decay ≥ 0 and iterations ≥ 1, not {lr}, {momentum}, "
                f"{weight_decay} and {iterations}"
            )
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "weight_decay": weight_decay,
            "iterations": iterations,
            "orthogonal": orthogonal,
        }
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Performs one optimization step; `closure` reevaluates the model and returns the loss."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            matrices = []
            others = []
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                if group["orthogonal"] and parameter.ndim > 1:
                    matrices.append(parameter)
                else:
                    others.append(parameter)
            if matrices:
                self._orthogonal_step(matrices, group)
            if others:
                self._sgd_step(others, group)
        return loss

    def _orthogonal_step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]  # for mypy
        buffers = []
        for weight in weights:
            state = self.state[weight]
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(weight)
            buffers.append(state["momentum_buffer"])
        torch._foreach_mul_(buffers, group["momentum"])
        torch._foreach_add_(buffers, gradients)
        directions = list(torch._foreach_add(gradients, buffers, alpha=group["momentum"]))
        norms = torch._foreach_norm(weights)
        torch._foreach_div_(weights, norms)
        torch._foreach_mul_(weights, [len(weight) ** 0.5 for weight in weights])
        for indices in group_by_shape(directions):
            stacked = torch.stack([directions[i].flatten(1) for i in indices])  # [B, rows, columns]
            updates = orthogonalize(stacked.bfloat16(), group["iterations"])
            for i, update in zip(indices, updates, strict=True):
                weights[i].add_(update.view_as(weights[i]), alpha=-group["lr"])

    def _sgd_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
        sgd(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],  # for mypy
            buffers,
            foreach=True,
            weight_decay=group["weight_decay"],
            momentum=group["momentum"],
            lr=group["lr"],
            dampening=0.0,
            nesterov=True,
            maximize=False,
        )
        for parameter, buffer in zip(parameters, buffers, strict=True):
            self.state[parameter]["momentum_buffer"] = buffer


def group_by_shape(tensors: list[Tensor]) -> list[list[int]]:
    """Indices of tensors with the same shape after `flatten(1)`, to be stacked for batched products."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        groups[len(tensor), tensor[0].numel()].append(i)
    return list(groups.values())


def orthogonalize(matrices: Tensor, iterations: int) -> Tensor:
    """Orthogonalizes matrices `[B, rows, columns]` approximately by Newton-Schulz iteration, in their own precision.

    Singular vectors are kept; a singular value σ becomes f(f(…f(σ / ‖matrix‖))) ≈ 1, with f as in `QUINTIC`.
    """
    a, b, c = QUINTIC
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # [B, n, n], n = min(rows, columns)
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x if wide is matrices else x.mT
