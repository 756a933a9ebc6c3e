"""What the Trainer costs a step: Litmus against forward, loss, backward and step on batches that lie ready in memory.

python -m tests.benchmarks.bare_limit --pictures DIR

DIR holds train/<class> and test/<class>. An epoch of each side is timed in turn, within one run of the Trainer. First
comes Lightning alone, on the same batches, which is as near as any Trainer can come.
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
ALONE = "Lightning alone, batches ready"


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


class Alone(LightningModule):
    """What Lightning itself costs: the same network, and no more than must be written."""

    def __init__(self, module: LitClassifier) -> None:
        super().__init__()
        self.normalize, self.net, self.loss = (
            copy.deepcopy(part) for part in (module.normalize, module.net, module.loss)
        )
        self.optimizer = module.optimizer

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        inputs, labels = batch
        loss: Tensor = self.loss(self.net(self.normalize(inputs)), labels)
        return loss

    def validation_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> None:
        inputs, labels = batch
        (self.net(self.normalize(inputs)).argmax(1) == labels).sum()

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return self.optimizer(self.net.parameters())


class BesideTheTrainer(Callback):
    """Before each epoch of the Trainer but the first, which warms up, times an epoch of every bare side; then the
    Trainer's own, from its start to the start of the next. Milliseconds a training step."""

    def __init__(self, side: str, sides: dict[str, Callable[[], Any]]) -> None:
        self.side = side
        self.measured: Measured = {}
        self._began: float | None = None
        self._sides = sides

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.steps = trainer.num_training_batches

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

        def picked(split: str = "train") -> Pairs:
            loader = BatchLoader(datamodule._splits[split], datamodule.batch_size, seed=0)
            return ((to_float(batch.inputs), batch.labels) for batch in loader)

        ready, ready_to_score = list(picked()), list(picked("val"))
        ours, theirs = Bare(module), Bare(module)
        sides: dict[str, Callable[[], Any]] = {
            "bare, batches ready": lambda: ours.epoch(ready, ready_to_score),
            "bare, batches picked": lambda: theirs.epoch(picked(), ready_to_score),
        }
        beside = BesideTheTrainer(side, sides)
        if side == ALONE:
            nothing = dict.fromkeys(("logger", "enable_checkpointing", "enable_model_summary"), False)
            trainer = Trainer(max_epochs=epochs + 1, callbacks=[beside], enable_progress_bar=False, **nothing)
            # A list would be taken for as many loaders.
            loaders = (dict(enumerate(part)).values() for part in (ready, ready_to_score))
            trainer.fit(Alone(module), *loaders)
        else:
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
        for side, more in ((ALONE, ()), ("Litmus, nothing drawn", UNDRAWN), ("Litmus", ())):
            measured = measure(folder, side, arguments.epochs, *arguments.overrides, *more)
            report("bare_limit", measured, overrides=arguments.overrides)


if __name__ == "__main__":
    main()
