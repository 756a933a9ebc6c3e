"""Which samples are the same, and which images nearly: by the signs of their lowest frequencies, then by all of them.

A hash of 64 bits finds who may be alike without comparing all with all; what it finds is compared once more, so that
it need not be right. The hash is that of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash
Functions" (2010), section 3.2.1, but for the signs of the frequencies in place of a comparison with their median: a
frequency then changes its own bit alone, and fewer bits change when an image is compressed or made brighter.
"""

from itertools import combinations

import numpy as np

GREY = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, as JPEG, which blurs what is left: the colours
# Frequencies in each direction by which images are compared; those below COARSE alone tell little of an image: every
# sky is bright above.
FREQUENCIES = 16
COARSE = 4
HASHED = 8  # in each direction
# Hashes that differ in no more bits are compared. Each of BANDS parts of a hash takes such a bit at most, so that BANDS
# - FARTHEST parts are equal; fewer than that many would let too much through, and more parts are slower to try.
FARTHEST = 8
BANDS = 11
# Of images that share those parts of their hashes, each is compared with so many others, next to it by its hash, and
# of pairs that are near so many are kept an image. Photographs stay far below both; strokes on black may not.
NEIGHBOURS = 256
MOST = 20
# Images of at least this correlation are nearly the same. A copy has 0.96 or more that is a JPEG of quality 75 or
# better, up to 10 % brighter or darker, in grey, or of 3/4 to 4 times the size, unless next to nothing is to be seen in
# it; of the 60,000 images of CIFAR-10 no two were found above it that do not show one photograph.
LEAST = 0.95


def same(digests: np.ndarray) -> list[np.ndarray]:
    """The positions of equal digests, uint64 `[N]`: one ascending array a group of two or more."""
    _, group, count = np.unique(digests, return_inverse=True, return_counts=True)
    positions = np.flatnonzero(count[group] > 1)
    positions = positions[np.argsort(group[positions], kind="stable")]
    return np.split(positions, np.flatnonzero(np.diff(group[positions])) + 1) if len(positions) else []


def spectrum(images: np.ndarray) -> np.ndarray:
    """The lowest frequencies of grey or RGB images made grey: `[N, C, H, W]` → float32 `[N, 16, 16]`, by an
    orthonormal cosine transform (DCT-II) of the whole image. Its size hardly matters to them."""
    weights = GREY if images.shape[1] == 3 else np.ones(1, np.float32)
    grey = np.einsum("nchw,c->nhw", images, weights)
    height, width = grey.shape[1:]
    return _cosines(height) @ grey @ _cosines(width).T


def _cosines(size: int) -> np.ndarray:
    """float32 `[16, size]`"""
    waves = np.cos(np.pi / size * np.outer(np.arange(FREQUENCIES), np.arange(size) + 0.5)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


def hashes(spectra: np.ndarray) -> np.ndarray:
    """uint64 `[N]`: the sign of each of the 8 × 8 lowest frequencies."""
    lowest = spectra[:, :HASHED, :HASHED].reshape(len(spectra), -1)
    return np.packbits(lowest > 0, axis=1, bitorder="little").view(np.uint64)[:, 0]


def candidates(found: np.ndarray) -> tuple[np.ndarray, bool]:
    """Pairs of positions of hashes, uint64 `[N]`, that differ in at most 8 bits: int64 `[M, 2]`, ascending; and whether
    these are all of them. Where far too many images look alike to a hash, the search ends at 20 pairs an image."""
    count = len(found)
    by_hash = np.argsort(found)
    pairs = np.empty(0, np.int64)  # first · count + second
    whole = True
    for equal in combinations(range(BANDS), BANDS - FARTHEST):
        mask = np.uint64(sum(1 << bit for bit in range(64) if bit % BANDS in equal))
        order = by_hash[np.argsort(found[by_hash] & mask, kind="stable")]
        ordered = found[order]
        first = np.arange(count)
        new = [pairs]
        for step in range(1, count):
            first = first[: np.searchsorted(first, count - step)]
            first = first[(ordered[first] ^ ordered[first + step]) & mask == 0]
            if not len(first):
                break
            if step > NEIGHBOURS or sum(map(len, new)) > MOST * count:
                whole = False
                break
            near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= FARTHEST]
            one, other = order[near], order[near + step]
            new.append(np.minimum(one, other) * count + np.maximum(one, other))
        pairs = np.unique(np.concatenate(new))
        if len(pairs) > MOST * count:
            return np.stack(np.divmod(pairs, count), 1), False
    return np.stack(np.divmod(pairs, max(1, count)), 1), whole


def likeness(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """How much alike images are, float32 `[N]`, at most 1: the lesser correlation of their spectra `[N, 16, 16]`, of
    all but how bright they are, or of the details alone. Images without contrast are like no other."""
    one, other = one.copy(), other.copy()
    one[:, 0, 0] = other[:, 0, 0] = 0
    whole = _correlation(one, other)
    one[:, :COARSE, :COARSE] = other[:, :COARSE, :COARSE] = 0
    return np.minimum(whole, _correlation(one, other))


def _correlation(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    both, first, second = ((a * b).sum((1, 2)) for a, b in ((one, other), (one, one), (other, other)))
    return both / np.maximum(np.sqrt(first * second), 1e-6)


def connected(pairs: np.ndarray) -> list[list[int]]:
    """The positions that pairs, int64 `[M, 2]`, join directly or by others: one ascending list a group."""
    groups: dict[int, list[int]] = {}
    for first, second in pairs.tolist():
        small, large = sorted((groups.setdefault(first, [first]), groups.setdefault(second, [second])), key=len)
        if small is not large:
            large += small
            groups.update(dict.fromkeys(small, large))
    return sorted(sorted(group) for group in {id(group): group for group in groups.values()}.values())
