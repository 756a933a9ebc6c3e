"""Finds exact duplicates by digest, near duplicates by perceptual hash and correlation.

A 64-bit hash proposes candidate pairs without comparing all images with all; their similarity decides. The hash is
that of C. Zauner, "Implementation and Benchmarking of Perceptual Image Hash Functions" (2010), section 3.2.1, with the
signs of the DCT coefficients instead of a comparison with their median: a coefficient then changes its own bit only,
and compression or a change of brightness flips fewer bits.
"""

from itertools import combinations

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

# ITU-R BT.601, as in JPEG, which blurs the chrominance.
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
# DCT coefficients along each axis that are compared, those that are hashed, and those too coarse to tell images apart
# without finer ones: every sky is bright above.
FREQUENCIES = 16
HASHED = 8
COARSE = 4
# Hashes of at most this Hamming distance are candidates. The bits of a hash form BANDS bands, of which MAX_DISTANCE
# flipped bits leave at least BANDS - MAX_DISTANCE equal. Fewer bands admit too many pairs, more take more passes.
MAX_DISTANCE = 8
BANDS = 11
# Limits of the search: hashes compared with each hash in a pass, and candidate pairs per image. Photographs stay far
# below both; strokes on black may not.
MAX_NEIGHBOURS = 256
MAX_PAIRS = 20
# Images of at least this similarity are near duplicates. A copy that is a JPEG of quality 75 or better, up to 10 %
# brighter or darker, grey, or scaled by 3/4 to 4 has 0.96 or more, unless it has almost no contrast. In the 60,000
# images of CIFAR-10, no pair above it showed two different photographs.
MIN_SIMILARITY = 0.95


def group_equal(values: np.ndarray) -> list[np.ndarray]:
    """Positions of equal values.

    Returns one ascending int64 array for each value that occurs at least twice in `values` `[N]`.
    """
    _, group, count = np.unique(values, return_inverse=True, return_counts=True)
    positions = np.flatnonzero(count[group] > 1)
    if not len(positions):
        return []
    positions = positions[np.argsort(group[positions], kind="stable")]
    return np.split(positions, np.flatnonzero(np.diff(group[positions])) + 1)


def spectrum(images: np.ndarray) -> np.ndarray:
    """Lowest 16 × 16 DCT-II coefficients of the luminance.

    Images `[N, C, H, W]` → float32 `[N, 16, 16]`. The transform of the whole image, orthonormal; the image size hardly
    changes them.
    """
    weights = LUMINANCE if images.shape[1] == 3 else np.ones(1, np.float32)
    grey = np.einsum("nchw,c->nhw", images, weights)
    height, width = grey.shape[1:]
    return _dct_matrix(height) @ grey @ _dct_matrix(width).T


def _dct_matrix(size: int) -> np.ndarray:
    """float32 `[16, size]`"""
    waves = np.cos(np.pi / size * np.outer(np.arange(FREQUENCIES), np.arange(size) + 0.5)) * np.sqrt(2 / size)
    waves[0] /= np.sqrt(2)
    return waves.astype(np.float32)


def perceptual_hashes(spectra: np.ndarray) -> np.ndarray:
    """Signs of the lowest 8 × 8 coefficients as bits.

    Spectra `[N, 16, 16]` → uint64 `[N]`.
    """
    lowest = spectra[:, :HASHED, :HASHED].reshape(len(spectra), -1)
    return np.packbits(lowest > 0, axis=1, bitorder="little").view(np.uint64)[:, 0]


def candidate_pairs(hashes: np.ndarray) -> tuple[np.ndarray, bool]:
    """Pairs of hashes of a Hamming distance of at most 8.

    Args:
        hashes: uint64 `[N]`.

    Returns:
        Positions, int64 `[M, 2]`, ascending, and whether they are complete: the search stops at 20 pairs per image.
    """
    count = len(hashes)
    by_hash = np.argsort(hashes)
    pairs = np.empty(0, np.int64)  # first · count + second
    complete = True
    for equal_bands in combinations(range(BANDS), BANDS - MAX_DISTANCE):
        mask = np.uint64(sum(1 << bit for bit in range(64) if bit % BANDS in equal_bands))
        order = by_hash[np.argsort(hashes[by_hash] & mask, kind="stable")]
        ordered = hashes[order]
        first = np.arange(count)
        pass_pairs = [pairs]
        for step in range(1, count):
            first = first[: np.searchsorted(first, count - step)]
            first = first[(ordered[first] ^ ordered[first + step]) & mask == 0]
            if not len(first):
                break
            if step > MAX_NEIGHBOURS or sum(map(len, pass_pairs)) > MAX_PAIRS * count:
                complete = False
                break
            near = first[np.bitwise_count(ordered[first] ^ ordered[first + step]) <= MAX_DISTANCE]
            left = order[near]
            right = order[near + step]
            pass_pairs.append(np.minimum(left, right) * count + np.maximum(left, right))
        pairs = np.unique(np.concatenate(pass_pairs))
        if len(pairs) > MAX_PAIRS * count:
            return np.stack(np.divmod(pairs, count), 1), False
    return np.stack(np.divmod(pairs, max(1, count)), 1), complete


def similarity(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Correlation of pairs of spectra.

    Two arrays `[N, 16, 16]` → float32 `[N]`, at most 1. The minimum of two: that of all coefficients but the mean
    brightness, and that of the fine ones alone. Near 0 for images without contrast.
    """
    first, second = first.copy(), second.copy()
    first[:, 0, 0] = second[:, 0, 0] = 0
    overall = _correlation(first, second)
    first[:, :COARSE, :COARSE] = second[:, :COARSE, :COARSE] = 0
    return np.minimum(overall, _correlation(first, second))


def _correlation(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    product = (first * second).sum((1, 2))
    norms = np.sqrt((first * first).sum((1, 2)) * (second * second).sum((1, 2)))
    return product / np.maximum(norms, 1e-6)


def connected_groups(pairs: np.ndarray) -> list[list[int]]:
    """Connected components of the graph with these edges.

    Edges, int64 `[M, 2]` → an ascending list of nodes for each component, in ascending order.
    """
    nodes, edges = np.unique(pairs, return_inverse=True)
    edges = edges.reshape(-1, 2)
    graph = coo_array((np.ones(len(edges)), (edges[:, 0], edges[:, 1])), shape=(len(nodes), len(nodes)))
    _, component = connected_components(graph, directed=False)
    return sorted(nodes[members].tolist() for members in group_equal(component))
