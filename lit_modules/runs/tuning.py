"""Before a first run: which learning rate and which batch size are sensible, from a few training steps of each."""

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

SMALLEST_BATCH = 8
STEPS, SECONDS = 20, 2.0  # of each batch size, whichever comes first, but five steps
MIN_SPEEDUP = 1.05  # times as fast as all before: what one of two doublings must be to go on
NEAR_PEAK = 0.9  # of the highest speed
DIVERGED = 4.0  # times the lowest loss
# Of a Trainer that trains some steps and nothing else.
SHORT = {"max_epochs": -1, "limit_val_batches": 0, "enable_checkpointing": False, "enable_progress_bar": False}


class LRRangeTest(Callback):
    """Raises the learning rate from `min_lr` to `max_lr` in `num_steps` optimizer steps, by the same factor each, until
    the loss is lost. Groups of parameters keep the proportion of their rates.

    Source: L. N. Smith, "Cyclical learning rates for training neural networks", arXiv:1506.01186, section 3.3.
    """

    def __init__(self, min_lr: float, max_lr: float, num_steps: int) -> None:
        self.min_lr, self.max_lr, self.num_steps = min_lr, max_lr, num_steps
        self._found: dict[float, list[float]] = {}  # rate → the losses of the batches of its step
        self._bar = tqdm(total=num_steps, desc="learning rates", leave=False, disable=not sys.stderr.isatty())

    @property
    def rates(self) -> list[float]:
        return list(self._found)

    @property
    def losses(self) -> list[float]:
        return [statistics.fmean(losses) for losses in self._found.values()]

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        (optimizer,) = trainer.optimizers
        if not optimizer.defaults["lr"]:
            raise UserError("lit_module.optimizer.lr: 0 leaves no proportions of the groups' rates; leave it out")
        self._proportions = [group["lr"] / optimizer.defaults["lr"] for group in optimizer.param_groups]

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._rate = self.min_lr * (self.max_lr / self.min_lr) ** (trainer.global_step / (self.num_steps - 1))
        for group, proportion in zip(trainer.optimizers[0].param_groups, self._proportions, strict=True):
            group["lr"] = self._rate * proportion

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        loss = float(outputs["loss"]) * trainer.accumulate_grad_batches  # by which Lightning has divided it
        self._found.setdefault(self._rate, []).append(loss)
        self._bar.update(trainer.global_step - self._bar.n)
        smoothed = smooth(self.losses)
        if not np.isfinite(loss) or smoothed[-1] > DIVERGED * smoothed.min():
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()


class Stopwatch(Callback):
    """When each training step ended, in seconds."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.strategy.root_device.type == "cuda":
            torch.cuda.synchronize()
        self.ends.append(time.perf_counter())
        if len(self.ends) > 5 and self.ends[-1] - self.ends[0] > SECONDS:
            trainer.should_stop = True


class Throughput(NamedTuple):
    """What training with a batch size is like."""

    batch_size: int
    per_second: float
    """samples"""
    memory: int | None
    """bytes of a GPU at most; None on a CPU"""


def tune(
    module: LitClassifier,
    datamodule: Any,
    build_trainer: Callable[..., Trainer],
    min_lr: float,
    max_lr: float,
    num_steps: int,
    output: Path,
) -> None:
    """Writes `tuning.json` and `tuning.png` into the folder `output`, and prints what they suggest.

    Args:
        module: without a scheduler. Its weights are trained, and of no use afterwards.
        datamodule: gives batches of `datamodule.batch_size` samples.
        build_trainer: with the Trainer's settings, to which those of some steps are added.
        min_lr, max_lr, num_steps: see `LRRangeTest`.

    Raises:
        UserError: the range of rates is none, or no loss is a number.
    """
    if not 0 < min_lr < max_lr or num_steps < 20:
        raise UserError(
            f"min_lr, max_lr, num_steps: no range, {min_lr} to {max_lr} in {num_steps}; try 1e-6, 10 and 100"
        )
    make_output(output)
    chosen = datamodule.batch_size
    print(f"learning rates from {min_lr:g} to {max_lr:g}, {num_steps} steps of {chosen}", flush=True)
    test = LRRangeTest(min_lr, max_lr, num_steps)
    build_trainer(callbacks=[test], max_steps=num_steps, **SHORT).fit(module, datamodule)
    if not np.isfinite(test.losses).any():
        raise UserError("lit_module: the loss is no number from the first step on; look at the data by task=inspect")
    rate = steepest_lr(test.rates, test.losses)
    speeds, fits = time_batch_sizes(module, datamodule, build_trainer)
    size = smallest_near_peak(speeds)
    facts = {
        "learning_rate": {"suggested": rate, "batch_size": chosen, "rates": test.rates, "losses": test.losses},
        "batch_size": {"suggested": size, "all_fit": fits, "speeds": [speed._asdict() for speed in speeds]},
    }
    write_text(output / "tuning.json", json.dumps(facts, indent=2) + "\n")
    write_durably(output / "tuning.png", lambda file: file.write(png(draw(test, rate, speeds, size))))
    if rate is None:
        print("learning rate: the loss never fell, so none is suggested; widen the range or add steps")
    else:
        print(f"learning rate: at {rate:.2g} the loss falls fastest   lit_module.optimizer.lr={rate:.2g}")
    print(f"batch size: {size} is within {1 - NEAR_PEAK:.0%} of the highest speed   datamodule.batch_size={size}")
    print(f"both drawn: {output / 'tuning.png'}")


def time_batch_sizes(
    module: LitClassifier, datamodule: Any, build_trainer: Callable[..., Trainer]
) -> tuple[list[Throughput], bool]:
    """Trains some steps with 8, 16, 32, … samples, up to a quarter of the training split, until memory is full or
    larger batches are no faster.

    Returns:
        A speed for each that fitted, and whether none was too large.
    """
    speeds: list[Throughput] = []
    size = SMALLEST_BATCH
    while size <= max(SMALLEST_BATCH, len(datamodule.files("train")) // 4):
        datamodule.batch_size = size
        watch = Stopwatch()
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        try:
            trainer = build_trainer(callbacks=[watch], max_steps=STEPS, **SHORT)
            trainer.fit(module, datamodule)
        except Exception as error:
            if speeds and memory_is_full(error):
                return speeds, False
            raise
        step = statistics.median(after - before for before, after in zip(watch.ends, watch.ends[1:], strict=False))
        memory = torch.cuda.max_memory_allocated() if trainer.strategy.root_device.type == "cuda" else None
        speeds.append(Throughput(size, size / step, memory))
        used = "" if memory is None else f"  {memory / 2**20:,.0f} MiB"
        print(f"batch size {size:6}  {size / step:10,.0f} samples/s{used}", flush=True)
        found = [speed.per_second for speed in speeds]
        if len(found) > 2 and max(found[-2:]) < MIN_SPEEDUP * max(found[:-2]):
            break
        size *= 2
    return speeds, True


def smooth(losses: Sequence[float] | np.ndarray) -> np.ndarray:
    """The mean of each loss and its neighbours, by a Gaussian of three steps: unlike a running mean, not late."""
    distances = np.subtract.outer(np.arange(len(losses)), np.arange(len(losses)))
    weights = np.exp(-0.5 * (distances / 3) ** 2)
    return weights @ np.asarray(losses) / weights.sum(1)


def steepest_lr(rates: Sequence[float], losses: Sequence[float]) -> float | None:
    """The rate at which the smoothed loss falls fastest, by the logarithm of the rate; None if it never falls."""
    finite = np.isfinite(losses)
    smoothed = smooth(np.asarray(losses)[finite])
    if len(smoothed) < 3:
        return None
    slopes = np.gradient(smoothed, np.log(np.asarray(rates)[finite]))[: int(smoothed.argmin()) + 1]
    return float(np.asarray(rates)[finite][slopes.argmin()]) if slopes.min() < 0 else None


def smallest_near_peak(speeds: Sequence[Throughput]) -> int:
    """The smallest batch size of nearly the highest speed: larger ones take memory and steps, and give little."""
    highest = max(speed.per_second for speed in speeds)
    return next(speed.batch_size for speed in speeds if speed.per_second >= NEAR_PEAK * highest)


@styled
def draw(test: LRRangeTest, rate: float | None, speeds: Sequence[Throughput], size: int) -> Figure:
    """Loss by learning rate, speed by batch size, and what is suggested."""
    matplotlib.rcParams["axes.titley"] = None  # above a factor of large numbers, such as 1e6
    figure = Figure(figsize=(9.6, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    shown = np.isfinite(test.losses)
    rates, losses = np.asarray(test.rates)[shown], np.asarray(test.losses)[shown]
    left.plot(rates, losses, color=COLORS[4], linewidth=0.8, label="each step")
    left.plot(rates, smooth(losses), color=COLORS[0], label="smoothed")
    if rate is not None:
        left.axvline(rate, color=COLORS[1], linestyle="--", label=f"falls fastest: {rate:.2g}")
    left.set(xscale="log", ylim=(0, 1.5 * losses[0]), xlabel="learning rate", title="loss")
    left.legend(fontsize=8.5)
    right.plot([each.batch_size for each in speeds], [each.per_second for each in speeds], "o-", color=COLORS[0])
    right.axvline(size, color=COLORS[1], linestyle="--", label=f"within {1 - NEAR_PEAK:.0%} of the highest: {size}")
    right.set(ylim=(0, None), xlabel="batch size", title="samples a second")
    right.set_xscale("log", base=2)
    right.set_xticks([each.batch_size for each in speeds], [str(each.batch_size) for each in speeds])
    right.legend(fontsize=8.5)
    return figure
