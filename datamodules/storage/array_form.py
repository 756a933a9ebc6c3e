"""The form in which arrays are read: order of the axes, scale and size. Imports torch only to resize."""

import math
from typing import Literal, NamedTuple

import numpy as np

# The order of axes in memory; L: length of a series.
ORDER = "CDHWL"
LINEAR = {1: "linear", 2: "bilinear", 3: "trilinear"}


class ArrayForm(NamedTuple):
    """The form in which arrays are read."""

    axes: str | None = None
    """The axes of .npy and .npz files: L, HW or DHW in any order, with or without C; without it a channel axis is
    added. None: L, HW, CHW or CDHW by their number"""
    pages: Literal["channels", "depth"] = "depth"
    """What the pages of a TIFF file are"""
    window: tuple[float, float] | None = None
    """(low, high): values become `(value - low) / (high - low)`, clipped to [0, 1]. None: they stay as they are"""
    size: tuple[int, ...] | None = None
    """The spatial shape to resize to, see `resized`. None: unchanged"""


def arranged(values: np.ndarray, axes: str) -> np.ndarray:
    """Orders the axes: `[C, *spatial]`. Several axes of one letter become one; without a C, one is added.

    Args:
        axes: a letter of `ORDER` for each axis.
    """
    moved = values.transpose(sorted(range(len(axes)), key=lambda axis: ORDER.index(axes[axis])))
    shape = [1] if "C" not in axes else []
    for letter in ORDER:
        sizes = [size for axis, size in zip(axes, values.shape, strict=True) if axis == letter]
        if sizes:
            shape.append(math.prod(sizes))
    return moved.reshape(shape)


def scaled(array: np.ndarray, window: tuple[float, float] | None) -> np.ndarray:
    """Converts to float32, but not uint8 without a window. A window maps infinite values to NaN."""
    if window is None:
        with np.errstate(over="ignore"):  # becomes inf
            return array if array.dtype == np.uint8 else array.astype(np.float32)
    low, high = window
    precise = array.astype(np.result_type(array, np.float32))
    fractions = np.clip((precise - low) / (high - low), 0, 1)
    return np.where(np.isfinite(precise), fractions, np.nan).astype(np.float32)


def resized(array: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    """Resizes `[C, *spatial]`: axes that shrink by averages over areas, then those that grow linearly.

    Raises:
        ValueError: `size` has another number of axes.
    """
    spatial = array.shape[1:]
    if len(size) != len(spatial):
        raise ValueError(f"has {len(spatial)} spatial axes, but datamodule.size {len(size)}")
    if spatial == size:
        return array
    import torch
    from torch.nn.functional import interpolate

    samples = torch.from_numpy(np.array(array, np.float32, order="C"))[None]  # [1, C, *spatial]
    smaller = [min(old, new) for old, new in zip(spatial, size, strict=True)]
    samples = interpolate(samples, smaller, mode="area")
    samples = interpolate(samples, list(size), mode=LINEAR[len(size)])
    return (samples.round().byte() if array.dtype == np.uint8 else samples)[0].numpy()
