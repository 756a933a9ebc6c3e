"""What an inspection measures of the decoded samples, in one pass over them."""

from typing import NamedTuple

import numpy as np

from datamodules.datamodule import DataModule
from datamodules.image_datamodule import ImageDataModule
from datamodules.inspection.duplicates import FREQUENCIES, LUMINANCE, perceptual_hashes, spectrum
from datamodules.storage.decode import digests
from datamodules.storage.inputs import Inspected
from datamodules.storage.worker_pool import progress

# Bytes of samples read at once.
BATCH_BYTES = 2**22
# Luminance, of 1, above which a pixel is not dark.
DARK = 0.25


class Light(NamedTuple):
    """Statistics of the luminance of images, of values in [0, 1]: float32 `[N]` each."""

    brightness: np.ndarray
    """Mean"""
    bright: np.ndarray
    """Fraction of pixels above 0.25"""
    contrast: np.ndarray
    """Standard deviation"""
    sharpness: np.ndarray
    """Variance of the Laplacian (J. L. Pech-Pacheco et al., "Diatom autofocusing in brightfield microscopy: a
    comparative study", 2000) over that of the luminance, so that it does not depend on the contrast"""


class Measured(NamedTuple):
    """Of all readable samples, in ascending order of their rows."""

    rows: np.ndarray
    """int64 `[N]`"""
    digests: np.ndarray
    """uint64 `[N]`"""
    hashes: np.ndarray | None
    """uint64 `[N]`; None unless the samples are images of at least 16 × 16"""
    light: Light | None
    """None unless the samples are images"""


def measure(datamodule: DataModule, data: Inspected) -> Measured:
    """Reads each sample once, if there is anything to measure."""
    inputs, known = data.loaded.inputs, data.loaded.digests
    rows = np.sort(np.concatenate([samples.rows for samples in data.splits.values()]))
    are_images = isinstance(datamodule, ImageDataModule)
    comparable = are_images and min(inputs.shape[1:]) >= FREQUENCIES
    sample_digests = np.empty(len(rows), np.uint64) if known is None else known[rows]
    if known is not None and not are_images:
        return Measured(rows, sample_digests, None, None)
    hashes = np.empty(len(rows), np.uint64)
    statistics = []
    start = 0
    for batch in progress(inputs.read(in_batches(rows, inputs.sample_bytes)), len(rows), "measuring samples", len):
        pixels = batch.numpy()
        stop = start + len(pixels)
        if known is None:
            sample_digests[start:stop] = digests(pixels)
        if comparable:
            hashes[start:stop] = perceptual_hashes(spectrum(pixels))
        if are_images:
            statistics.append(light_of(pixels))
        start = stop
    light = Light(*map(np.concatenate, zip(*statistics, strict=True))) if are_images else None
    return Measured(rows, sample_digests, hashes if comparable else None, light)


def light_of(images: np.ndarray) -> Light:
    """Statistics of images, uint8 `[N, C, H, W]`; an image of less than 3 × 3 pixels has a sharpness of 0."""
    weights = LUMINANCE if images.shape[1] == 3 else np.ones(1, np.float32)
    grey = np.einsum("nchw,c->nhw", images, weights / 255)
    inner = grey[:, 1:-1, 1:-1]
    laplacian = grey[:, :-2, 1:-1] + grey[:, 2:, 1:-1] + grey[:, 1:-1, :-2] + grey[:, 1:-1, 2:] - 4 * inner
    variance = grey.var((1, 2))
    edges = laplacian.var((1, 2)) if inner.size else np.zeros(len(images), np.float32)
    return Light(
        brightness=grey.mean((1, 2)),
        bright=(grey > DARK).mean((1, 2), dtype=np.float32),
        contrast=np.sqrt(variance),
        sharpness=edges / np.maximum(variance, 1e-6),
    )


def in_batches(array: np.ndarray, bytes_each: int) -> list[np.ndarray]:
    """Splits an array into parts that refer to some megabytes of samples each."""
    return np.array_split(array, -(-len(array) * bytes_each // BATCH_BYTES)) if len(array) else []
