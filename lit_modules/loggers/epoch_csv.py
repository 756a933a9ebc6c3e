"""EpochCSVLogger: one row per epoch in metrics.csv and one console line per epoch."""

import sys
from argparse import Namespace
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers import Logger
from pytorch_lightning.utilities import rank_zero_only
from tqdm import tqdm

from conf.files import read_rows, write_table

SHOWN_FIRST = ("loss", "f1", "acc", "likelihood")


class EpochCSVLogger(Logger):
    """Writes the scores of each epoch to metrics.csv and to the console.

    A logger rather than a callback, since Lightning calls loggers after all scores of the epoch are computed.

    Args:
        save_dir: folder of metrics.csv. On resume, rows from the current epoch on are replaced.
        max_epochs: shown on the console.
    """

    def __init__(self, save_dir: str, max_epochs: int | None) -> None:
        super().__init__()
        self.path = Path(save_dir) / "metrics.csv"
        self.max_epochs = max_epochs

    @property
    def name(self) -> str:
        return "epochs"

    @property
    def version(self) -> str:
        return ""

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Does nothing: metrics.csv contains no hyperparameters."""

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Writes the scores of an epoch, which is `step`; ignores metrics without `train/loss`."""
        scores = {name: value for name, value in metrics.items() if "_likelihood/" not in name}
        if "train/loss" not in scores:
            return
        assert step is not None
        rows = [row for row in read_rows(self.path) if int(row["epoch"]) < step]
        write_table(self.path, [*rows, {"epoch": step, **scores}])
        total = f"/{self.max_epochs}" if self.max_epochs and self.max_epochs > 0 else ""
        speed = f"  img/s {scores['images_per_second']:,.0f}" if "images_per_second" in scores else ""
        _print(f"epoch {step + 1}{total}{_splits(scores)}  lr {scores['lr']:.2g}{speed}  {scores['seconds']:.1f} s")


def _print(line: str) -> None:
    """Prints a line above the progress bar, and flushes it."""
    tqdm.write(line)
    sys.stdout.flush()


def _splits(scores: dict[str, float]) -> str:
    """`  train loss 0.1234 f1 0.9876 acc 0.9876  val …`"""
    parts = []
    for split in ("train", "val"):
        tags = [*(f"{split}/{name}" for name in SHOWN_FIRST), *(tag for tag in scores if tag.startswith(f"{split}/"))]
        values = [f"{tag.partition('/')[2]} {scores[tag]:.4f}" for tag in dict.fromkeys(tags) if tag in scores]
        if values:
            parts.append(f"  {split} {' '.join(values)}")
    return "".join(parts)
