"""A tracked run that is killed: the bits of an uninterrupted one, in one run of the tracker, without a connection."""

import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from conf.files import read_rows
from tests.conftest import ROOT, Command
from tests.runs import assert_same, assert_same_runs, wait_for

pytest.importorskip("mlflow")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore::DeprecationWarning")]  # of MLflow's own calls

TRACE = ("strace", "-f", "-qq", "-e", "trace=connect", "-e", "signal=none", "-o", "connections.txt")
SMALL = ("+experiment=digits", "devices=cpu", "epochs=6", "++callbacks.dashboard=null", "++callbacks.predictions=null")


@pytest.mark.timeout(600)
def test_killed_run_is_one_mlflow_run(tmp_path: Path, process: Command) -> None:
    from mlflow import MlflowClient

    run_dir = "logs/digits/killed"
    whole = process(*SMALL, "run_dir=logs/digits/whole", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    tracked = (*SMALL, "logger=[default,mlflow]", f"run_dir={run_dir}")
    command = [sys.executable, str(ROOT / "train.py"), *tracked]
    environment = {name: value for name, value in os.environ.items() if name != "LITMUS_STAMP"}
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as running:
        wait_for(running, "epoch 3/6")  # whose checkpoint is not yet saved
        running.send_signal(signal.SIGKILL)
    assert running.returncode == -signal.SIGKILL
    resumed = process(f"run={run_dir}", "logger=[default,mlflow]", cwd=tmp_path)
    assert resumed.returncode == 0, resumed.stderr
    folder = tmp_path / run_dir
    assert_same_runs(folder, tmp_path / "logs/digits/whole")
    weights = [torch.load(path / "model.pt", weights_only=True) for path in (folder, tmp_path / "logs/digits/whole")]
    assert_same(*weights)
    client = MlflowClient(f"sqlite:///{tmp_path}/logs/mlflow.db")
    (run,) = client.search_runs([client.get_experiment_by_name("digits").experiment_id])
    assert (run.info.run_name, run.info.status) == ("digits/killed", "FINISHED")
    for score in read_rows(folder / "metrics.csv")[0].keys() - {"epoch"}:
        steps = [point.step for point in client.get_metric_history(run.info.run_id, score)]
        assert steps == list(range(6)), score


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_tracker_connects_to_nothing(tmp_path: Path, tracker: str) -> None:
    pytest.importorskip(tracker)
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("LITMUS_STAMP", "PYTEST"))}
    command = [*TRACE, sys.executable, str(ROOT / "train.py"), *SMALL, "epochs=1", f"logger=[default,{tracker}]"]
    subprocess.run(command, cwd=tmp_path, env=environment, check=True, timeout=300)
    connections = (tmp_path / "connections.txt").read_text()
    assert not re.findall(r"AF_INET6?\b.*", connections)
    assert (tmp_path / "logs" / ("mlflow.db" if tracker == "mlflow" else "wandb")).exists()
