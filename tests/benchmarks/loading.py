"""Data loading without a network: an epoch of float batches in [0, 1], and decoding.

python -m tests.benchmarks.loading --images DIR

DIR contains train/<class> and test/<class>. The first epoch, which decodes, does not count. Decoding with all cores is
compared with one core's time divided by the number of cores.
"""

import argparse
import tempfile
import time
from pathlib import Path

from tests.benchmarks.measuring import BOOK, Figures, chosen_classes, configure, in_turn, report

# torch is imported inside the functions: every decoding process imports this file.


def decode(root: Path, workers: int) -> float:
    """Seconds to decode all images with `workers` processes and an empty cache."""
    import train

    with tempfile.TemporaryDirectory() as cache:
        place = (f"datamodule.root={root}", f"datamodule.cache_dir={cache}", f"datamodule.num_workers={workers}")
        cfg = configure(*BOOK, *place)
        began = time.perf_counter()
        train.build_datamodule(cfg, "fit")
        return time.perf_counter() - began


def textbook(root: Path, workers: int) -> float:
    """Seconds of an epoch of a DataLoader over an ImageFolder."""
    from torch.utils.data import DataLoader
    from torchvision.datasets import ImageFolder
    from torchvision.transforms import ToTensor

    began = time.perf_counter()
    for _ in DataLoader(ImageFolder(f"{root}/train", ToTensor()), 64, shuffle=True, num_workers=workers):
        pass
    return time.perf_counter() - began


def race(root: Path, rounds: int, choices: list[int]) -> None:
    """Compare epochs of Litmus with those of a DataLoader over an ImageFolder."""
    import train
    from datamodules.loader import BatchLoader, to_float

    with tempfile.TemporaryDirectory() as cache:
        cfg = configure(*BOOK, f"datamodule.root={root}", f"datamodule.cache_dir={cache}", "datamodule.num_workers=0")
        split = train.build_datamodule(cfg, "fit").split("train")
        workers = min(choices, key=lambda count: textbook(root, count))

        def litmus(number: int) -> Figures:
            began = time.perf_counter()
            for batch in BatchLoader(split, 64, seed=number):
                to_float(batch.inputs)
            return {"an epoch, s": time.perf_counter() - began}

        sides = {"Litmus": litmus, "DataLoader, ImageFolder": lambda _: {"an epoch, s": textbook(root, workers)}}
        report("loading", in_turn(sides, rounds), workers=workers)


def main() -> None:
    from datamodules.storage.worker_pool import cores

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", default=["airplane", "bird"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, nargs="+", default=[0, 1, 2, 4])
    options = parser.parse_args()
    with chosen_classes(options.images, options.classes) as root:
        race(root, options.rounds, options.workers)
        sides = {
            "one core, divided by the cores": lambda _: {"decoding, s": decode(root, 0) / cores()},
            "all cores": lambda _: {"decoding, s": decode(root, cores())},
        }
        report("decoding", in_turn(sides, options.rounds))


if __name__ == "__main__":
    main()
