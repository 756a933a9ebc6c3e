"""Jobs of a local SLURM and of submitit: requeued jobs resume in the same folder."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, TINY
from tests.runs import assert_same_runs

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
RUN = (*TINY[1:], "callbacks.mid_epoch_checkpoint.every_n_steps=3", "epochs=40", "trainer.max_epochs=40")

CONFIG = """
ClusterName=litmus
SlurmctldHost={host}(127.0.0.1)
NodeName={host} NodeAddr=127.0.0.1 CPUs=2
PartitionName=main Nodes=ALL Default=YES
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}
SlurmdSpoolDir={folder}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
"""

JOB = """#!/bin/bash
#SBATCH --nodes=1 --ntasks-per-node=2 --requeue --open-mode=append --output={folder}/log
srun {python} train.py {words}
"""


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., str]]:
    """Start a controller and a node on this machine; returns a function that runs SLURM commands."""
    daemons = ("munged", "slurmctld", "slurmd", "sbatch", "srun")
    if missing := [name for name in daemons if shutil.which(name) is None]:
        pytest.skip(f"SLURM is not installed here: {', '.join(missing)}")
    if os.geteuid() != 0:
        pytest.skip("SLURM's node needs root")
    folder = tmp_path_factory.mktemp("slurm")
    for path in (folder, *folder.parents[:2]):
        path.chmod(0o755)  # munge requires a socket that all users can reach
    (folder / "slurm.conf").write_text(CONFIG.format(host=socket.gethostname().split(".")[0], folder=folder))
    (folder / "key").write_bytes(os.urandom(1024))
    (folder / "key").chmod(0o600)
    munge = {
        "socket": "munge.socket",
        "key-file": "key",
        "pid-file": "pid",
        "log-file": "munge.log",
        "seed-file": "seed",
    }
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
    environment.pop("LITMUS_STAMP", None)

    def call(*words: str) -> str:
        result = subprocess.run(words, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return result.stdout

    node = socket.gethostname().split(".")[0]
    running = [
        subprocess.Popen(["munged", "-F", "--force", *(f"--{key}={folder / name}" for key, name in munge.items())])
    ]
    time.sleep(1)
    running += [
        subprocess.Popen(words, env=environment) for words in (["slurmctld", "-D"], ["slurmd", "-D", "-N", node])
    ]
    try:
        wait_until(lambda: "idle" in call("sinfo"), 60)
        yield call
    finally:
        subprocess.run(["scancel", "--user=root"], env=environment, check=False)
        time.sleep(1)
        for process in reversed(running):
            process.terminate()
            process.wait(timeout=60)


def wait_until(holds: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "waited for too long"
        time.sleep(0.5)


def queue_again(slurm: Callable[..., str], job: str) -> None:
    """Requeue a job and start it at once, instead of after SLURM's two minutes."""
    slurm("scontrol", "requeue", job)
    wait_until(lambda: f"{job} PENDING" in slurm("squeue", "-a", "-h", "-r", "-o", "%i %T"), 60)
    slurm("scontrol", "update", f"jobid={job}", "StartTime=now")


def test_requeued_job_resumes_in_its_folder(
    slurm: Callable[..., str], run: Callable[..., Path], tmp_path: Path
) -> None:
    two = ("devices=multi_node", "trainer.accelerator=cpu")
    script = tmp_path / "job.sh"
    words = " ".join([*RUN, *two, f"logs_dir={tmp_path}"])
    script.write_text(JOB.format(folder=tmp_path, python=sys.executable, words=words))
    job = slurm("sbatch", "--parsable", str(script)).strip()
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and "epoch 3/" in log.read_text(), 90)
    queue_again(slurm, job)
    folder = tmp_path / "default" / f"slurm-{job}.0"
    wait_until(lambda: (folder / "summary.json").exists(), 120)
    assert "stopped by SIGTERM" in log.read_text() and "resumed from last.ckpt" in log.read_text()
    assert [path.name for path in (tmp_path / "default").iterdir()] == [folder.name]

    whole = tmp_path / "whole"
    command = [sys.executable, "train.py", *RUN, "devices=ddp", *two[1:], "trainer.devices=2", f"run_dir={whole}"]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=200)
    assert_same_runs(folder, whole)


def test_runs_of_a_sweep_are_separate_jobs(slurm: Callable[..., str], tmp_path: Path) -> None:
    here = ("hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=1", "devices=cpu")
    slurm(
        sys.executable, "train.py", "-m", "hydra/launcher=slurm", *here, *TINY[1:], "seed=0,1", f"logs_dir={tmp_path}"
    )
    (study,) = (tmp_path / "default").iterdir()
    assert sorted(path.parent.name for path in study.rglob("summary.json")) == ["0", "1"]


def test_runs_of_a_sweep_are_parallel_on_this_machine(
    process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    local = ("-m", "hydra/launcher=submitit_local", "devices=cpu", *TINY[1:], f"logs_dir={tmp_path}")
    result = process(*local, "seed=0,1")
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.rglob("summary.json"))) == 2
    result = process(*local, "lit_module.optimizer.lr=-1")
    assert result.returncode == 2
    assert result.stderr.startswith("error: lit_module.optimizer: Invalid learning rate: -1; "), result.stderr
