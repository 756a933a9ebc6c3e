"""Training on images four times as large as the memory limit: peak memory, and the same weights as without a limit.

python -m tests.benchmarks.memory --root IMAGES
"""

import argparse
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.benchmarks.measuring import Measured, report
from tests.configs import ROOT, UNDRAWN

COMMAND = (
    "+experiment=from_scratch", "datamodule/augment=[]", "datamodule.batch_size=64", "trainer.max_epochs=1",
    "devices=cpu", "lit_module.net.channels=[4,4]", "lit_module.net.pool=8", *UNDRAWN,
)  # fmt: skip


def train(folder: Path, limit: int | None, *overrides: str) -> tuple[int, float]:
    """Train one epoch in a new process, whose data segment is limited to `limit` bytes.

    Returns:
        Peak resident bytes, mapped files included, and seconds.
    """

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "train.py", *COMMAND, *overrides, f"run_dir={folder}"]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=restrict, stdout=subprocess.DEVNULL) as process:
        peak = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except FileNotFoundError:
                break
            for line in status.splitlines():
                if line.startswith("VmHWM"):
                    peak = max(peak, int(line.split()[1]) * 1024)
            time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return peak, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="an image folder, as of CIFAR-10's 60,000 images")
    parser.add_argument("--images", type=int, default=60_000, help="number of images in it")
    parser.add_argument("--limit", type=int, default=2**31, help="bytes; torch and Lightning alone take 0.9 GiB")
    options = parser.parse_args()
    size = int((4 * options.limit / options.images / 3) ** 0.5) + 1
    data = (f"datamodule.root={options.root}", f"datamodule.image_size={size}")
    sides = {
        "filling the disk cache": (options.limit, "datamodule.cache=disk"),
        "reading the disk cache": (options.limit, "datamodule.cache=auto"),
        "in memory, no limit": (None, "datamodule.cache=memory"),
    }
    measured: Measured = {}
    weights = []
    with tempfile.TemporaryDirectory() as place:
        os.environ["LITMUS_CACHE"] = f"{place}/cache"
        for number, (side, (limit, cache)) in enumerate(sides.items()):
            folder = Path(place) / str(number)
            peak, seconds = train(folder, limit, *data, cache)
            measured[side] = {"peak memory, MiB": [peak / 2**20], "seconds": [seconds]}
            weights.append(torch.load(folder / "model.pt", weights_only=True))
    same = all(torch.equal(weights[0][key], other[key]) for other in weights[1:] for key in other)
    report("memory", measured, limit=options.limit, decoded=options.images * 3 * size**2, same_weights=same)
    limited = [figures["peak memory, MiB"][0] for figures in list(measured.values())[:2]]
    if not same or max(limited) > options.limit / 2**20:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
