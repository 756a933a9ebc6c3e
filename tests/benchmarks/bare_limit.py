"""What the Trainer costs a step: Litmus against forward, loss, backward and step written by hand on images in memory.

python -m tests.benchmarks.bare_limit --images DIR

DIR holds train/<class> and test/<class>. The network is the notes', or that of other --overrides. The loop by hand
picks random decoded images and scales them, as Litmus must; beside it stands one whose batches lay ready, which no
training can have. A step of each side is timed in turn, within one run of the Trainer, so that whatever else slows the
machine meets all of them. First comes Lightning alone, on ready batches, which is as near as its own loop can come.
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
from tests.benchmarks.measuring import BOOK, UNDRAWN, Measured, chosen_classes, configure, multiple, report

ALONE = "Lightning alone"


class Plain(LightningModule):
    """The network, and no more than must be written. It serves as the loop without a Trainer, too."""

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
    """Before each step of the Trainer, times one of every bare side; then the Trainer's own, from its start to the
    start of the next one. Neither the first epoch counts, which warms up, nor the last step of an epoch."""

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
    """A fit with the bare sides beside it."""
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
        ours, theirs = Plain(module), Plain(module)
        beside = BesideTheTrainer(
            side,
            {
                "by hand, images in memory": lambda _: ours.bare_step(next(picked)),
                "by hand, batches ready": lambda i: theirs.bare_step(ready[i]),
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
    parser.add_argument("--epochs", type=int, default=2, help="of a round")
    parser.add_argument("--rounds", type=int, default=4, help="of runs, which lie elsewhere in memory each time")
    parser.add_argument("--overrides", nargs="*", default=BOOK, help="of the network and its data")
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
