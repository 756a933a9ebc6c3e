"""What the loggers of MLflow and Weights & Biases share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path

from pytorch_lightning.loggers import Logger


class Tracker(Logger):
    """A logger that may also keep files of a finished run."""

    @abstractmethod
    def log_files(self, folder: Path, files: Sequence[Path]) -> None:
        """Logs files of a run's folder if the config asks for it; called once, last."""


def run_name(run_dir: str, logs_dir: str) -> str:
    """A run's folder within `logs_dir`, such as `digits/2026-01-31_12-00-00`; its whole path if it is elsewhere."""
    folder, root = Path(run_dir).resolve(), Path(logs_dir).resolve()
    return (folder.relative_to(root) if folder.is_relative_to(root) else folder).as_posix()


def without_classes(metrics: Mapping[str, float]) -> dict[str, float]:
    """Metrics except the likelihoods of classes: there may be thousands, with names that a tracker refuses."""
    return {name: value for name, value in metrics.items() if "_likelihood/" not in name}
