"""Images that are the same or nearly are found without comparing all with all, and no others."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from scipy.spatial.distance import cosine

from datamodules.inspection.duplicates import FARTHEST, LEAST, candidates, connected, hashes, likeness, same, spectrum
from datamodules.storage.decode import ImageSpec, to_array
from tests.samples import SIDE, photographs


def pixels(images: list[Image.Image]) -> np.ndarray:
    """As a data module reads them."""
    return np.stack([to_array(image, ImageSpec(3, (SIDE, SIDE), "pad", True)) for image in images])


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=quality)
    return Image.open(file)


def brightened(image: Image.Image, factor: float, more: float) -> Image.Image:
    return image.point(lambda value: min(255, max(0, round(value * factor + more))))


def test_spectrum_is_the_cosine_transform() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (3, 3, 20, 31), dtype=np.uint8)
    expected = dctn(noise.transpose(0, 2, 3, 1) @ [0.299, 0.587, 0.114], axes=(1, 2), norm="ortho")[:, :16, :16]
    np.testing.assert_allclose(spectrum(noise), expected, atol=1e-2)


def test_candidates_are_all_pairs_of_at_most_8_different_bits() -> None:
    generator = np.random.default_rng(0)
    found = np.repeat(generator.integers(0, 2**63, 80, dtype=np.uint64), 4)
    for i in range(len(found)):
        for bit in generator.permutation(64)[: i % 9].tolist():
            found[i] ^= np.uint64(1 << bit)
    first, second = np.triu_indices(len(found), 1)
    near = np.bitwise_count(found[first] ^ found[second]) <= FARTHEST
    pairs, whole = candidates(found)
    assert whole and near.sum() > 100
    np.testing.assert_array_equal(pairs, np.stack([first, second], 1)[near])


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_is_near_where_there_is_no_other(count: int) -> None:
    pairs, whole = candidates(np.zeros(count, np.uint64))
    assert pairs.shape == (0, 2) and whole


def test_search_ends_where_all_look_alike() -> None:
    pairs, whole = candidates(np.zeros(1000, np.uint64))
    assert not whole and 1000 < len(pairs) < 50_000


@pytest.mark.parametrize(
    "change",
    [
        lambda image: jpeg(image, 95),
        lambda image: jpeg(image, 75),
        lambda image: image.convert("L").convert("RGB"),
        lambda image: brightened(image, 1, 10),
        lambda image: brightened(image, 1, -10),
        lambda image: brightened(image, 1.1, 0),
        lambda image: brightened(image, 0.9, 0),
        lambda image: image.resize((24, 24), Image.Resampling.BICUBIC),
        lambda image: image.resize((128, 128), Image.Resampling.LANCZOS),
        lambda image: jpeg(brightened(image.resize((48, 48)), 1.05, 0), 90),
    ],
    ids=["jpeg 95", "jpeg 75", "grey", "+10", "-10", "+10 %", "-10 %", "smaller", "larger", "all three"],
)
def test_every_changed_copy_is_found_and_no_other_image(change: Callable[[Image.Image], Image.Image]) -> None:
    images = photographs()
    count = len(images)
    spectra = spectrum(pixels(images + [change(image) for image in images]))
    pairs, _ = candidates(hashes(spectra))
    alike = pairs[likeness(spectra[pairs[:, 0]], spectra[pairs[:, 1]]) >= LEAST]
    np.testing.assert_array_equal(alike, np.stack([np.arange(count), np.arange(count) + count], 1))


def test_images_that_share_much_are_not_nearly_the_same() -> None:
    here = pixels(photographs()).astype(np.float32)
    mixed = 0.65 * here + 0.35 * np.roll(here, 1, axis=0)  # a correlation of about 0.88
    found = likeness(spectrum(here), spectrum(mixed))
    assert 0.7 < np.median(found) < LEAST


def test_likeness_is_a_correlation() -> None:
    one, other = spectrum(pixels(photographs()[:2]))
    np.testing.assert_allclose(likeness(one[None], 0.5 * one[None]), [1], rtol=1e-6)
    details = np.ones((16, 16), bool)
    details[:4, :4] = False
    whole = np.ones((16, 16), bool)
    whole[0, 0] = False
    expected = min(1 - cosine(one[kept], other[kept]) for kept in (whole, details))
    np.testing.assert_allclose(likeness(one[None], other[None]), [expected], rtol=1e-4)


def test_images_without_contrast_are_like_no_other() -> None:
    flat = spectrum(np.full((2, 3, SIDE, SIDE), [[[[90]]], [[[91]]]], np.uint8))
    assert likeness(flat[:1], flat[1:])[0] < 0.5


def test_same_digests_are_grouped() -> None:
    groups = same(np.array([7, 3, 7, 5, 3, 7], np.uint64))
    assert sorted(group.tolist() for group in groups) == [[0, 2, 5], [1, 4]]
    assert same(np.array([1, 2], np.uint64)) == [] and same(np.empty(0, np.uint64)) == []


def test_pairs_are_joined_as_scipy_joins_them() -> None:
    pairs = np.random.default_rng(0).integers(0, 200, (120, 2))
    _, label = connected_components(coo_array((np.ones(len(pairs)), pairs.T), shape=(200, 200)), directed=False)
    named = np.unique(pairs)
    expected = sorted(named[label[named] == each].tolist() for each in np.unique(label[named]))
    assert connected(pairs) == expected
