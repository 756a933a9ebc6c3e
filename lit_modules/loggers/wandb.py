"""Weights & Biases logger: one run per folder of a run, offline unless asked otherwise."""

import os
import re
import sys
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pytorch_lightning.loggers import WandbLogger
from pytorch_lightning.utilities import rank_zero_only

from conf.errors import UserError, first_line
from conf.text import printable
from lit_modules.loggers.tensorboard import flatten
from lit_modules.loggers.tracker import Tracker, run_name, without_classes

os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to its maker, even by an offline run
try:
    import wandb
except ModuleNotFoundError as error:
    raise UserError(f'logger.wandb: {error.name} is not installed; pip install -e ".[wandb]"') from error

Mode = Literal["offline", "online", "disabled"]


class WandB(WandbLogger, Tracker):
    """Lightning's WandbLogger with name and id from the run's folder, and flat settings.

    Args:
        run_dir: folder of the run.
        logs_dir: the run is named after its folder in it. Files of W&B go to its subfolder `wandb`.
        project: of W&B.
        mode: online sends all to W&B; offline keeps it for `wandb sync`.
        artifacts: whether to log the report and the best model at the end.
    """

    def __init__(self, run_dir: str, logs_dir: str, project: str, mode: Mode, artifacts: bool) -> None:
        name = run_name(run_dir, logs_dir)
        settings = wandb.Settings(console="off", silent=True)
        run_id = re.sub(r"[^\w.-]", "-", name)
        super().__init__(name=name, id=run_id, save_dir=logs_dir, project=project, mode=mode, settings=settings)
        self._wandb_init.pop("anonymous", None)  # Lightning's default, of which W&B warns
        self.logs_dir = Path(logs_dir)
        self.artifacts = artifacts
        self._is_lost = False

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Starts the run and logs its settings.

        Raises:
            UserError: W&B refuses the run.
        """
        wandb.finish()  # an earlier run of a multirun
        self.logs_dir.mkdir(parents=True, exist_ok=True)  # W&B would write to a temporary folder
        try:
            super().log_hyperparams(flatten(params if isinstance(params, dict) else vars(params)))
        except wandb.Error as error:
            fix = "correct it, or set logger.wandb.mode=offline"
            raise UserError(f"logger.wandb: {first_line(error)}; {fix}") from error

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scores at `step`, except those of classes."""
        self._send(super().log_metrics, without_classes(metrics), step)

    @rank_zero_only
    def log_files(self, folder: Path, files: Sequence[Path]) -> None:
        """Logs files of the run's folder."""
        for file in files if self.artifacts else ():
            self._send(self.experiment.save, str(file), str(folder), "now")

    def _send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function of W&B, until its process, which it does not start again, is lost."""
        if self._is_lost:
            return
        try:
            function(*arguments)
        except (ConnectionError, wandb.Error) as error:
            self._is_lost = True
            problem = printable(first_line(error))
            print(f"wandb: {problem}; training continues without it, see metrics.csv", file=sys.stderr)
