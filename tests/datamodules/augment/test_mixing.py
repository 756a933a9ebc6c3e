"""Mixed images have the lambda that is returned, and lambda has the Beta distribution."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor

from datamodules.augment.mixing import CELLS, Beta, CutMix, Mixing, Mixup, soft_targets
from tests.datamodules.augment.uniform import numbers

SHAPES = [(13,), (9, 14), (5, 8, 6)]


def pair(shape: tuple[int, ...], samples: int = 50) -> tuple[Tensor, Tensor]:
    """Images that differ everywhere."""
    first = torch.rand(samples, 3, *shape, generator=torch.Generator().manual_seed(0)) / 2
    return first, first + 0.5


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0, 50.0])
def test_beta_has_the_distribution(alpha: float) -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).random(20_000, np.float32))
    assert stats.kstest(Beta(alpha)(drawn).numpy(), stats.beta(alpha, alpha).cdf).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 3.0, 1000.0])
def test_beta_returns_the_quantile_of_each_number(alpha: float) -> None:
    drawn = torch.from_numpy(np.random.default_rng(0).random(5000, np.float32))
    lams, distribution = Beta(alpha)(drawn).double().numpy(), stats.beta(alpha, alpha)
    # Within the table's cell, and within the step from one float32 to the next, which matters near 1.
    assert (distribution.cdf((lams - 2**-24).clip(0)) <= drawn.numpy() + 1 / CELLS).all()
    assert (distribution.cdf((lams + 2**-24).clip(0, 1)) >= drawn.numpy() - 1 / CELLS).all()


def test_beta_of_alpha_1_is_the_identity() -> None:
    drawn = numbers(1000, 1)
    assert torch.allclose(Beta(1)(drawn), drawn, rtol=0, atol=2**-23)


def test_beta_of_the_ends_is_0_and_up_to_1() -> None:
    for alpha in (0.01, 1.0, 1000.0):
        first, last = Beta(alpha)(torch.tensor([0, 1 - 2**-24])).tolist()
        assert first == 0 and 0.5 < last <= 1


@pytest.mark.parametrize("shape", SHAPES)
def test_mixup_is_the_weighted_mean(shape: tuple[int, ...]) -> None:
    images, partners = pair(shape)
    mixed, lam = Mixup(0.4)(images, partners, numbers(50, 1))
    assert lam.shape == (50,) and lam.dtype == torch.float32 and len(lam.unique()) > 40
    for i, weight in enumerate(lam.double().tolist()):
        expected = weight * images[i].double() + (1 - weight) * partners[i].double()
        assert torch.allclose(mixed[i].double(), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
def test_cutmix_equals_a_slow_implementation(shape: tuple[int, ...]) -> None:
    images, partners = pair(shape)
    drawn = numbers(50, 4)
    drawn[:, 0] = torch.linspace(0.001, 0.999, 50)  # nearer to 1 float32 rounds a root to 1
    mixed, _ = CutMix(1)(images, partners, drawn)
    for i, (part, *centre) in enumerate(drawn.double().tolist()):  # Beta(1, 1) is uniform
        expected = images[i].clone()
        inside = []
        for length, middle in zip(shape, centre, strict=False):
            side = math.floor(length * part ** (1 / len(shape)))
            start = math.floor(middle * length) - side // 2
            inside.append(slice(max(start, 0), max(start + side, 0)))
        expected[:, *inside] = partners[i][:, *inside]
        assert torch.equal(mixed[i], expected)


@pytest.mark.parametrize("shape", SHAPES)
def test_lambda_of_cutmix_is_the_fraction_of_pixels_kept(shape: tuple[int, ...]) -> None:
    images, partners = pair(shape)
    mixed, lam = CutMix(1)(images, partners, numbers(50, 4))
    kept = (mixed == images).flatten(1).sum(1)
    pasted = (mixed == partners).flatten(1).sum(1)
    assert (kept + pasted == images[0].numel()).all() and len(kept.unique()) > 5
    assert lam.dtype == torch.float32
    assert torch.allclose(lam, kept / images[0].numel(), rtol=0, atol=2**-23)


@pytest.mark.parametrize(("mixing", "number"), [(Mixup(0.2), 1 - 2**-24), (CutMix(1), 0.0)])
def test_lambda_1_gives_the_first_image(mixing: Mixing, number: float) -> None:
    images, partners = pair((9, 14))
    mixed, lam = mixing(images, partners, torch.full((50, mixing.draws), number))
    assert (lam == 1).all() and torch.equal(mixed, images)


@pytest.mark.parametrize("mixing", [Mixup(0.4), CutMix(1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_sample_does_not_depend_on_its_batch(mixing: Mixing, shape: tuple[int, ...]) -> None:
    (images, partners), drawn = pair(shape), numbers(50, mixing.draws)
    mixed, lam = mixing(images, partners, drawn)
    for part in ([7], [40, 3], []):
        some, some_lam = mixing(images[part], partners[part], drawn[part])
        assert torch.equal(some, mixed[part]) and torch.equal(some_lam, lam[part])


def test_soft_targets_hold_lambda_and_its_complement() -> None:
    labels, partner_labels = torch.tensor([0, 2, 1, 1]), torch.tensor([1, 0, 1, 2])
    targets = soft_targets(labels, partner_labels, torch.tensor([0.25, 0.875, 0.3, 1.0]), 4)
    assert targets.dtype == torch.float32
    assert targets.tolist() == [[0.25, 0.75, 0, 0], [0.125, 0, 0.875, 0], [0, 1, 0, 0], [0, 1, 0, 0]]


def test_loss_of_soft_targets_is_the_weighted_loss() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, lam = torch.randn(30, 5, generator=generator), torch.rand(30, generator=generator)
    first, second = torch.randint(5, (2, 30), generator=generator)
    soft = F.cross_entropy(logits, soft_targets(first, second, lam, 5), reduction="none")
    first_loss = F.cross_entropy(logits, first, reduction="none")
    second_loss = F.cross_entropy(logits, second, reduction="none")
    assert torch.allclose(soft, lam * first_loss + (1 - lam) * second_loss, rtol=0, atol=1e-5)


def test_no_control_flow_depends_on_tensor_values() -> None:
    images = torch.empty(6, 3, 7, 10, device="meta")  # has no values
    for mixing in (Mixup(1), CutMix(1)):
        mixed, lam = mixing(images, images, torch.empty(6, mixing.draws, device="meta"))
        assert mixed.shape == images.shape and lam.shape == (6,)
    labels = torch.empty(6, dtype=torch.long, device="meta")
    assert soft_targets(labels, labels, lam, 5).shape == (6, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("make", [Mixup, CutMix])
def test_nothing_synchronizes_with_the_device(make: Callable[[float], Mixing]) -> None:
    (images, partners), labels = pair((9, 14)), torch.arange(50) % 5
    drawn = numbers(50, make(1).draws)
    given = [tensor.cuda() for tensor in (images, partners, drawn, labels)]
    torch.cuda.set_sync_debug_mode("error")
    try:
        mixed, lam = make(1)(*given[:3])
        targets = soft_targets(given[3], given[3].flip(0), lam, 5)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    expected, expected_lam = make(1)(images, partners, drawn)
    assert torch.allclose(mixed.cpu(), expected) and torch.allclose(lam.cpu(), expected_lam)
    assert torch.allclose(targets.cpu(), soft_targets(labels, labels.flip(0), expected_lam, 5))
