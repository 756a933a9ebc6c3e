"""The training loop of the notes against Litmus: whole processes, and epochs after the first.

python -m tests.benchmarks.notes_loop --images DIR

DIR contains train/<class> and test/<class>. Both train the same network on the same images with the same optimizer;
Litmus also tests and writes checkpoints, TensorBoard events and a report. The other side uses its fastest number of
workers on this machine. Round r of both uses seed r.
"""

import argparse
import csv
import statistics
import tempfile
from itertools import pairwise
from pathlib import Path

from tests.benchmarks.measuring import BOOK, Watched, chosen_classes, in_turn, report, watch

EPOCH, WHOLE, CPU, ACCURACY = "an epoch, s", "whole process, s", "whole process, CPU s", "last val/acc"


def scripted(script: str, root: Path, epochs: int, workers: int, seed: int) -> dict[str, float]:
    """Run a script that prints a line for each epoch, which ends with the validation accuracy."""
    watched = watch(["-m", script, str(root), *map(str, (epochs, workers, seed))], "epoch")
    *_, last = (line for line in watched.lines if line.startswith("epoch"))
    return times(watched) | {ACCURACY: float(last.split()[-1])}


def litmus(root: Path, epochs: int, seed: int) -> dict[str, float]:
    """Run train.py with an empty cache."""
    with tempfile.TemporaryDirectory() as logs:
        place = [f"datamodule.root={root}", f"datamodule.cache_dir={logs}/cache", f"run_dir={logs}/run"]
        watched = watch(["train.py", *BOOK, *place, f"epochs={epochs}", f"seed={seed}"], "epoch")
        with open(Path(logs) / "run" / "metrics.csv", newline="", encoding="utf-8") as file:
            *_, last = csv.DictReader(file)
    return times(watched) | {ACCURACY: float(last["val/acc"])}


def times(watched: Watched) -> dict[str, float]:
    steady = statistics.median(after - before for before, after in pairwise(watched.marks))
    return {WHOLE: watched.seconds, CPU: watched.cpu_seconds, EPOCH: steady}


def race(benchmark: str, opponent: str, script: str, description: str | None) -> None:
    """Compare Litmus with a script, as the command line says."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", default=["airplane", "bird"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    options = parser.parse_args()
    with chosen_classes(options.images, options.classes) as root:
        workers = min(options.workers, key=lambda count: scripted(script, root, 3, count, 0)[EPOCH])
        sides = {
            "Litmus": lambda seed: litmus(root, options.epochs, seed),
            opponent: lambda seed: scripted(script, root, options.epochs, workers, seed),
        }
        measured = in_turn(sides, options.rounds)
    report(benchmark, measured, epochs=options.epochs, workers=workers)
    litmus_accuracy, other_accuracy = measured["Litmus"][ACCURACY], measured[opponent][ACCURACY]
    if options.rounds > 1:
        variances = [statistics.variance(values) / len(values) for values in (litmus_accuracy, other_accuracy)]
        error = sum(variances) ** 0.5
        difference = statistics.mean(litmus_accuracy) - statistics.mean(other_accuracy)
        print(f"{ACCURACY}: the means differ by {difference:+.4f}, with a standard error of {error:.4f}")


if __name__ == "__main__":
    race("notes_loop", "the notes' loop", "tests.benchmarks.notes_script", __doc__)
