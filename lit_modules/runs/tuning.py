"""task=tune: learning rate range test and batch size timing."""

import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from pytorch_lightning import Callback, LightningModule, Trainer
from tqdm import tqdm

from conf.error_messages import memory_is_full
from conf.errors import UserError
from conf.files import make_output, write_durably, write_text
from lit_modules.classifier import LitClassifier
from lit_modules.evaluation.figures import COLORS, png, styled

MIN_BATCH_SIZE = 8
# Steps per batch size; timing stops earlier after MAX_SECONDS, but not before MIN_STEPS.
MAX_STEPS, MAX_SECONDS, MIN_STEPS = 20, 2.0, 5
MIN_SPEEDUP = 1.05  # required from one of the last two doublings
NEAR_PEAK = 0.9  # fraction of the highest throughput
DIVERGED = 4.0  # ratio to the lowest loss
# Trainer arguments: training steps only.
SHORT = {"max_epochs": -1, "limit_val_batches": 0, "enable_checkpointing": False, "enable_progress_bar": False}


class LRRangeTest(Callback):
    """Increases the learning rate exponentially over `num_steps` optimizer steps until the loss diverges.

    The ratios between the learning rates of parameter groups are kept.

    Source: L. N. Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
    """

    def __init__(self, min_lr: float, max_lr: float, num_steps: int) -> None:
        self.min_lr, self.max_lr, self.num_steps = min_lr, max_lr, num_steps
        self._losses: dict[float, list[float]] = {}  # learning rate → losses of its accumulated batches
        self._bar = tqdm(total=num_steps, desc="learning rates", leave=False, disable=not sys.stderr.isatty())

    @property
    def rates(self) -> list[float]:
        return list(self._losses)

    @property
    def losses(self) -> list[float]:
        return [statistics.fmean(losses) for losses in self._losses.values()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        if not optimizer.defaults["lr"]:
            raise UserError("lit_module.optimizer.lr: 0 leaves the ratios of parameter groups undefined; leave it out")
        self._ratios = [group["lr"] / optimizer.defaults["lr"] for group in optimizer.param_groups]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._rate = self.min_lr * (self.max_lr / self.min_lr) ** (trainer.global_step / (self.num_steps - 1))
        for group, ratio in zip(trainer.optimizers[0].param_groups, self._ratios, strict=True):
            group["lr"] = self._rate * ratio

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # Lightning divided it by this
        self._losses.setdefault(self._rate, []).append(loss)
        self._bar.update(trainer.global_step - self._bar.n)
        smoothed = smooth(self.losses)
        if not np.isfinite(loss) or smoothed[-1] > DIVERGED * smoothed.min():
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()


class Stopwatch(Callback):
    """Records the time at the end of each training step, in seconds."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) > MIN_STEPS and self.ends[-1] - self.ends[0] > MAX_SECONDS:
            trainer.should_stop = True


class Throughput(NamedTuple):
    """Training speed and memory at a batch size."""

    batch_size: int
    per_second: float
    """samples per second"""
    memory: int | None
    """peak GPU memory in bytes; None on the CPU"""


def tune(
    module: LitClassifier,
    datamodule: Any,
    build_trainer: Callable[..., Trainer],
    min_lr: float,
    max_lr: float,
    num_steps: int,
    output: Path,
) -> None:
    """Suggests a learning rate and a batch size; writes `tuning.json` and `tuning.png`.

    Args:
        module: without a scheduler; its weights are modified.
        datamodule: its `batch_size` is used for the range test and modified by the timing.
        build_trainer: returns a Trainer with the given extra arguments.
        min_lr, max_lr, num_steps: see `LRRangeTest`.
        output: folder, created if needed.

    Raises:
        UserError: the range of learning rates is empty, or no loss is finite.
    """
    if not 0 < min_lr < max_lr or num_steps < 20:
        raise UserError(
            f"min_lr, max_lr, num_steps: {min_lr} to {max_lr} in {num_steps} steps is not a range; try 1e-6, 10 and 100"
        )
    make_output(output)
    batch_size = datamodule.batch_size
    print(f"testing learning rates {min_lr:g} to {max_lr:g}: {num_steps} steps, batch size {batch_size}", flush=True)
    test = LRRangeTest(min_lr, max_lr, num_steps)
    build_trainer(callbacks=[test], max_steps=num_steps, **SHORT).fit(module, datamodule)
    if not np.isfinite(test.losses).any():
        raise UserError("lit_module: the loss is not finite from the first step; check the data with task=inspect")
    rate = steepest_lr(test.rates, test.losses)
    speeds, all_fit = time_batch_sizes(module, datamodule, build_trainer)
    size = smallest_near_peak(speeds)
    results = {
        "learning_rate": {"suggested": rate, "batch_size": batch_size, "rates": test.rates, "losses": test.losses},
        "batch_size": {"suggested": size, "all_fit": all_fit, "speeds": [speed._asdict() for speed in speeds]},
    }
    write_text(output / "tuning.json", json.dumps(results, indent=2) + "\n")
    write_durably(output / "tuning.png", lambda file: file.write(png(draw(test, rate, speeds, size))))
    if rate is None:
        print("learning rate: no suggestion, since the loss never decreased; widen the range or add steps")
    else:
        print(f"learning rate: the loss decreases fastest at {rate:.2g}   lit_module.optimizer.lr={rate:.2g}")
    print(f"batch size: {size} is within {1 - NEAR_PEAK:.0%} of the highest throughput   datamodule.batch_size={size}")
    print(f"plots saved in {output / 'tuning.png'}")


def time_batch_sizes(
    module: LitClassifier, datamodule: Any, build_trainer: Callable[..., Trainer]
) -> tuple[list[Throughput], bool]:
    """Times training steps at batch sizes 8, 16, 32, …

    Stops at a quarter of the training split, out of memory, or if larger batches are not faster.

    Returns:
        The throughput of each batch size that fits into memory, and whether all of them did.
    """
    speeds: list[Throughput] = []
    size = MIN_BATCH_SIZE
    while size <= max(MIN_BATCH_SIZE, len(datamodule.files("train")) // 4):
        datamodule.batch_size = size
        watch = Stopwatch()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            trainer = build_trainer(callbacks=[watch], max_steps=MAX_STEPS, **SHORT)
            trainer.fit(module, datamodule)
        except Exception as error:
            if speeds and memory_is_full(error):
                return speeds, False
            raise
        step_seconds = statistics.median(np.diff(watch.ends).tolist())
        memory = torch.cuda.max_memory_allocated() if trainer.strategy.root_device.type == "cuda" else None
        speeds.append(Throughput(size, size / step_seconds, memory))
        used = "" if memory is None else f"  {memory / 2**20:,.0f} MiB"
        print(f"batch size {size:6}  {size / step_seconds:10,.0f} samples/s{used}", flush=True)
        throughputs = [speed.per_second for speed in speeds]
        if len(throughputs) > 2 and max(throughputs[-2:]) < MIN_SPEEDUP * max(throughputs[:-2]):
            break
        size *= 2
    return speeds, True


def smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """Gaussian smoothing with a standard deviation of three steps; it does not lag."""
    distances = np.subtract.outer(np.arange(len(losses)), np.arange(len(losses)))
    weights = np.exp(-0.5 * (distances / 3) ** 2)
    return weights @ np.asarray(losses) / weights.sum(1)


def steepest_lr(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The learning rate with the steepest decrease of the smoothed loss over log(lr); None without one."""
    finite = np.isfinite(losses)
    smoothed = smooth(np.asarray(losses)[finite])
    if len(smoothed) < 3:
        return None
    slopes = np.gradient(smoothed, np.log(np.asarray(rates)[finite]))[: int(smoothed.argmin()) + 1]
    return float(np.asarray(rates)[finite][slopes.argmin()]) if slopes.min() < 0 else None


def smallest_near_peak(speeds: Sequence[Throughput]) -> int:
    """The smallest batch size whose throughput is at least 90 % of the highest."""
    highest = max(speed.per_second for speed in speeds)
    return next(speed.batch_size for speed in speeds if speed.per_second >= NEAR_PEAK * highest)


@styled
def draw(test: LRRangeTest, rate: float | None, speeds: Sequence[Throughput], size: int) -> Figure:
    """Plots loss by learning rate and throughput by batch size, with the suggestions."""
    matplotlib.rcParams["axes.titley"] = None  # places the title above an offset text such as 1e6
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    finite = np.isfinite(test.losses)
    rates, losses = np.asarray(test.rates)[finite], np.asarray(test.losses)[finite]
    left.plot(rates, losses, color=COLORS[4], linewidth=0.8, label="each step")
    left.plot(rates, smooth(losses), color=COLORS[0], label="smoothed")
    if rate is not None:
        left.axvline(rate, color=COLORS[1], linestyle="--", label=f"steepest decrease: {rate:.2g}")
    left.set(xscale="log", ylim=(0, 1.5 * losses[0]), xlabel="learning rate", title="loss")
    left.legend(fontsize=8.5)
    sizes = [speed.batch_size for speed in speeds]
    right.plot(sizes, [speed.per_second for speed in speeds], "o-", color=COLORS[0])
    right.axvline(size, color=COLORS[1], linestyle="--", label=f"within {1 - NEAR_PEAK:.0%} of the peak: {size}")
    right.set(ylim=(0, None), xlabel="batch size", title="samples/s")
    right.set_xscale("log", base=2)
    right.set_xticks(sizes, [str(size) for size in sizes])
    right.legend(fontsize=8.5)
    return figure
