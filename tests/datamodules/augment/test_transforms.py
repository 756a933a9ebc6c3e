"""Augmentations equal slow independent implementations and depend on (seed, epoch, sample) alone."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from conf.errors import UserError
from datamodules.augment.augmentation import Augmentation, PerSample, as_augmentation, augment, uniform
from datamodules.augment.rand_augment import RandAugment
from datamodules.augment.transforms import ColorJitter, Cutout, HorizontalFlip, RandomAffine, RandomCrop
from tests.samples import numbers

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


def images(samples: int = 6, channels: int = 3, height: int = 7, width: int = 10, seed: int = 0) -> Tensor:
    return torch.rand(samples, channels, height, width, generator=torch.Generator().manual_seed(seed))


def mix(word: int) -> int:
    """splitmix64 by Sebastiano Vigna's public-domain C code, in Python's integers."""
    word = (word + 0x9E3779B97F4A7C15) & WORD
    word = ((word ^ (word >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    word = ((word ^ (word >> 27)) * 0x94D049BB133111EB) & WORD
    return word ^ (word >> 31)


def hashed(seed: int, epoch: int, index: int, draw: int) -> float:
    return (mix(mix(index + mix(mix(seed) + epoch)) + draw) >> 40) / 2**24


def test_the_reference_mixer_gives_the_published_outputs() -> None:
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
    shares = torch.histc(drawn, 100, 0, 1) / drawn.numel()
    assert (shares - 0.01).abs().max() < 0.001


def test_draws_samples_epochs_and_seeds_are_independent() -> None:
    index = torch.arange(20_000)
    base = uniform(index, 5, 7, 3)
    others = [base[:, 1], base[:, 2], base[:, 0].roll(1), base[:, 1].roll(-1), base[:, 1].roll(1)]
    others += [uniform(index, 5, 8, 1)[:, 0], uniform(index, 6, 7, 1)[:, 0], uniform(index, 7, 5, 1)[:, 0]]
    for other in others:
        correlation = torch.corrcoef(torch.stack([base[:, 0], other]).double())[0, 1]
        assert abs(correlation) < 4 / math.sqrt(20_000)
        assert (base[:, 0] == other).sum() <= 1, "a collision is one in 2^24"


def test_more_draws_leave_the_first_as_they_are() -> None:
    index = torch.arange(10)
    assert torch.equal(uniform(index, 3, 2, 5)[:, :2], uniform(index, 3, 2, 2))


@pytest.mark.parametrize("name", ALL)
def test_a_sample_does_not_depend_on_its_batch(name: str) -> None:
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
def test_the_images_given_are_left_as_they_were(name: str) -> None:
    inputs = images()
    before = inputs.clone()
    augment(inputs, torch.arange(6), 0, 0, [ALL[name]()])
    assert torch.equal(inputs, before)


def test_augmentations_follow_one_another_with_numbers_of_their_own() -> None:
    inputs, index = images(), torch.arange(6)
    drawn = uniform(index, 2, 3, 3)
    expected = Cutout(4)(HorizontalFlip(0.5)(inputs, drawn[:, :1]), drawn[:, 1:])
    assert torch.equal(augment(inputs, index, 2, 3, [HorizontalFlip(0.5), Cutout(4)]), expected)
    assert torch.equal(augment(inputs, index, 2, 3, []), inputs)


def test_flip_equals_a_slow_one() -> None:
    inputs, drawn = images(40), numbers(40, 1)
    expected = [image[:, :, ::-1] if u < 0.3 else image for image, u in zip(inputs.numpy(), drawn[:, 0], strict=True)]
    assert np.array_equal(HorizontalFlip(0.3)(inputs, drawn), np.stack(expected))


@pytest.mark.parametrize(("p", "flipped"), [(0.0, False), (1.0, True)])
def test_flip_never_and_always(p: float, flipped: bool) -> None:
    inputs = images(40)
    assert torch.equal(HorizontalFlip(p)(inputs, numbers(40, 1)), inputs.flip(3) if flipped else inputs)


@pytest.mark.parametrize(("fill", "mode"), [("reflect", "reflect"), ("black", "constant")])
@pytest.mark.parametrize("channels", [1, 3])
def test_crop_equals_a_slow_one(fill: str, mode: str, channels: int) -> None:
    inputs, drawn = images(40, channels), numbers(40, 2)
    expected = []
    for image, (down, right) in zip(inputs.numpy(), drawn.tolist(), strict=True):
        padded = np.pad(image, ((0, 0), (3, 3), (3, 3)), mode=mode)
        top, left = math.floor(down * 7), math.floor(right * 7)
        expected.append(padded[:, top : top + 7, left : left + 10])
    assert np.array_equal(RandomCrop(3, fill)(inputs, drawn), np.stack(expected))


def test_cutout_equals_a_slow_one() -> None:
    inputs, drawn = images(40), numbers(40, 2)
    for size in (1, 3, 4, 30):
        expected = inputs.numpy().copy()
        for image, (down, right) in zip(expected, drawn.tolist(), strict=True):
            top, left = math.floor(down * 7) - size // 2, math.floor(right * 10) - size // 2
            for y in range(7):
                for x in range(10):
                    if top <= y < top + size and left <= x < left + size:
                        image[:, y, x] = 0
        assert np.array_equal(Cutout(size)(inputs, drawn), expected)


def color_numbers(*factors: float, strength: float = 0.5) -> Tensor:
    """The uniform numbers that ColorJitter turns into these factors, and a hue of zero."""
    return torch.tensor([[((factor - 1) / strength + 1) / 2 for factor in factors] + [0.5]])


@pytest.mark.parametrize("factors", [(0.6, 1, 1), (1.4, 1, 1), (1, 0.5, 1), (1, 1.4, 1), (1, 1, 0.5), (1, 1, 1.4)])
def test_color_equals_torchvision_one_by_one(factors: tuple[float, float, float]) -> None:
    image = images(1)
    ours = ColorJitter(0.5, 0.5, 0.5, 0)(image, color_numbers(*factors))
    theirs = tv.adjust_brightness(image, factors[0])
    theirs = tv.adjust_contrast(theirs, factors[1])
    theirs = tv.adjust_saturation(theirs, factors[2])
    # torchvision's luminance counts 0.2989 of red, not 0.299: at most 1e-4 · |1 - factor|.
    assert torch.allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_equals_torchvision_one_after_another(channels: int) -> None:
    image, factors = images(1, channels), (1.3, 0.7, 1.4)
    ours = ColorJitter(0.5, 0.5, 0.5, 0)(image, color_numbers(*factors))
    theirs = tv.adjust_contrast(tv.adjust_brightness(image, factors[0]), factors[1])
    theirs = tv.adjust_saturation(theirs, factors[2]) if channels == 3 else theirs
    assert torch.allclose(ours, theirs, rtol=0, atol=3e-4)


@pytest.mark.parametrize("channels", [1, 3])
def test_color_without_strength_changes_nothing(channels: int) -> None:
    inputs = images(20, channels)
    assert torch.allclose(ColorJitter(0, 0, 0, 0)(inputs, numbers(20, 4)), inputs, rtol=0, atol=2**-22)


def test_hue_is_a_turn_in_the_plane_of_chrominance() -> None:
    # Muted colours, so that nothing is clamped. Coefficients from Wikipedia, "YIQ" (FCC NTSC of 1953 and 1987).
    inputs = 0.4 + 0.2 * images(1)
    hue, number = 0.2, 0.9
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
    y, i, q = np.tensordot(to_yiq, inputs[0].double().numpy(), 1)
    turned = (i + 1j * q) * np.exp(2j * np.pi * hue * (2 * number - 1))
    expected = np.tensordot(np.linalg.inv(to_yiq), np.stack([y, turned.real, turned.imag]), 1)
    ours = ColorJitter(0, 0, 0, hue)(inputs, torch.tensor([[0.5, 0.5, 0.5, number]]))
    assert np.abs(ours[0].numpy() - expected).max() < 1e-6


def test_saturation_and_hue_leave_grey_alone() -> None:
    grey = images(20, 1).repeat(1, 3, 1, 1)
    assert torch.allclose(ColorJitter(0, 0, 1, 0.5)(grey, numbers(20, 4)), grey, rtol=0, atol=1e-3)


def affine_numbers(turn: float = 0, zoom: float = 0, shear: float = 0, x: float = 0, y: float = 0) -> Tensor:
    """The uniform numbers for these shares of the greatest change, each in [-1, 1)."""
    return (torch.tensor([[turn, zoom, shear, x, y]]) + 1) / 2


@pytest.mark.parametrize("numbers_given", [affine_numbers(), affine_numbers(0.9, -0.9, 0.3, 0.7, -0.2)])
def test_affine_without_strength_changes_nothing(numbers_given: Tensor) -> None:
    inputs = images(1)
    assert torch.allclose(RandomAffine(0, 0, 0, 0)(inputs, numbers_given), inputs, rtol=0, atol=1e-5)


@pytest.mark.parametrize("quarters", [-1, 1])
def test_a_quarter_turn_is_rot90(quarters: int) -> None:
    square = images(1, 3, 8, 8)
    ours = RandomAffine(180, 0, 0, 0)(square, affine_numbers(turn=quarters / 2))
    assert torch.allclose(ours, torch.rot90(square, quarters, (2, 3)), rtol=0, atol=1e-5)


def test_a_half_turn_of_any_image_mirrors_both_axes() -> None:
    inputs = images(1)
    ours = RandomAffine(180, 0, 0, 0)(inputs, affine_numbers(turn=-1))
    assert torch.allclose(ours, inputs.flip(2, 3), rtol=0, atol=1e-5)


def test_a_shift_by_whole_pixels_moves_the_image() -> None:
    inputs = images(1, 3, 8, 16)
    # A quarter of the size at most: half of that is 1 of 8 rows, and 2 of 16 columns.
    right = RandomAffine(0, 0.25, 0, 0)(inputs, affine_numbers(x=-0.5))
    assert torch.allclose(right[..., 2:], inputs[..., :-2], rtol=0, atol=1e-5) and (right[..., :2] == 0).all()
    down = RandomAffine(0, 0.25, 0, 0)(inputs, affine_numbers(y=-0.5))
    assert torch.allclose(down[..., 1:, :], inputs[..., :-1, :], rtol=0, atol=1e-5) and (down[..., :1, :] == 0).all()


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        # torchvision turns clockwise.
        (affine_numbers(turn=0.5), {"angle": -20.0}),
        (affine_numbers(zoom=0.5), {"scale": 1.2}),
        (affine_numbers(zoom=-0.5), {"scale": 0.8}),
        (affine_numbers(shear=0.5), {"shear": [10.0, 0.0]}),
    ],
)
@pytest.mark.parametrize(("height", "width"), [(12, 12), (9, 16), (16, 9)])
def test_affine_equals_torchvision_on_any_shape(ours: Tensor, theirs: dict, height: int, width: int) -> None:
    inputs = images(1, 3, height, width)
    arguments = {"angle": 0.0, "translate": [0, 0], "scale": 1.0, "shear": [0.0, 0.0]} | theirs
    expected = tv.affine(inputs, **arguments, interpolation=tv.InterpolationMode.BILINEAR)
    assert torch.allclose(RandomAffine(40, 0, 0.4, 20)(inputs, ours), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("height", "width"), [(7, 7), (5, 9), (9, 5)])
def test_affine_equals_a_slow_one_with_all_at_once(height: int, width: int) -> None:
    inputs = images(1, 1, height, width)
    angle, zoom, shear, x, y = 25.0, 1.25, 12.0, -0.1, 0.15  # degrees, factor, degrees, shares of the size
    cos, sin, skew = math.cos(math.radians(angle)), math.sin(math.radians(angle)), math.tan(math.radians(shear))
    source = inputs[0, 0].numpy()
    expected = np.zeros((height, width))
    for row in range(height):
        for column in range(width):
            # From the centre of the image, in pixels: shear, then turn and zoom, then shift, to where it comes from.
            across, down = column - (width - 1) / 2, row - (height - 1) / 2
            across += skew * down
            across, down = (cos * across - sin * down) / zoom, (sin * across + cos * down) / zoom
            across, down = across + x * width + (width - 1) / 2, down + y * height + (height - 1) / 2
            for i in (math.floor(down), math.floor(down) + 1):
                for j in (math.floor(across), math.floor(across) + 1):
                    if 0 <= i < height and 0 <= j < width:
                        expected[row, column] += source[i, j] * (1 - abs(down - i)) * (1 - abs(across - j))
    signed = affine_numbers(angle / 90, (zoom - 1) / 0.5, shear / 45, x / 0.4, y / 0.4)
    ours = RandomAffine(90, 0.4, 0.5, 45)(inputs, signed)
    assert np.abs(ours[0, 0].numpy() - expected).max() < 1e-5


def test_per_sample_gives_each_image_its_own_seed() -> None:
    inputs, drawn = images(5), numbers(5, 1)
    transform = v2.RandomResizedCrop((7, 10), antialias=True)
    expected = []
    for image, number in zip(inputs, drawn[:, 0].tolist(), strict=True):
        with torch.random.fork_rng():
            torch.manual_seed(int(number * 2**24))
            expected.append(transform(image))
    assert torch.equal(PerSample(transform)(inputs, drawn), torch.stack(expected))


def test_per_sample_leaves_the_global_generator_as_it_was() -> None:
    torch.manual_seed(11)
    before = torch.get_rng_state()
    PerSample(v2.TrivialAugmentWide())(images(), numbers(6, 1))
    assert torch.equal(torch.get_rng_state(), before)


def test_other_transforms_are_wrapped_and_ours_are_not() -> None:
    flip = HorizontalFlip(0.5)
    assert as_augmentation(flip) is flip
    assert isinstance(as_augmentation(v2.RandomErasing()), PerSample)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: RandomCrop(0, "black"), "padding: must be 1 pixel or more, not 0"),
        (lambda: HorizontalFlip(1.5), "p: must be between 0 and 1, not 1.5"),
        (lambda: HorizontalFlip(-0.1), "p: must be between 0 and 1, not -0.1"),
        (lambda: Cutout(0), "size: must be 1 pixel or more, not 0"),
        (lambda: ColorJitter(1.1, 0, 0, 0), "brightness: must be between 0 and 1"),
        (lambda: ColorJitter(0, -1, 0, 0), "contrast: must be between 0 and 1"),
        (lambda: ColorJitter(0, 0, 2, 0), "saturation: must be between 0 and 1"),
        (lambda: ColorJitter(0, 0, 0, 0.6), "hue: must be between 0 and 0.5 turns, not 0.6"),
        (lambda: RandomAffine(0, 0, 1, 0), "scale: must be between 0 and 1, not 1"),
        (
            lambda: RandomCrop(7, "reflect")(images(), numbers(6, 2)),
            "datamodule.augment: a crop's padding of 7 is too much",
        ),
    ],
)
def test_values_out_of_range_are_refused(make: Callable[[], object], key: str) -> None:
    with pytest.raises(UserError, match=f"^{key}"):
        make()
