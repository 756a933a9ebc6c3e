"""Exact and near duplicates are found without comparing all pairs, and no other images."""

import io
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image
from scipy.fft import dctn
from scipy.spatial.distance import cosine

from datamodules.inspection.duplicates import (
    MAX_DISTANCE,
    MIN_SIMILARITY,
    candidate_pairs,
    connected_groups,
    group_equal,
    perceptual_hashes,
    similarity,
    spectrum,
)
from datamodules.storage.decode import ImageSpec, to_array
from tests.datamodules.images import FIELD_SIDE, photographs


def pixels(images: list[Image.Image]) -> np.ndarray:
    """As a data module decodes them."""
    return np.stack([to_array(image, ImageSpec(3, (FIELD_SIDE, FIELD_SIDE), "pad", True)) for image in images])


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


def test_candidates_are_all_pairs_of_hamming_distance_8() -> None:
    generator = np.random.default_rng(0)
    hashes = np.repeat(generator.integers(0, 2**63, 80, dtype=np.uint64), 4)
    for i in range(len(hashes)):
        for bit in generator.permutation(64)[: i % 9].tolist():
            hashes[i] ^= np.uint64(1 << bit)
    first, second = np.triu_indices(len(hashes), 1)
    near = np.bitwise_count(hashes[first] ^ hashes[second]) <= MAX_DISTANCE
    pairs, complete = candidate_pairs(hashes)
    assert complete and near.sum() > 100
    np.testing.assert_array_equal(pairs, np.stack([first, second], 1)[near])


@pytest.mark.parametrize("count", [0, 1])
def test_no_candidates_without_a_second_image(count: int) -> None:
    pairs, complete = candidate_pairs(np.zeros(count, np.uint64))
    assert pairs.shape == (0, 2) and complete


def test_search_stops_where_all_images_look_alike() -> None:
    pairs, complete = candidate_pairs(np.zeros(1000, np.uint64))
    assert not complete and 1000 < len(pairs) < 50_000


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
def test_each_changed_copy_is_found_and_no_other_image(change: Callable[[Image.Image], Image.Image]) -> None:
    images = photographs()
    count = len(images)
    spectra = spectrum(pixels(images + [change(image) for image in images]))
    pairs, _ = candidate_pairs(perceptual_hashes(spectra))
    alike = pairs[similarity(spectra[pairs[:, 0]], spectra[pairs[:, 1]]) >= MIN_SIMILARITY]
    np.testing.assert_array_equal(alike, np.stack([np.arange(count), np.arange(count) + count], 1))


def test_blended_images_are_no_near_duplicates() -> None:
    originals = pixels(photographs()).astype(np.float32)
    mixed = 0.65 * originals + 0.35 * np.roll(originals, 1, axis=0)  # a correlation of about 0.88
    assert 0.7 < np.median(similarity(spectrum(originals), spectrum(mixed))) < MIN_SIMILARITY


def test_similarity_is_a_correlation() -> None:
    first, second = spectrum(pixels(photographs()[:2]))
    np.testing.assert_allclose(similarity(first[None], 0.5 * first[None]), [1], rtol=1e-6)
    details = np.ones((16, 16), bool)
    details[:4, :4] = False
    whole = np.ones((16, 16), bool)
    whole[0, 0] = False
    expected = min(1 - cosine(first[kept], second[kept]) for kept in (whole, details))
    np.testing.assert_allclose(similarity(first[None], second[None]), [expected], rtol=1e-4)


def test_images_without_contrast_are_similar_to_none() -> None:
    flat = spectrum(np.full((2, 3, FIELD_SIDE, FIELD_SIDE), [[[[90]]], [[[91]]]], np.uint8))
    assert similarity(flat[:1], flat[1:])[0] < 0.5


def test_equal_digests_are_grouped() -> None:
    groups = group_equal(np.array([7, 3, 7, 5, 3, 7], np.uint64))
    assert sorted(group.tolist() for group in groups) == [[0, 2, 5], [1, 4]]
    assert group_equal(np.array([1, 2], np.uint64)) == [] and group_equal(np.empty(0, np.uint64)) == []


def test_pairs_form_connected_groups() -> None:
    pairs = np.random.default_rng(0).integers(0, 200, (70, 2))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    group_of = {int(node): {int(node)} for node in pairs.ravel()}
    for first, second in pairs.tolist():
        merged = group_of[first] | group_of[second]
        group_of |= dict.fromkeys(merged, merged)
    expected = sorted(sorted(group) for group in {id(group): group for group in group_of.values()}.values())
    assert len(expected) > 10 and max(map(len, expected)) > 4
    assert connected_groups(pairs) == expected
    assert connected_groups(np.empty((0, 2), np.int64)) == []
