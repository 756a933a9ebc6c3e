"""Planted wrong labels: how many `task=audit` finds, against a random ranking.

python -m tests.benchmarks.label_errors [--images DIR] [--experiment NAME] [--rounds N] [overrides, such as epochs=10]

5% of the labels are replaced by another class. Each sample is judged by one of five runs, by the network that was not
trained on it: of scikit-learn's digits by `+experiment=digits`, of images in `DIR/<class>/…` by
`+experiment=from_scratch`, or another.
"""

import argparse
import csv
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from PIL import Image
from sklearn.datasets import load_digits

from lit_modules.evaluation.label_errors import find_label_errors
from lit_modules.runs.predictions_csv import read_predictions
from tests.benchmarks.measuring import Figures, Measured, report, watch

FRACTION = 0.05
FOLDS = 5


def planted(labels: np.ndarray, seed: int) -> np.ndarray:
    """Labels of which 5% are replaced by another class."""
    generator = np.random.default_rng(seed)
    num_classes = labels.max() + 1
    wrong = generator.choice(len(labels), round(FRACTION * len(labels)), replace=False)
    noisy = labels.copy()
    noisy[wrong] = (labels[wrong] + generator.integers(1, num_classes, len(wrong))) % num_classes
    return noisy


def out_of_fold(images: Path, names: list[str], labels: np.ndarray, seed: int, overrides: list[str]) -> np.ndarray:
    """Probabilities of five runs, each of the samples that it was not trained on: float32 `[N, num_classes]`.

    Args:
        names: of the files in the folder `images`.
        labels: by which they are trained, int64 `[N]`.
    """
    probabilities = np.full((len(names), labels.max() + 1), np.nan, np.float32)
    fold = np.random.default_rng(seed).permutation(len(names)) % FOLDS
    position = {name: i for i, name in enumerate(names)}
    with TemporaryDirectory() as made:
        table = Path(made) / "table.csv"
        with open(table, "w", newline="", encoding="utf-8") as file:
            rows = zip(names, labels.tolist(), fold.tolist(), strict=True)
            csv.writer(file).writerows([["path", "label", "fold"], *rows])
        data = ["datamodule=image_folder", f"datamodule.root={table}", f"datamodule.image_dir={images}"]
        for held_out in range(FOLDS):
            run = Path(made) / f"run{held_out}"
            choices = [f"datamodule.fold={held_out}", f"run_dir={run}", f"seed={seed}", "++callbacks.dashboard=null"]
            watch(["train.py", *overrides, *data, *choices], "epoch")
            test = read_predictions(run / "predictions.csv")["test"]
            probabilities[[position[name] for name in test.files]] = test.predictions.probabilities
            print(f"run {held_out + 1}/{FOLDS}", file=sys.stderr, flush=True)
    return probabilities


def digits_in(folder: Path) -> tuple[list[str], np.ndarray]:
    """Writes scikit-learn's digits into a folder, and returns their names and labels."""
    digits = load_digits()
    for i, image in enumerate(digits.images):
        Image.fromarray(np.rint(image * (255 / 16)).astype(np.uint8)).save(folder / f"{i:04d}.png")
    return [f"{i:04d}.png" for i in range(len(digits.images))], digits.target


def images_in(folder: Path) -> tuple[list[str], np.ndarray]:
    """Names and labels of `folder/<class>/…`."""
    names = sorted(file.relative_to(folder).as_posix() for file in folder.glob("*/*"))
    _, labels = np.unique([name.partition("/")[0] for name in names], return_inverse=True)
    return names, labels


def compared(true: np.ndarray, noisy: np.ndarray, probabilities: np.ndarray, seed: int) -> dict[str, Figures]:
    """Figures of the ranking of `task=audit` and of a random one."""
    is_wrong = noisy != true
    count = int(is_wrong.sum())
    result = find_label_errors(probabilities, noisy)
    listed = result.order[: result.num_errors]
    figures = {
        "precision at the planted number": float(is_wrong[result.order[:count]].mean()),
        "precision of the listed": float(is_wrong[listed].mean()),
        "recall of the listed": float(is_wrong[listed].sum() / count),
        "listed": float(result.num_errors),
        "planted": float(count),
        "out-of-fold accuracy on true labels": float((probabilities.argmax(1) == true).mean()),
    }
    chance = np.random.default_rng(seed).permutation(is_wrong)[:count].mean()
    return {"task=audit": figures, "random ranking": {"precision at the planted number": float(chance)}}


def measure(source: str, images: Path, names: list[str], true: np.ndarray, rounds: int, overrides: list[str]) -> None:
    """Prints the figures of all rounds."""
    measured: Measured = {}
    for seed in range(rounds):
        noisy = planted(true, seed)
        sides = compared(true, noisy, out_of_fold(images, names, noisy, seed, overrides), seed)
        for side, figures in sides.items():
            for figure, value in figures.items():
                measured.setdefault(side, {}).setdefault(figure, []).append(value)
    report("label_errors", measured, source=source, samples=len(true), overrides=overrides)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, help="a folder with a folder of images for each class; else digits")
    parser.add_argument("--experiment", default="from_scratch", help="for images")
    parser.add_argument("--rounds", type=int, default=1, help="each with other wrong labels")
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    if options.images:
        names, labels = images_in(options.images)
        overrides = [f"+experiment={options.experiment}", *options.overrides]
        measure(options.images.name, options.images.resolve(), names, labels, options.rounds, overrides)
        return
    with TemporaryDirectory() as made:
        names, labels = digits_in(Path(made))
        measure("digits", Path(made), names, labels, options.rounds, ["+experiment=digits", *options.overrides])


if __name__ == "__main__":
    main()
