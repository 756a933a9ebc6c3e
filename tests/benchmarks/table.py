"""A table of a million images: seconds and memory from the start of the program's own work to the first batch.

python -m tests.benchmarks.table [rows]

The rows name 10,000 JPEG files of 32×32 over and over, by links to their folder, so that the disk is not what is
measured. Decoded images are kept nowhere, and channels and size are given; else each image would be opened to find
them. Imports are not counted. The last line is JSON.
"""

import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conf import validation

# No torch above `main`: as under train.py, the processes that decode start from this file too.

FILES = 10_000
CLASSES = 100


def write_table(folder: Path, rows: int) -> Path:
    """`rows` rows over 10,000 noisy images."""
    generator = np.random.default_rng(0)
    (folder / "0").mkdir()
    for i in range(FILES):
        pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "0" / f"{i:05d}.jpg")
    for link in range(1, -(-rows // FILES)):
        (folder / str(link)).symlink_to("0", target_is_directory=True)
    table = folder / "table.csv"
    with open(table, "w", encoding="utf-8") as file:
        file.write("path,label,group\n")
        file.writelines(f"{i // FILES}/{i % FILES:05d}.jpg,class {i % CLASSES},g{i // 3}\n" for i in range(rows))
    return table


def resident() -> float:
    """The most memory that this process held so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rows: int) -> None:
    os.environ["LITMUS_STAMP"] = "now"
    import train
    from conf import schema
    from datamodules.storage.worker_pool import cores
    from lit_modules import classifier  # noqa: F401  # torch, Lightning and torchmetrics
    from tests.conftest import configure

    schema.register()
    seconds: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[what] = time.perf_counter() - began
        return result

    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder), rows)
        before = resident()
        choices = ["datamodule=image_table", f"datamodule.root={table}", f"run_dir={folder}/run", "devices=cpu"]
        form = ["datamodule.cache=off", "datamodule.channels=3", "datamodule.image_size=32"]
        cfg = timed("config", lambda: configure(*choices, *form))
        timed("check", lambda: validation.check(cfg))
        datamodule = timed("splits", lambda: train.build_datamodule(cfg, "fit"))
        timed("mean and std", lambda: datamodule.mean_std)
        datamodule.trainer = timed("trainer", lambda: train.build_trainer(cfg))
        batches = iter(datamodule.train_dataloader())
        batch = timed("first batch", lambda: next(batches))
        own = resident() - before
        batches.close()
    assert batch.inputs.shape == (64, 3, 32, 32)
    total = sum(seconds.values())
    for what, value in {**seconds, "total": total}.items():
        print(f"{what:20} {value:7.2f} s")
    print(f"{'memory':20} {own:7.0f} MiB beside the decoders' own")
    facts = {
        "rows": rows,
        "seconds": round(total, 2),
        "parts": {what: round(value, 2) for what, value in seconds.items()},
        "memory_mib": round(own),
        "cores": cores(),
        "versions": {package: version(package) for package in ("torch", "pytorch-lightning", "numpy", "pillow")},
    }
    print(json.dumps(facts))


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
