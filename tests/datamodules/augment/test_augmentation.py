"""Augmentations are pure functions of (seed, epoch, sample); random numbers equal SplitMix64."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torchvision.transforms import v2

from conf.errors import UserError
from datamodules.augment.augmentation import Augmentation, PerSample, as_augmentation, augment, uniform
from datamodules.augment.rand_augment import RandAugment
from datamodules.augment.transforms import (
    ColorJitter,
    Cutout,
    HorizontalFlip,
    RandomAffine,
    RandomCrop,
)
from tests.datamodules.augment.uniform import images, numbers

ALL: dict[str, Callable[[], Augmentation]] = {
    "crop_reflect": lambda: RandomCrop(3, "reflect"),
    "crop_black": lambda: RandomCrop(3, "black"),
    "flip": lambda: HorizontalFlip(0.5),
    "cutout": lambda: Cutout(4),
    "color": lambda: ColorJitter(0.5, 0.5, 0.5, 0.2),
    "affine": lambda: RandomAffine(30, 0.2, 0.3, 20),
    "rand": lambda: RandAugment(2, 15),
    "per_sample": lambda: PerSample(v2.RandomResizedCrop((7, 10), antialias=True)),
    "trivial": lambda: PerSample(v2.TrivialAugmentWide()),
}
WORD = 2**64 - 1


def mix(word: int) -> int:
    """splitmix64 by Sebastiano Vigna's public-domain C code, in Python's integers."""
    word = (word + 0x9E3779B97F4A7C15) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def hashed(seed: int, epoch: int, index: int, draw: int) -> float:
    return (mix(mix(index + mix(mix(seed) + epoch)) + draw) >> 40) / 2**24


def test_reference_mixer_gives_published_outputs() -> None:
    assert [mix(0), mix(0x9E3779B97F4A7C15)] == [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4]


@pytest.mark.parametrize(("seed", "epoch"), [(0, 0), (0, 1), (42, 7), (2**32 - 1, 999)])
def test_uniform_equals_splitmix64_in_pure_python(seed: int, epoch: int) -> None:
    index = torch.tensor([0, 1, 2, 59_999, 2**40])
    expected = [[hashed(seed, epoch, i, draw) for draw in range(3)] for i in index.tolist()]
    assert uniform(index, seed, epoch, 3).dtype == torch.float32
    assert uniform(index, seed, epoch, 3).tolist() == expected


def test_uniform_numbers_are_uniform() -> None:
    drawn = uniform(torch.arange(50_000), 0, 0, 4).double()
    assert drawn.min() >= 0 and drawn.max() < 1
    assert (drawn.mean(0) - 1 / 2).abs().max() < 4 * math.sqrt(1 / 12 / 50_000)
    assert (drawn.var(0) - 1 / 12).abs().max() < 4 * math.sqrt(1 / 180 / 50_000)
    frequencies = torch.histc(drawn, 100, 0, 1) / drawn.numel()
    assert (frequencies - 0.01).abs().max() < 0.001


def test_draws_samples_epochs_and_seeds_are_independent() -> None:
    index = torch.arange(20_000)
    base = uniform(index, 5, 7, 3)
    others = [base[:, 1], base[:, 2], base[:, 0].roll(1), base[:, 1].roll(-1), base[:, 1].roll(1)]
    others += [uniform(index, 5, 8, 1)[:, 0], uniform(index, 6, 7, 1)[:, 0], uniform(index, 7, 5, 1)[:, 0]]
    for other in others:
        correlation = torch.corrcoef(torch.stack([base[:, 0], other]).double())[0, 1]
        assert abs(correlation) < 4 / math.sqrt(20_000)
        assert (base[:, 0] == other).sum() <= 1, "a collision is one in 2^24"


def test_more_draws_keep_the_first() -> None:
    index = torch.arange(10)
    assert torch.equal(uniform(index, 3, 2, 5)[:, :2], uniform(index, 3, 2, 2))


@pytest.mark.parametrize("name", ALL)
def test_sample_does_not_depend_on_its_batch(name: str) -> None:
    inputs, index = images(64), torch.arange(100, 164)
    whole = augment(inputs, index, 3, 5, [ALL[name]()])
    for part in (torch.tensor([40]), torch.tensor([63, 2, 17]), torch.arange(64).flip(0)):
        assert torch.equal(augment(inputs[part], index[part], 3, 5, [ALL[name]()]), whole[part])


@pytest.mark.parametrize("name", ALL)
def test_outcome_differs_between_samples_epochs_and_seeds(name: str) -> None:
    inputs, index = images(1).repeat(32, 1, 1, 1), torch.arange(32)
    base = augment(inputs, index, 0, 0, [ALL[name]()])
    assert not torch.equal(base[:16], base[16:])
    assert not torch.equal(base, augment(inputs, index, 0, 1, [ALL[name]()]))
    assert not torch.equal(base, augment(inputs, index, 1, 0, [ALL[name]()]))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_keep_their_shape_and_range(name: str, channels: int) -> None:
    for inputs in (images(100, channels), torch.ones(100, channels, 7, 10), torch.zeros(100, channels, 7, 10)):
        changed = augment(inputs, torch.arange(100), 1, 1, [ALL[name]()])
        assert changed.shape == inputs.shape and changed.dtype == torch.float32
        assert changed.min() >= 0 and changed.max() <= 1


@pytest.mark.parametrize("name", ALL)
def test_inputs_are_not_modified(name: str) -> None:
    inputs = images()
    before = inputs.clone()
    augment(inputs, torch.arange(6), 0, 0, [ALL[name]()])
    assert torch.equal(inputs, before)


def test_augmentations_apply_in_order_with_separate_numbers() -> None:
    inputs, index = images(), torch.arange(6)
    drawn = uniform(index, 2, 3, 3)
    expected = Cutout(4)(HorizontalFlip(0.5)(inputs, drawn[:, :1]), drawn[:, 1:])
    assert torch.equal(augment(inputs, index, 2, 3, [HorizontalFlip(0.5), Cutout(4)]), expected)
    assert torch.equal(augment(inputs, index, 2, 3, []), inputs)


def test_per_sample_seeds_each_image() -> None:
    inputs, drawn = images(5), numbers(5, 1)
    transform = v2.RandomResizedCrop((7, 10), antialias=True)
    expected = []
    for image, number in zip(inputs, drawn[:, 0].tolist(), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(int(number * 2**24))
            expected.append(transform(image))
    assert torch.equal(PerSample(transform)(inputs, drawn), torch.stack(expected))


def test_transform_with_its_own_generator_is_refused() -> None:
    generator = np.random.default_rng(0)
    per_sample = PerSample(lambda image: image * generator.random())
    with pytest.raises(UserError, match="draw its random numbers by torch"):
        per_sample(images(), numbers(6, 1))


def test_per_sample_restores_the_global_generator() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    PerSample(v2.TrivialAugmentWide())(images(), numbers(6, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_only_other_transforms_are_wrapped() -> None:
    flip = HorizontalFlip(0.5)
    assert as_augmentation(flip) is flip
    assert isinstance(as_augmentation(v2.RandomErasing()), PerSample)
