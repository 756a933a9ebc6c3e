"""MLflow logger: one MLflow run per folder of a run, continued on resume."""

import os
import re
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from pytorch_lightning.utilities import rank_zero_only

from conf.errors import UserError, first_line
from conf.files import file_lock
from conf.text import printable
from lit_modules.loggers.tensorboard import flatten
from lit_modules.loggers.tracker import Tracker, run_name, without_classes

os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")  # MLflow's 7 hold up an epoch for minutes
try:
    from mlflow import MlflowClient
    from mlflow.entities import Metric, Param
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError
except ModuleNotFoundError as error:
    raise UserError(f'logger.mlflow: {error.name} is not installed; pip install -e ".[mlflow]"') from error

ERRORS = (MlflowException, SQLAlchemyError)  # of servers and databases
TAG = "run_dir"  # by which a run is found: MLflow chooses its id, and its name may be changed
UNUSUAL = re.compile(r"[^\w./-]")  # in a tag or key
MAX_LENGTH = 250  # of a parameter
MAX_PARAMS = 100  # in a request


class MLflow(Tracker):
    """Logs settings as parameters and scores by epoch.

    Lightning's MLFlowLogger starts a new MLflow run on resume, and ends the training when MLflow does not answer. Here,
    what cannot be logged is logged with the next epoch.

    Args:
        run_dir: folder of the run.
        logs_dir: the MLflow run is named after the run's folder in it.
        experiment_name: of MLflow, created if needed.
        tracking_uri: a server, or a database, created if needed.
        artifacts: whether to log the report and the best model at the end.
    """

    def __init__(self, run_dir: str, logs_dir: str, experiment_name: str, tracking_uri: str, artifacts: bool) -> None:
        super().__init__()
        self.logs_dir = Path(logs_dir)
        self.run_name = run_name(run_dir, logs_dir)
        self.experiment_name = experiment_name
        self.tracking_uri = tracking_uri
        self.artifacts = artifacts
        self._is_resumed = (Path(run_dir) / "config.yaml").exists()
        self._steps: dict[str, set[int]] = {}  # by metric, those that an earlier process logged
        self._unsent: list[Callable[[], None]] = []

    @property
    def name(self) -> str:
        return self.experiment_name

    @property
    def version(self) -> str:
        return self.run_name

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace) -> None:
        """Starts or continues the MLflow run. A parameter that it has keeps its value: MLflow cannot change it.

        Raises:
            UserError: MLflow does not answer, or refuses the run.
        """
        self.logs_dir.mkdir(parents=True, exist_ok=True)
        try:
            with file_lock(self.logs_dir / ".mlflow.lock"):  # two processes cannot create a database at once
                self._client = MlflowClient(self.tracking_uri)
                old_params = self._open_run()
            settings = flatten(params if isinstance(params, dict) else vars(params))
            new_params = [Param(_plain(key), str(value)[:MAX_LENGTH]) for key, value in settings.items()]
            new_params = [param for param in new_params if param.key not in old_params]
            for start in range(0, len(new_params), MAX_PARAMS):
                self._client.log_batch(self._run_id, params=new_params[start : start + MAX_PARAMS])
        except ERRORS as error:
            fix = "correct logger.mlflow.tracking_uri, or train without mlflow"
            raise UserError(f"logger.mlflow: {first_line(error)}; {fix}") from error
        if self.tracking_uri.startswith("sqlite:"):
            print(printable(f"watch: mlflow ui --backend-store-uri {self.tracking_uri}"), flush=True)

    def _open_run(self) -> dict[str, str]:
        """Finds the MLflow run of a resumed run, or creates one; returns its parameters."""
        client, name, tag = self._client, self.experiment_name, _plain(self.run_name)
        experiment = client.get_experiment_by_name(name)
        if experiment:
            experiment_id = experiment.experiment_id
        else:  # by default, MLflow keeps the artifacts of a local database in the current folder
            is_local = self.tracking_uri.startswith("sqlite:")
            place = (self.logs_dir / "mlartifacts").resolve().as_uri() if is_local else None
            experiment_id = client.create_experiment(name, place)
        runs: list[Any] = []
        if self._is_resumed:
            runs = client.search_runs([experiment_id], f"tags.{TAG} = '{tag}'", max_results=1)  # the newest
        self._is_resumed = bool(runs)
        run = runs[0] if runs else client.create_run(experiment_id, tags={TAG: tag}, run_name=self.run_name)
        self._run_id = run.info.run_id
        self._client.update_run(self._run_id, status="RUNNING")
        return dict(run.data.params)

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs scores at `step`, except those of classes."""
        now = int(time.time() * 1000)  # ms
        self._send(self._log, [Metric(name, value, now, step or 0) for name, value in without_classes(metrics).items()])

    def _log(self, metrics: list[Metric]) -> None:
        """Logs metrics that the MLflow run lacks: an epoch that a killed process logged may be trained again."""
        for name in {metric.key for metric in metrics} - self._steps.keys() if self._is_resumed else ():
            self._steps[name] = {metric.step for metric in self._client.get_metric_history(self._run_id, name)}
        new = [metric for metric in metrics if metric.step not in self._steps.get(metric.key, ())]
        self._client.log_batch(self._run_id, new)

    @rank_zero_only
    def log_files(self, folder: Path, files: Sequence[Path]) -> None:
        """Logs artifacts, and says what could not be logged."""
        for file in files if self.artifacts else ():
            parent = file.parent.relative_to(folder).as_posix()
            self._send(self._client.log_artifact, self._run_id, str(file), None if parent == "." else parent)
        if self._unsent:
            print("mlflow: the last scores are not logged; metrics.csv and summary.json hold them", file=sys.stderr)

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Sets the status of the MLflow run. Lightning calls it after each fit, validation and test."""
        self._send(self._client.set_terminated, self._run_id, "FINISHED" if status == "success" else "FAILED")

    def _send(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls a function of the client after those that failed before."""
        self._unsent.append(partial(function, *arguments))
        try:
            while self._unsent:
                self._unsent[0]()
                del self._unsent[0]
        except ERRORS as error:
            if len(self._unsent) == 1:
                problem = printable(first_line(error))
                print(f"mlflow: {problem}; training continues, and this is tried again", file=sys.stderr)


def _plain(text: str) -> str:
    return UNUSUAL.sub("_", text)[:MAX_LENGTH]
