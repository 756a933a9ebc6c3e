"""Time to accuracy on CIFAR-10: Litmus' speedrun, and optionally the public record's script, on one GPU.

python -m tests.benchmarks.time_to_accuracy --record airbench94_muon.py datamodule.root=DIR

Arguments after the options are overrides of +experiment=cifar10_speedrun. Rounds of several runs of each side
alternate; the first run of a round is a warm-up and does not count. `span` covers the same as the record's timer:
whitening, training, and the test with test-time augmentation, without loading, compilation or validation. `fit` is all
of Trainer.fit with TensorBoard and checkpoints. The record's script also trains on Litmus' validation images.
"""

import argparse
import re
import statistics
import tempfile
import time
from pathlib import Path

import torch
from pytorch_lightning import Callback, LightningModule, Trainer

import train
from datamodules.loader import BatchLoader
from lit_modules.runs import restore, run_folder
from tests.benchmarks.measuring import Measured, configure, report, watch

SPAN, FIT, ACCURACY = "span, s", "fit, s", "test accuracy"


class Span(Callback):
    """Seconds in training and in the test, without validation."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began = 0.0

    def _start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = now()

    def _stop(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.seconds += now() - self._began

    on_train_start = on_validation_end = on_test_start = _start
    on_train_end = on_validation_start = on_test_end = _stop


def now() -> float:
    """Seconds, after all work on the device has finished."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def litmus(seed: int, overrides: list[str]) -> dict[str, float]:
    """One complete run in a temporary folder."""
    with tempfile.TemporaryDirectory() as logs:
        cfg = configure("+experiment=cifar10_speedrun", f"seed={seed}", f"logs_dir={logs}", *overrides)
        folder = Path(cfg.run_dir)
        datamodule, module, trainer = train.build(cfg)
        span = Span()
        trainer.callbacks.append(span)
        with run_folder.claim(folder, cfg):
            began = now()
            trainer.fit(module, datamodule)
            seconds = now() - began
            restore.load_best(module, folder)
            trainer.test(module, datamodule, verbose=False)
    return {SPAN: span.seconds, FIT: seconds, ACCURACY: float(trainer.callback_metrics["test/acc"])}


def record(script: Path, runs: int, images: Path) -> list[dict[str, float]]:
    """The counted runs of the record's script, reduced from 200 to `runs`."""
    text, changed = re.subn(r"range\(200\)", f"range({runs})", script.read_text(encoding="utf-8"))
    if not changed:
        raise SystemExit(f"{script}: has no range(200), its number of runs")
    copy = images / "record.py"
    copy.write_text(text, encoding="utf-8")
    rows = [line.strip("|").split("|") for line in watch([str(copy)], "", cwd=images).lines]
    cells = [[cell.strip() for cell in row] for row in rows]
    evaluated = [row for row in cells if len(row) == 6 and row[1] == "eval"]
    return [{SPAN: float(row[5]), ACCURACY: float(row[4])} for row in evaluated[-runs:]]  # the first warms up


def write_images(folder: Path, overrides: list[str]) -> None:
    """Write the images of a data module in the format of the record's script."""
    datamodule = train.build_datamodule(configure("+experiment=cifar10_speedrun", *overrides), "fit")
    (folder / "cifar10").mkdir()
    for name, parts in (("train", ("train", "val")), ("test", ("test",))):
        batches = [batch for part in parts for batch in BatchLoader(datamodule.split(part), 1000)]
        images = torch.cat([batch.inputs for batch in batches]).permute(0, 2, 3, 1).contiguous()  # [N, H, W, C]
        held = {"images": images, "labels": torch.cat([batch.labels for batch in batches])}
        torch.save(held | {"classes": datamodule.class_names}, folder / "cifar10" / f"{name}.pt")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path)
    parser.add_argument("--runs", type=int, default=5, help="runs of a round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("overrides", nargs="*")
    options = parser.parse_args()
    measured: Measured = {}

    def add(side: str, runs: list[dict[str, float]]) -> None:
        for run in runs:
            for figure, value in run.items():
                measured.setdefault(side, {}).setdefault(figure, []).append(value)

    with tempfile.TemporaryDirectory() as folder:
        if options.record:
            write_images(Path(folder), options.overrides)
        for number in range(options.rounds):
            litmus(0, options.overrides)  # warms up
            seeds = range(number * options.runs, (number + 1) * options.runs)
            add("Litmus", [litmus(seed, options.overrides) for seed in seeds])
            if options.record:
                add("the record", record(options.record, options.runs, Path(folder)))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    report("time_to_accuracy", measured, device=device, overrides=options.overrides)
    for side, figures in measured.items():
        values = figures[ACCURACY]
        print(
            f"{side}: mean accuracy {statistics.mean(values):.4f}, standard deviation {statistics.pstdev(values):.4f}"
        )


if __name__ == "__main__":
    main()
