"""What the Trainer costs a step: Litmus against forward, loss, backward and step on batches that lie ready in memory.

python -m tests.benchmarks.bare_limit --pictures DIR

DIR holds train/<class> and test/<class>. An epoch of each side is timed in turn, within one run of the Trainer.
"""

import argparse
import copy
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

import train
from datamodules.datamodule import to_float
from datamodules.loader import BatchLoader
from lit_modules.classifier import LitClassifier
from tests.benchmarks.measuring import BOOK, UNDRAWN, Measured, chosen_classes, configure, report

Pairs = Iterable[tuple[Tensor, Tensor]]


class Bare:
    """The loop without a Trainer, on a copy of the network."""

    def __init__(self, module: LitClassifier) -> None:
        self.normalize, self.net, self.loss = (
            copy.deepcopy(part) for part in (module.normalize, module.net, module.loss)
        )
        self.optimizer = module.optimizer(self.net.parameters())

    def epoch(self, training: Pairs, validation: Pairs) -> int:
        """One epoch of training and of counting right predictions."""
        self.net.train()
        for inputs, labels in training:
            self.optimizer.zero_grad()
            self.loss(self.net(self.normalize(inputs)), labels).backward()
            self.optimizer.step()
        self.net.eval()
        with torch.no_grad():
            right = [(self.net(self.normalize(inputs)).argmax(1) == labels).sum() for inputs, labels in validation]
        return int(sum(right))


class BesideTheTrainer(Callback):
    """Before each epoch of the Trainer but the first, which warms up, times an epoch of every bare side; then the
    Trainer's own, from its start to the start of the next. Milliseconds a training step."""

    def __init__(self, side: str) -> None:
        self.side = side
        self.measured: Measured = {}
        self._began: float | None = None
        self._sides: dict[str, Callable[[], Any]] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        assert isinstance(pl_module, LitClassifier)
        self.steps = trainer.num_training_batches
        loader, validation = trainer.train_dataloader, trainer.val_dataloaders
        assert loader is not None and validation is not None
        ready, ready_to_score = ([(to_float(b.inputs), b.labels) for b in part] for part in (loader, validation))
        ours, theirs = Bare(pl_module), Bare(pl_module)

        def picked() -> Pairs:
            shuffled = BatchLoader(loader.split, loader.batch_size, seed=trainer.current_epoch)
            return ((to_float(batch.inputs), batch.labels) for batch in shuffled)

        self._sides = {
            "bare, batches ready": lambda: ours.epoch(ready, ready_to_score),
            "bare, batches picked": lambda: theirs.epoch(picked(), ready_to_score),
        }

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish()
        for side, epoch in self._sides.items():
            began = time.perf_counter()
            epoch()
            if trainer.current_epoch:
                self._note(side, began)
        if trainer.current_epoch:
            self._began = time.perf_counter()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._finish()

    def _finish(self) -> None:
        if self._began is not None:
            self._note(self.side, self._began)

    def _note(self, side: str, began: float) -> None:
        figures = self.measured.setdefault(side, {"ms a step": []})
        figures["ms a step"].append(1000 * (time.perf_counter() - began) / self.steps)


def measure(pictures: Path, side: str, epochs: int, *overrides: str) -> Measured:
    """A fit of the notes' network with the bare sides beside it."""
    with TemporaryDirectory() as logs:
        place = (
            f"datamodule.root={pictures}",
            f"datamodule.cache_dir={logs}",
            f"logs_dir={logs}",
            f"epochs={epochs + 1}",
        )
        cfg = configure(*BOOK, *place, *overrides)
        Path(cfg.run_dir).mkdir(parents=True)
        (Path(cfg.run_dir) / "config.yaml").write_text("")
        datamodule, module, trainer = train.build(cfg)
        beside = BesideTheTrainer(side)
        trainer.callbacks.append(beside)
        trainer.fit(module, datamodule)
        return beside.measured


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=Path, required=True)
    parser.add_argument("--classes", nargs="+", default=["airplane", "bird"])
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--overrides", nargs="*", default=[], help="for another network than the notes'")
    arguments = parser.parse_args()
    with chosen_classes(arguments.pictures, arguments.classes) as folder:
        for side, more in (("Litmus, nothing drawn", UNDRAWN), ("Litmus", ())):
            measured = measure(folder, side, arguments.epochs, *arguments.overrides, *more)
            report("bare_limit", measured, overrides=arguments.overrides)


if __name__ == "__main__":
    main()
