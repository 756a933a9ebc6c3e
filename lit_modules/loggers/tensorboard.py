"""TensorBoard: Lightning's logger, writing into the run's folder itself, with an HPARAMS tab that can be read."""

import shutil
import struct
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from torch import Tensor
from torch.utils.tensorboard.summary import hparams

# What the HPARAMS tab compares runs by: the best epoch's scores.
COMPARED = ("loss", "acc", "f1", "likelihood")


class TensorBoard(TensorBoardLogger):
    """Args:
    save_dir: the folder of the run; the events lie there and in no folder below.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name=None, version="", default_hp_metric=False)
        self._first = True

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:  # type: ignore[override]
        """Fills the HPARAMS tab. The scores beside the hyperparameters are named here, and logged when the run is over,
        so that one which is cut off is listed too, without made-up scores."""
        rows = flatten(params if isinstance(params, dict) else vars(params))
        scores = [f"{split}/{score}" for split in ("val_best", "test") for score in COMPARED]
        for summary in hparams(rows, dict.fromkeys(scores, 0)):
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Scores at `step`."""
        self._withdraw(step)
        super().log_metrics(metrics, step)

    @rank_zero_only
    def log_image(self, tag: str, png: bytes, step: int) -> None:
        """An image, as the content of a PNG file."""
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._withdraw(step)
        self.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    @rank_zero_only
    def log_histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """The distribution of float `[N]`, in 64 bins of equal width."""
        self._withdraw(step)
        self.experiment.add_histogram(tag, values, step, bins=64)

    @rank_zero_only
    def log_text(self, tag: str, markdown: str, step: int) -> None:
        """A text, which may hold tables."""
        self._withdraw(step)
        self.experiment.add_text(tag, markdown, step)

    @rank_zero_only
    def log_embedding(self, tag: str, points: Tensor, names: list[str], images: Tensor | None, step: int) -> None:
        """Points `[N, D]` with a name each, perhaps with an image `[N, 3, H, W]`, in place of earlier ones."""
        folder = Path(self.log_dir) / f"{step:05d}" / tag
        if folder.exists():  # the same test of an earlier process
            shutil.rmtree(folder)
        self.experiment.add_embedding(points, names, images, step, tag)

    def _withdraw(self, step: int | None) -> None:
        """What an earlier process wrote of this epoch or later ones, before it was killed, is withdrawn with the first
        of our own."""
        if self._first and step:
            self.experiment._get_file_writer().event_writer.add_event(
                Event(step=step, session_log=SessionLog(status=SessionLog.START))
            )
        self._first = False

    @rank_zero_only
    def save(self) -> None:
        """Flushes the events, without Lightning's hparams.yaml: config.yaml holds more."""
        self.experiment.flush()


def tensorboard_of(trainer: Trainer) -> TensorBoard | None:
    """The run's own TensorBoard logger, if it has one."""
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoard)), None)


def flatten(node: dict[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """Nested config → one level: `net: {_target_: lit_modules.networks.cnn.CNN, pool: 2}` → `net: CNN, net.pool: 2`."""
    flat: dict[str, bool | int | float | str] = {}
    for key, value in node.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if key == "_target_":
            flat[prefix] = value.rpartition(".")[2]
        elif isinstance(value, dict):
            flat |= flatten(value, name)
        elif not str(key).startswith("_"):
            flat[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return flat
