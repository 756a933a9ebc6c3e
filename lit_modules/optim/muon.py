"""Muon: momentum whose direction is made orthogonal for weights that are matrices; SGD for all other parameters."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.sgd import sgd

# Of a·x + b·x³ + c·x⁵, which raises small singular values fast and keeps them near 1 without settling there.
QUINTIC = (3.4445, -4.7750, 2.0315)


class Muon(Optimizer):
    """Jordan et al., "Muon: an optimizer for hidden layers in neural networks" (2024), as the CIFAR-10 records use it:
    before each step a weight is scaled to a norm of √(its rows). Its rows are output channels.

    Parameters of one dimension, and of groups with `orthogonal: false`, get the steps of `torch.optim.SGD`.

    Args:
        params: parameters, or groups of them.
        lr: learning rate.
        momentum: decay of the sum of gradients; Nesterov's.
        weight_decay: of the parameters that get SGD's steps; the others keep their norm.
        iterations: of Newton and Schulz's method.
        orthogonal: whether weights of two dimensions or more get Muon's steps.
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
                f"Muon takes lr ≥ 0, 0 < momentum < 1, weight_decay ≥ 0 and iterations ≥ 1, not {lr}, {momentum}, "
                f"{weight_decay} and {iterations}"
            )
        names = ("lr", "momentum", "weight_decay", "iterations", "orthogonal")
        super().__init__(params, dict(zip(names, (lr, momentum, weight_decay, iterations, orthogonal), strict=True)))

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Calls the closure, if there is one, then changes the parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moved = [parameter for parameter in group["params"] if parameter.grad is not None]
            matrices = [parameter for parameter in moved if group["orthogonal"] and parameter.ndim > 1]
            others = [parameter for parameter in moved if not (group["orthogonal"] and parameter.ndim > 1)]
            if matrices:
                self._orthogonal_step(matrices, group)
            if others:
                self._plain_step(others, group)
        return loss

    def _orthogonal_step(self, weights: list[Tensor], group: dict[str, Any]) -> None:
        gradients = [weight.grad for weight in weights if weight.grad is not None]  # they all have one
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
        for alike in by_shape(directions):
            stacked = torch.stack([directions[i].flatten(1) for i in alike])  # [B, rows, columns]
            steps = orthogonalize(stacked.bfloat16(), group["iterations"])
            for i, step in zip(alike, steps, strict=True):
                weights[i].add_(step.view_as(weights[i]), alpha=-group["lr"])

    def _plain_step(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        buffers = [self.state[parameter].get("momentum_buffer") for parameter in parameters]
        sgd(
            parameters,
            [parameter.grad for parameter in parameters if parameter.grad is not None],  # they all have one
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


def by_shape(tensors: list[Tensor]) -> list[list[int]]:
    """The positions of tensors that have the same shape as matrices, so that one product serves all of them."""
    groups: defaultdict[tuple[int, int], list[int]] = defaultdict(list)
    for i, tensor in enumerate(tensors):
        groups[len(tensor), tensor[0].numel()].append(i)
    return list(groups.values())


def orthogonalize(matrices: Tensor, iterations: int) -> Tensor:
    """Brings all singular values of matrices `[B, rows, columns]` towards 1: f(f(…σ / ‖matrix‖)) with f of `QUINTIC`,
    singular vectors being kept. In the precision of the matrices."""
    a, b, c = QUINTIC
    wide = matrices if matrices.shape[1] <= matrices.shape[2] else matrices.mT
    x = wide / (wide.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(iterations):
        gram = x @ x.mT  # [B, n, n], n being the shorter side
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return x if wide is matrices else x.mT
