"""Overhead of a training step: Litmus against a hand-written loop over images in memory.

python -m tests.benchmarks.bare_limit --images DIR

DIR contains train/<class> and test/<class>. The network is that of the notes, or that of --overrides. The hand-written
loop selects and scales random decoded images, as Litmus must; a second one uses prepared batches, which is a lower
bound that training cannot reach. Steps of all sides alternate within one Trainer run, so that other work on the machine
affects all of them. The first report is of Lightning alone on prepared batches.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

import train
from datamodules.datamodule import DataModule
from lit_modules.classifier import LitClassifier
from lit_modules.trainer import process
from tests.benchmarks.measuring import BOOK, Measured, chosen_classes, configure, multiple, report
from tests.configs import UNDRAWN

ALONE = "Lightning alone"


class Plain(LightningModule):
    """A minimal LightningModule; `bare_step` is its training step without a Trainer."""

    def __init__(self, module: LitClassifier) -> None:
        super().__init__()
        self.normalize, self.net, self.loss = (
            copy.deepcopy(part) for part in (module.normalize, module.net, module.loss)
        )
        self.optimizer = module.optimizer(self.net.parameters())

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss: Tensor = self.loss(self.net(self.normalize(inputs)), labels)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer

    def bare_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.optimizer.zero_grad()
        self.training_step(batch, 0).backward()
        self.optimizer.step()


class BesideTheTrainer(Callback):
    """Time one step of each bare loop before each step of the Trainer, and then the Trainer's step.

    A Trainer's step lasts until the next one starts. The first epoch (warm-up) and the last step of an epoch do not
    count.
    """

    def __init__(self, side: str, sides: dict[str, Callable[[int], None]]) -> None:
        self.side = side
        self.sides = sides
        self.measured: Measured = {name: {"ms a step": []} for name in (*sides, side)}
        self._bare: list[float] = []
        self._began = 0.0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.current_epoch and batch_idx:
            own = time.perf_counter() - self._began
            for side, seconds in zip(self.measured, (*self._bare, own), strict=True):
                self.measured[side]["ms a step"].append(1000 * seconds)
        self._bare = []
        for step in self.sides.values():
            began = time.perf_counter()
            step(batch_idx)
            self._bare.append(time.perf_counter() - began)
        self._began = time.perf_counter()


def pick(datamodule: DataModule) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of the training split without end, in a new order each epoch: float in [0, 1], and labels."""
    images = torch.cat([inputs for inputs, _ in datamodule.batches("train")])
    labels = datamodule.split("train").labels
    while True:
        for rows in torch.randperm(len(images)).split(datamodule.batch_size):
            yield images.index_select(0, rows).float().div_(255), labels.index_select(0, rows)


def measure(images: Path, side: str, epochs: int, *overrides: str) -> Measured:
    """Fit once, and time the bare loops between its steps."""
    with TemporaryDirectory() as logs:
        place = (
            f"datamodule.root={images}",
            f"datamodule.cache_dir={logs}",
            f"logs_dir={logs}",
            f"epochs={epochs + 1}",
        )
        cfg = configure(*overrides, *place)
        Path(cfg.run_dir).mkdir(parents=True)
        (Path(cfg.run_dir) / "config.yaml").write_text("")
        datamodule, module, trainer = train.build(cfg)
        picked, steps = pick(datamodule), -(-len(datamodule.files("train")) // datamodule.batch_size)
        ready = list(islice(picked, steps))
        picking, prepared = Plain(module), Plain(module)
        beside = BesideTheTrainer(
            side,
            {
                "by hand, images in memory": lambda _: picking.bare_step(next(picked)),
                "by hand, prepared batches": lambda i: prepared.bare_step(ready[i]),
            },
        )
        if side == ALONE:
            nothing = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
            trainer = Trainer(max_epochs=epochs + 1, callbacks=[beside], enable_progress_bar=False, **nothing)
            trainer.fit(Plain(module), dict(enumerate(ready)).values())  # a list would be taken for as many loaders
        else:
            trainer.callbacks.append(beside)
            trainer.fit(module, datamodule)
        return beside.measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", default=["airplane", "bird"])
    parser.add_argument("--epochs", type=int, default=2, help="epochs of a round")
    parser.add_argument("--rounds", type=int, default=4, help="number of runs; memory layout differs between runs")
    parser.add_argument("--overrides", nargs="*", default=BOOK, help="overrides that choose network and data")
    arguments = parser.parse_args()
    with chosen_classes(arguments.images, arguments.classes) as folder:
        for side, more in ((ALONE, ()), ("Litmus, nothing drawn", UNDRAWN), ("Litmus", ())):
            runs = [
                measure(folder, side, arguments.epochs, *arguments.overrides, *more) for _ in range(arguments.rounds)
            ]
            pooled = {
                name: {figure: [value for run in runs for value in run[name][figure]] for figure in figures}
                for name, figures in runs[0].items()
            }
            ratios = [multiple(run, side, "ms a step") for run in runs]
            report("bare_limit", pooled, overrides=arguments.overrides)
            print(f"{side}, × first, by round:", *(f"{ratio:.3f}" for ratio in ratios))


if __name__ == "__main__":
    process.run(main)
