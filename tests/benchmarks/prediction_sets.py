"""Coverage of prediction sets on 20 random validation/test splits of the held-out predictions of finished runs.

python -m tests.benchmarks.prediction_sets RUN...

The validation and test samples of a run's predictions.csv are pooled and split anew into as many of each. A line holds
the coverage and size of sets, and how many of the 20 coverages lie within the interval that holds 95% of them: that
of the beta-binomial distribution of the coverage of m test samples after n validation samples (Vovk, arXiv:1209.2673).
Where a network is right more often than the coverage asked for, most sets are one class, and only its lower end counts.
"""

import argparse
import math
from pathlib import Path

import numpy as np
from scipy.stats import betabinom

from lit_modules.inference.conformal import prediction_sets, set_threshold
from lit_modules.runs.predictions_csv import read_predictions
from tests.benchmarks.measuring import Measured, report

SPLITS = 20
COVERAGES = (0.8, 0.9, 0.95)


def figures(run: Path, coverage: float) -> dict[str, list[float]]:
    """Coverage, size, and whether coverage lies within its interval, of each split."""
    predictions = [evaluation.predictions for evaluation in read_predictions(run / "predictions.csv").values()]
    probabilities = np.concatenate([split.probabilities for split in predictions])
    true = np.concatenate([split.true for split in predictions])
    count, total = len(predictions[0].true), len(true)
    rank = math.ceil((count + 1) * coverage - 1e-9)
    low, high = betabinom(total - count, rank, count + 1 - rank).interval(0.95)
    accurate = (probabilities.argmax(1) == true).mean() > coverage
    values: dict[str, list[float]] = {"coverage": [], "classes in a set": [], "within": []}
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(total)
        val, test = order[:count], order[count:]
        sets = prediction_sets(probabilities[test], set_threshold(probabilities[val], true[val], coverage))
        covered = sets[np.arange(len(test)), true[test]]
        values["coverage"].append(float(covered.mean()))
        values["classes in a set"].append(float(sets.sum(1).mean()))
        values["within"].append(float(low <= covered.sum() and (accurate or covered.sum() <= high)))
    return values


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="folders of finished runs")
    runs = parser.parse_args().runs
    measured: Measured = {f"{run.name}, {coverage}": figures(run, coverage) for run in runs for coverage in COVERAGES}
    report("prediction_sets", measured)
    for side, values in measured.items():
        print(
            f"{side}: mean coverage {np.mean(values['coverage']):.3f}, {sum(values['within']):.0f} of {SPLITS} within"
        )


if __name__ == "__main__":
    main()
