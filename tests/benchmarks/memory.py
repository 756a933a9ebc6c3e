"""Images four times as large as the memory of the process: the same bits as from memory, below the limit.

python -m tests.benchmarks.memory --root IMAGES
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
COMMAND = (
    "+experiment=image_folder", "datamodule/augment=[]", "datamodule.batch_size=64", "trainer.max_epochs=1",
    "devices=cpu", "lit_module.net.channels=[4,4]", "lit_module.net.pool=8", "++callbacks.dashboard=null",
    "++callbacks.predictions=null",
)  # fmt: skip


def train(folder: Path, limit: int | None, *overrides: str) -> tuple[int, float]:
    """Trains one epoch, in a process that may take `limit` bytes of its own.

    Returns:
        The most bytes that were resident, mapped files included, and seconds.
    """

    def restrict() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    command = [sys.executable, "train.py", *COMMAND, *overrides, f"run_dir={folder}"]
    began = time.monotonic()
    with subprocess.Popen(command, cwd=ROOT, preexec_fn=restrict, stdout=subprocess.DEVNULL) as process:
        most = 0
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
            except FileNotFoundError:
                break
            most = max(
                [most, *(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM"))]
            )
            time.sleep(0.1)
    if process.wait():
        raise SystemExit(f"failed: {' '.join(command)}")
    return most, time.monotonic() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", required=True, help="an image folder, as of CIFAR-10's 60,000 images")
    parser.add_argument("--images", type=int, default=60_000, help="in it")
    parser.add_argument("--limit", type=int, default=2**31, help="bytes; torch and Lightning alone take 0.9 GiB")
    options = parser.parse_args()
    size = int((4 * options.limit / options.images / 3) ** 0.5) + 1
    data = (f"datamodule.root={options.root}", f"datamodule.image_size={size}")
    with tempfile.TemporaryDirectory() as place:
        os.environ["LITMUS_CACHE"] = f"{place}/cache"
        most, first = train(Path(place) / "first", options.limit, *data, "datamodule.cache=disk")
        again, second = train(Path(place) / "second", options.limit, *data, "datamodule.cache=auto")
        unlimited, third = train(Path(place) / "third", None, *data, "datamodule.cache=memory")
        weights = [
            torch.load(Path(place) / name / "model.pt", weights_only=True) for name in ("first", "second", "third")
        ]
    same = all(torch.equal(weights[0][key], other[key]) for other in weights[1:] for key in other)
    decoded = options.images * 3 * size**2
    for name, peak, seconds in (
        ("making the store", most, first), ("with the store", again, second), ("in memory, no limit", unlimited, third)
    ):  # fmt: skip
        print(f"{name:20}  {peak / 2**20:7,.0f} MiB resident at most  {seconds:6.1f} s")
    print(f"decoded {decoded / 2**20:,.0f} MiB, limit {options.limit / 2**20:,.0f} MiB; same weights: {same}")
    facts = {"limit": options.limit, "decoded": decoded, "resident": [most, again], "same": same}
    print(json.dumps({"benchmark": "memory", **facts, "in memory": unlimited}))
    if not same or max(most, again) > options.limit:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
