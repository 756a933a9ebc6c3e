"""Cost of the dashboards: the fraction of each epoch spent in drawing and collecting.

python -m tests.benchmarks.dashboards --images DIR

DIR is an image folder, such as CIFAR-10. Time is measured inside one run, because two epochs of the same run differ by
more than the cost.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

import train
from lit_modules.runs.run_folder import read_metrics
from tests.benchmarks.measuring import Measured, configure, report

SIDES = ("Dashboard", "CollectPredictions", "TensorBoard")


class Stopwatch:
    """Sum of the seconds inside methods of objects."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._inside = False

    def watch(self, watched: Any, prefixes: tuple[str, ...]) -> None:
        for name in dir(watched):
            if name.startswith(prefixes) and callable(getattr(watched, name)):
                setattr(watched, name, self._timed(getattr(watched, name)))

    def _timed(self, method: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self._running():
                return method(*args, **kwargs)

        return timed

    @contextmanager
    def _running(self) -> Iterator[None]:
        """Nested calls count once."""
        if self._inside:
            yield
            return
        self._inside, began = True, time.perf_counter()
        try:
            yield
        finally:
            self._inside, self.seconds = False, self.seconds + time.perf_counter() - began


class Marks(Callback):
    """The seconds of each stopwatch at the start of each epoch and at the end."""

    def __init__(self, watches: dict[str, Stopwatch]) -> None:
        self.watches = watches
        self.marks: list[dict[str, float]] = []

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.marks.append({side: watch.seconds for side, watch in self.watches.items()})

    on_train_end = on_train_epoch_start


def measure(images: Path, epochs: int) -> Measured:
    """Percentage of each epoch spent by each side, and by all sides together."""
    percentages: Measured = {side: {"% of an epoch": []} for side in ("all", *SIDES)}
    with TemporaryDirectory() as place:
        choices = (f"datamodule.root={images}", f"logs_dir={place}", f"epochs={epochs}")
        cfg = configure("+experiment=from_scratch", *choices)
        folder = Path(cfg.run_dir)
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text("")
        datamodule, module, trainer = train.build(cfg)
        marks = Marks({side: Stopwatch() for side in SIDES})
        for part in (*trainer.callbacks, *trainer.loggers):
            if type(part).__name__ in SIDES:
                marks.watches[type(part).__name__].watch(part, ("on_", "log_"))
        trainer.callbacks.append(marks)
        trainer.fit(module, datamodule)
        for before, after, row in zip(marks.marks, marks.marks[1:], read_metrics(folder), strict=False):
            used = {side: 100 * (after[side] - before[side]) / row["seconds"] for side in SIDES}
            for side, percentage in {**used, "all": sum(used.values())}.items():
                percentages[side]["% of an epoch"].append(percentage)
    return percentages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=10)
    options = parser.parse_args()
    percentages = measure(options.images, options.epochs)
    report("dashboards", percentages)
    total = percentages["all"]["% of an epoch"]
    print(f"all epochs together: {sum(total) / len(total):.2f} %")


if __name__ == "__main__":
    main()
