"""Finds images that are dark, nearly empty, blurred, or odd in size or aspect ratio."""

import numpy as np

from datamodules.inspection.measurements import Light

# An image is dark if less than this fraction of its pixels is brighter than `measurements.DARK`.
MIN_BRIGHT = 0.01
# An image is nearly empty if the standard deviation of its luminance, of 1, is below this.
MIN_CONTRAST = 0.02
# Modified z-score of an outlier: B. Iglewicz and D. Hoaglin, "How to Detect and Handle Outliers" (1993).
MAX_SCORE = 3.5
SIGMA = 1.4826  # standard deviation of a normal distribution over its median absolute deviation
# Factors from the median below which no image is odd, however similar all others are.
BLURRED, ODD_SIZE, ODD_RATIO = 4.0, 2.0, 1.5


def find_unusual(light: Light, height: np.ndarray, width: np.ndarray) -> dict[str, list[tuple[int, float]]]:
    """Positions and values of unusual images by kind, the most unusual first.

    Args:
        height, width: of the files, in pixels, `[N]`.

    Returns:
        Of `dark`: the mean luminance; `nearly empty`: its standard deviation; `blurred`: the sharpness over its median;
        `odd size`: pixels; `odd aspect ratio`: width over height.
    """
    is_empty = light.contrast < MIN_CONTRAST
    relative = _log_ratio(light.sharpness)
    area, ratio = _log_ratio(height * width), _log_ratio(width / height)
    kinds = {
        "dark": (light.bright < MIN_BRIGHT, light.brightness, light.brightness),
        "nearly empty": (is_empty, light.contrast, light.contrast),
        "blurred": (_is_outlier(relative, BLURRED) & (relative < 0) & ~is_empty, relative, np.exp(relative)),
        "odd size": (_is_outlier(area, ODD_SIZE), -abs(area), height * width),
        "odd aspect ratio": (_is_outlier(ratio, ODD_RATIO), -abs(ratio), width / height),
    }
    found = {}
    for kind, (is_unusual, order, values) in kinds.items():
        positions = np.flatnonzero(is_unusual)
        positions = positions[np.argsort(order[positions], kind="stable")]
        found[kind] = list(zip(positions.tolist(), values[positions].tolist(), strict=True))
    return found


def _log_ratio(values: np.ndarray) -> np.ndarray:
    """Logarithm of positive values over their median."""
    logarithm = np.log(np.maximum(values, 1e-6))
    difference: np.ndarray = logarithm - np.median(logarithm)
    return difference


def _is_outlier(log_ratio: np.ndarray, min_factor: float) -> np.ndarray:
    """Whether values differ from their median by more than 3.5 robust standard deviations and more than a factor."""
    deviation = abs(log_ratio)
    return deviation > max(MAX_SCORE * SIGMA * float(np.median(deviation)), np.log(min_factor))
