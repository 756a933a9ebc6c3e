"""TensorBoard: Lightning's logger, writing into the run's folder itself, with an HPARAMS tab that can be read."""

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities import rank_zero_only
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from torch.utils.tensorboard.summary import hparams


class TensorBoard(TensorBoardLogger):
    """Args:
    save_dir: the folder of the run; the events lie there and in no folder below.
    """

    def __init__(self, save_dir: str) -> None:
        super().__init__(save_dir, name=None, version="", default_hp_metric=False)
        self._first = True

    @rank_zero_only
    def log_hyperparams(
        self, params: dict[str, Any] | Namespace, metrics: dict[str, Any] | None = None, step: int | None = None
    ) -> None:
        """Fills the HPARAMS tab. `metrics` names the tags whose latest values stand beside the hyperparameters; their
        values are not logged here, so that a run which is cut off is listed too, without made-up scores."""
        rows = flatten(params if isinstance(params, dict) else vars(params))
        for summary in hparams(rows, dict.fromkeys(metrics or {}, 0)):
            self.experiment._get_file_writer().add_summary(summary)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Scores at `step`. What an earlier process wrote of this epoch or later ones, before it was killed, is
        withdrawn with the first of them."""
        if self._first and step:
            self.experiment._get_file_writer().event_writer.add_event(
                Event(step=step, session_log=SessionLog(status=SessionLog.START))
            )
        self._first = False
        super().log_metrics(metrics, step)

    @rank_zero_only
    def save(self) -> None:
        """Flushes the events, without Lightning's hparams.yaml: config.yaml holds more."""
        self.experiment.flush()


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
