"""Split-conformal prediction: sets that hold the true class, and unknown inputs, at stated rates.

Both rest on ranks alone. If `n` validation samples and a new one are exchangeable (drawn alike), the score of the new
one is below the r-th lowest of them with probability r / (n + 1) at most.

Prediction sets have the score of adaptive prediction sets (APS) of Romano, Sesia and Candès, arXiv:2006.02544, without
its randomization: with u = 0 in their equation 5, so that no set is empty and equal images have equal sets. The
regularization of RAPS, arXiv:2009.14193, made no set smaller on the data tried. A set holds the true class with
probability ≥ `coverage`: on average over validation splits and over all samples, not within each class. It is also
≤ `coverage` + 1 / (n + 1) where the network is right less often than `coverage`. Elsewhere most sets are one class, and
hold the true one as often as the network is right.

Unknown inputs, see `lit_modules.inference.unknown`, are those with a low conformal p-value, as of Bates et al.,
arXiv:2104.08279: an input like the validation samples is called unknown with probability ≤ `unknown`. How many of the
unknown inputs are found is not known without any.

The best epoch was chosen by the same validation samples, so they may be slightly easier than new ones. The rates on the
test split, in the report, are free of that.
"""

import math

import numpy as np

from conf.errors import UserError

# Relative: sums of float32 probabilities differ in their last digits between devices. A lower threshold makes sets
# larger and fewer inputs unknown, so the rates hold.
ROUNDING = 1e-5


def set_threshold(probabilities: np.ndarray, labels: np.ndarray, coverage: float) -> float:
    """The threshold for `prediction_sets`, from validation samples.

    Args:
        probabilities: float `[N, num_classes]`.
        labels: int `[N]`.
        coverage: wanted probability that a set holds the true class.

    Raises:
        UserError: N < coverage / (1 - coverage), or the coverage is not between 0 and 1.
    """
    true = probabilities[np.arange(len(labels)), labels][:, None]
    tails = np.where(probabilities <= true, probabilities, 0).sum(1, dtype=np.float64)
    return lower_quantile(tails, 1 - coverage, "coverage", coverage)


def lower_quantile(scores: np.ndarray, rate: float, key: str, value: float) -> float:
    """The score below which a new one is with probability ≤ `rate`; `key` and its `value` are for messages."""
    if not 0 < rate < 1:
        raise UserError(f"{key}: {value} is not between 0 and 1; choose {key}={0.95 if key == 'coverage' else 0.05}")
    rank = math.floor((len(scores) + 1) * rate + 1e-9)  # 20 × 0.05 is 1
    if rank < 1:
        needed = math.ceil(1 / rate - 1 - 1e-9)
        possible = math.ceil(1000 / (len(scores) + 1)) / 1000
        fix = f"{key}={1 - possible if key == 'coverage' else possible:.3g} is possible"
        raise UserError(f"{key}: {value} needs {needed} validation samples, and the run has {len(scores)}; {fix}")
    score = float(np.sort(scores)[rank - 1])
    return score - abs(score) * ROUNDING


def prediction_sets(probabilities: np.ndarray, threshold: float) -> np.ndarray:
    """Whether each class is in the set of each sample, bool `[N, num_classes]`; at least one is.

    A class is in the set if it and all classes that are no more probable have at least the probability `threshold`
    together.

    Args:
        probabilities: float `[N, num_classes]`.
        threshold: see `set_threshold`.
    """
    ascending = np.sort(probabilities, axis=1)
    reached = ascending.cumsum(1, dtype=np.float64) >= threshold
    reached[:, -1] = True
    least = ascending[np.arange(len(ascending)), reached.argmax(1)]
    return probabilities >= least[:, None]
