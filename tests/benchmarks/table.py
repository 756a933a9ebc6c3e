"""Startup on a CSV table of a million images: seconds and memory up to the first batch.

python -m tests.benchmarks.table [rows]

The rows repeat 10,000 JPEG files of 32×32 through links to their folder, so that the disk is not measured. The image
cache is off, and channels and image size are given: otherwise every image would be opened to find them. Imports do not
count.
"""

import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from conf import validation
from tests.benchmarks.measuring import Measured, report
from tests.configs import configure

# torch is imported inside `main`: the processes that decode import this file, too.

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


def peak_memory() -> float:
    """Peak resident memory of this process, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(rows: int) -> None:
    os.environ["LITMUS_STAMP"] = "now"
    import train
    from conf import schema
    from lit_modules import classifier  # noqa: F401  # torch, Lightning and torchmetrics

    schema.register()
    seconds: dict[str, float] = {}

    def timed(part: str, work: Callable[[], Any]) -> Any:
        began = time.perf_counter()
        result = work()
        seconds[part] = time.perf_counter() - began
        return result

    with tempfile.TemporaryDirectory() as folder:
        table = write_table(Path(folder), rows)
        before = peak_memory()
        choices = ["datamodule=image_table", f"datamodule.root={table}", f"run_dir={folder}/run", "devices=cpu"]
        image_spec = ["datamodule.cache=off", "datamodule.channels=3", "datamodule.image_size=32"]
        cfg = timed("config", lambda: configure(*choices, *image_spec))
        timed("check", lambda: validation.check(cfg))
        datamodule = timed("splits", lambda: train.build_datamodule(cfg, "fit"))
        timed("mean and std", lambda: datamodule.mean_std)
        datamodule.trainer = timed("trainer", lambda: train.build_trainer(cfg))
        batches = iter(datamodule.train_dataloader())
        batch = timed("first batch", lambda: next(batches))
        memory = peak_memory() - before
        batches.close()
    assert batch.inputs.shape == (64, 3, 32, 32)
    figures = {f"{part}, s": [value] for part, value in seconds.items()}
    figures |= {"total, s": [sum(seconds.values())], "memory beside the decoders', MiB": [memory]}
    measured: Measured = {"table": figures}
    report("table", measured, rows=rows)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
