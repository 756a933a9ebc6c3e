"""TensorBoard logger with PNG images, flat hyperparameters and purge on resume."""

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

from conf import saved_config
from conf.files import remove_folder
from conf.text import printable

# Scores of the best epoch in the HPARAMS tab.
HPARAMS_SCORES = ("loss", "acc", "f1", "likelihood")
EMBEDDING_FILES = ("metadata.tsv", "sprite.png", "tensors.tsv")


class TensorBoard(TensorBoardLogger):
    """Lightning's TensorBoardLogger without subfolders and hparams.yaml.

    Args:
        save_dir: folder of the run; event files are written directly into it.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name=None, version="", default_hp_metric=False)
        self._first = True

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:  # type: ignore[override]
        """Writes the HPARAMS tab and declares its scores, whose values are logged at the end of the run.

        So an interrupted run is listed too, without placeholder scores.
        """
        hyperparameters = flatten(params if isinstance(params, dict) else vars(params))
        prefix = "lit_module.metrics."
        metrics = [key.removeprefix(prefix) for key in hyperparameters if key.startswith(prefix)]
        names = [*HPARAMS_SCORES, *(name for name in metrics if name.isidentifier())]  # no parameters of metrics
        scores = [f"{split}/{name}" for split in ("val_best", "test") for name in names]
        for summary in hparams(hyperparameters, dict.fromkeys(scores, 0)):
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scalars at `step`."""
        self._purge(step)
        printed = {printable(tag): value for tag, value in metrics.items()}  # tags may name classes
        try:
            super().log_metrics(printed, step)
        except ValueError as error:
            raise error.__cause__ or error from None  # Lightning takes a full disk for a value that cannot be logged

    @rank_zero_only
    def log_image(self, tag: str, png: bytes, step: int) -> None:
        """Logs an image given as the bytes of a PNG file."""
        width, height = struct.unpack(">II", png[16:24])
        image = Summary.Image(height=height, width=width, colorspace=4, encoded_image_string=png)
        self._purge(step)
        self.experiment._get_file_writer().add_summary(Summary(value=[Summary.Value(tag=tag, image=image)]), step)

    @rank_zero_only
    def log_histogram(self, tag: str, values: np.ndarray, step: int) -> None:
        """Logs float `[N]` as a histogram with 64 equal-width bins."""
        self._purge(step)
        self.experiment.add_histogram(tag, values, step, bins=64)

    @rank_zero_only
    def log_text(self, tag: str, markdown: str, step: int) -> None:
        """Logs Markdown text."""
        self._purge(step)
        self.experiment.add_text(tag, markdown, step)

    @rank_zero_only
    def log_embedding(self, tag: str, points: Tensor, names: list[str], images: Tensor | None, step: int) -> None:
        """Logs embeddings `[N, D]` with labels and optional images `[N, 3, H, W]`, replacing those of the same step."""
        folder = Path(self.log_dir) / f"{step:05d}" / tag
        remove_folder(folder, EMBEDDING_FILES)  # from an earlier process that tested the same epoch
        self.experiment.add_embedding(points, [printable(name) for name in names], images, step, tag)

    def _purge(self, step: int | None) -> None:
        """Before the first event, makes TensorBoard discard earlier processes' events from `step` on."""
        if self._first and step:
            self.experiment._get_file_writer().event_writer.add_event(
                Event(step=step, session_log=SessionLog(status=SessionLog.START))
            )
        self._first = False

    @rank_zero_only
    def save(self) -> None:
        """Flushes events; Lightning's hparams.yaml is not written, as config.yaml contains more."""
        self.experiment.flush()


def tensorboard_of(trainer: Trainer) -> TensorBoard | None:
    """The TensorBoard logger of a trainer; None without one."""
    return next((logger for logger in trainer.loggers if isinstance(logger, TensorBoard)), None)


def flatten(config: dict[str, Any]) -> dict[str, bool | int | float | str]:
    """Flattens a config and shortens `_target_` to the class name.

    Example: `net: {_target_: lit_modules.networks.cnn.CNN, pool: 2}` → `net: CNN, net.pool: 2`.
    """
    values: dict[str, bool | int | float | str] = {}
    for key, value in saved_config.flat(config).items():
        parent, _, name = key.rpartition(".")
        if name == "_target_":
            values[parent] = value.rpartition(".")[2]
        elif not name.startswith("_"):
            values[key] = value if isinstance(value, bool | int | float | str) else str(value)
    return values
