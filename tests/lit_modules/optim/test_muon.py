"""Muon's steps are those of its formulas, whatever is stacked with what."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from lit_modules.optim.muon import QUINTIC, Muon, group_by_shape, orthogonalize

CHOICES = {"lr": 0.1, "momentum": 0.6, "weight_decay": 0.01, "iterations": 3, "orthogonal": True}


def quintic(x: Tensor, iterations: int) -> Tensor:
    a, b, c = QUINTIC
    for _ in range(iterations):
        x = a * x + b * x**3 + c * x**5
    return x


@pytest.mark.parametrize("iterations", [1, 3, 5])
@pytest.mark.parametrize("shape", [(5, 5), (4, 9), (9, 4)], ids=str)
def test_singular_values_follow_the_polynomial_and_vectors_stay(shape: tuple[int, int], iterations: int) -> None:
    matrices = torch.randn(3, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for matrix, found in zip(matrices, orthogonalize(matrices, iterations), strict=True):
        left, values, right = torch.linalg.svd(matrix, full_matrices=False)
        expected = left @ torch.diag(quintic(values / values.norm(), iterations)) @ right
        assert torch.allclose(found, expected, atol=1e-5)


def test_five_bfloat16_iterations_are_nearly_orthogonal() -> None:
    matrix = torch.randn(1, 64, 216, generator=torch.Generator().manual_seed(0)).bfloat16()
    values = torch.linalg.svdvals(orthogonalize(matrix, 5).float())
    assert values.min() > 0.6 and values.max() < 1.3


def test_tensors_are_grouped_by_flattened_shape() -> None:
    shapes = [(8, 4, 3, 3), (8, 36), (4, 8), (8, 4, 3, 3), (36, 8)]
    assert group_by_shape([torch.zeros(shape) for shape in shapes]) == [[0, 1, 3], [2], [4]]


def test_stacked_steps_equal_single_weight_steps() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(6, 4, 3, 3, generator=generator) for _ in range(3)] + [torch.randn(5, 7, generator=generator)]
    gradients = [[torch.randn(start.shape, generator=generator) for start in starts] for _ in range(4)]
    ours = [nn.Parameter(start.clone()) for start in starts]
    optimizer = Muon(ours, **CHOICES)
    for step in gradients:
        for weight, gradient in zip(ours, step, strict=True):
            weight.grad = gradient.clone()
        optimizer.step()
    for i, start in enumerate(starts):
        weight, total = start.clone(), torch.zeros_like(start)
        for step in gradients:
            total = 0.6 * total + step[i]
            direction = (step[i] + 0.6 * total).flatten(1)
            left, values, right = torch.linalg.svd(direction.double(), full_matrices=False)
            whitened = left @ torch.diag(quintic(values / values.norm(), 3)) @ right
            weight = weight * len(weight) ** 0.5 / weight.norm() - 0.1 * whitened.float().view_as(weight)
        # The products are in bfloat16, of 8 bits.
        assert (ours[i] - weight).norm() / (weight - start).norm() < 0.02


def test_biases_and_non_orthogonal_groups_equal_sgd() -> None:
    generator = torch.Generator().manual_seed(0)
    starts = [torch.randn(5, generator=generator), torch.randn(4, 6, generator=generator)]
    ours, theirs = ([nn.Parameter(start.clone()) for start in starts] for _ in range(2))
    head = {"params": ours[1:], "orthogonal": False, "lr": 0.3}
    optimizers = [
        Muon([{"params": ours[:1]}, head], **CHOICES),
        torch.optim.SGD(
            [{"params": theirs[:1]}, {"params": theirs[1:], "lr": 0.3}],
            lr=0.1, momentum=0.6, weight_decay=0.01, nesterov=True,
        ),
    ]  # fmt: skip
    for _ in range(3):
        for mine, other in zip(ours, theirs, strict=True):
            mine.grad = torch.randn(mine.shape, generator=generator)
            other.grad = mine.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    assert all(torch.equal(mine, other) for mine, other in zip(ours, theirs, strict=True))


def test_loaded_state_gives_the_same_next_step() -> None:
    generator = torch.Generator().manual_seed(0)
    weights = [nn.Parameter(torch.randn(4, 3, generator=generator)), nn.Parameter(torch.randn(4, generator=generator))]
    optimizer = Muon(weights, **CHOICES)
    for weight in weights:
        weight.grad = torch.randn(weight.shape, generator=generator)
    optimizer.step()
    copies = [nn.Parameter(weight.detach().clone()) for weight in weights]
    other = Muon(copies, **CHOICES)
    other.load_state_dict(deepcopy(optimizer.state_dict()))
    for weight, copy in zip(weights, copies, strict=True):
        weight.grad = torch.randn(weight.shape, generator=generator)
        copy.grad = weight.grad.clone()
    optimizer.step()
    other.step()
    assert all(torch.equal(weight, copy) for weight, copy in zip(weights, copies, strict=True))


def test_weight_without_gradient_is_unchanged() -> None:
    weight = nn.Parameter(torch.randn(3, 3))
    before = weight.detach().clone()
    Muon([weight], **CHOICES).step()
    assert torch.equal(weight, before)


@pytest.mark.parametrize("wrong", [{"lr": -1.0}, {"momentum": 0.0}, {"iterations": 0}, {"weight_decay": -1.0}], ids=str)
def test_value_out_of_range_is_rejected(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Muon requires"):
        Muon([nn.Parameter(torch.zeros(2))], **(CHOICES | wrong))  # type: ignore[arg-type]
