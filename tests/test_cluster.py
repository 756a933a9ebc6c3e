"""Runs on several hosts, simulated by network namespaces: started, interrupted and resumed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from conf.errors import UserError
from lit_modules.classifier import LitClassifier
from lit_modules.runs import checkpoints, launcher, run_folder
from tests.conftest import ROOT, TINY, configure
from tests.runs import RANDOM, assert_same_runs, wait_for

ADDRESSES = {"litmus-a": "10.77.31.1", "litmus-b": "10.77.31.2"}
PROCESSES = (*TINY[1:], "devices=multi_node", "trainer.accelerator=cpu")
RUN = (*PROCESSES, *RANDOM, "callbacks.mid_epoch_checkpoint.every_n_steps=3", "trainer.max_epochs=30")


def torchrun(*arguments: str, inside: tuple[str, ...] = (), **environment: str) -> subprocess.Popen[str]:
    """Start `torchrun … train.py …` in the background, with stdout and stderr in one pipe."""
    command = [*inside, sys.executable, "-m", "torch.distributed.run", *arguments]
    clean = {key: value for key, value in os.environ.items() if key != "LITMUS_STAMP"}
    return subprocess.Popen(
        command, cwd=ROOT, env=clean | environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


@pytest.fixture
def hosts() -> Iterator[dict[str, str]]:
    """Two network namespaces with an address each, joined by a cable."""

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    try:
        for host in ADDRESSES:
            ip("netns", "add", host)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"network namespaces cannot be made here: {error}")
    a, b = ADDRESSES
    ip("link", "add", "cable", "netns", a, "type", "veth", "peer", "name", "cable", "netns", b)
    for host, address in ADDRESSES.items():
        ip("-n", host, "address", "add", f"{address}/24", "dev", "cable")
        ip("-n", host, "link", "set", "cable", "up")
        ip("-n", host, "link", "set", "lo", "up")
    yield ADDRESSES
    for host in ADDRESSES:
        power_off(host)
        ip("netns", "delete", host)


def boot(host: str, job: str, *arguments: str) -> subprocess.Popen[str]:
    """Start one host of a job of two: the README's command with a network interface."""
    address, first = ADDRESSES[host], ADDRESSES["litmus-a"]
    return torchrun(
        f"--rdzv-conf=is_host={int(address == first)}",  # whose name leads to no address here
        *("--nnodes=2", "--nproc-per-node=1", "--max-restarts=3"),
        *("--rdzv-backend=c10d", f"--rdzv-endpoint={first}:29400", f"--rdzv-id={job}", f"--local-addr={address}"),
        *("train.py", *RUN, *arguments),
        inside=("ip", "netns", "exec", host),
        GLOO_SOCKET_IFNAME="cable",
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",  # else a restarted host does not get the address of the first
    )


def power_off(host: str) -> None:
    pids = subprocess.run(["ip", "netns", "pids", host], capture_output=True, text=True, check=True).stdout.split()
    for pid in map(int, pids):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_host_that_dies_and_comes_back_changes_no_bit(hosts: dict[str, str], tmp_path: Path) -> None:
    logs = f"logs_dir={tmp_path}"
    whole = [boot(host, "whole", logs) for host in hosts]
    outputs = [process.communicate(timeout=100)[0] for process in whole]
    assert [process.returncode for process in whole] == [0, 0], outputs

    a, b = (boot(host, "broken", logs) for host in hosts)
    wait_for(a, "epoch 4/")
    time.sleep(0.2)
    power_off("litmus-b")
    b.communicate()
    died = checkpoints.newest(tmp_path / "default" / "broken")
    again = boot("litmus-b", "broken", logs)
    output, _ = a.communicate(timeout=100)
    assert (a.returncode, again.wait(timeout=60)) == (0, 0), output
    assert f"resumed from {died.name}" in output
    assert sorted(path.name for path in (tmp_path / "default").iterdir()) == ["broken", "whole"]
    assert_same_runs(tmp_path / "default" / "broken", tmp_path / "default" / "whole")
    again.communicate()


@pytest.mark.slow
def test_processes_of_torchrun_share_a_folder_named_by_the_job(tmp_path: Path) -> None:
    processes = torchrun(
        *("--nproc-per-node=2", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=job", "train.py"),
        *(*PROCESSES, "trainer.max_epochs=1", f"logs_dir={tmp_path}"),
    )
    output, _ = processes.communicate(timeout=100)
    assert processes.returncode == 0, output
    assert (tmp_path / "default" / "job" / "summary.json").is_file()
    assert [path.name for path in (tmp_path / "default").iterdir()] == ["job"]


@pytest.mark.parametrize(
    ("environment", "stamp"),
    [
        ({"TORCHELASTIC_RUN_ID": "night", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"}, "night"),
        ({"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "2"}, "slurm-7.2"),
        ({"SLURM_JOB_ID": "7"}, "2026-01-31_12-00-00"),
        ({}, "2026-01-31_12-00-00"),
    ],
)
def test_folder_name_is_the_same_in_all_processes_of_a_run(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], stamp: str
) -> None:
    monkeypatch.setattr(time, "strftime", lambda _: "2026-01-31_12-00-00")
    for name in ("TORCHELASTIC_RUN_ID", "SLURM_JOB_ID", "SLURM_STEP_ID"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert launcher.stamp() == stamp


def test_job_without_a_name_is_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    with pytest.raises(UserError, match=r"^torchrun: .*; add --rdzv-id=NAME$"):
        launcher.stamp()


def test_restarted_job_resumes_its_run(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    whole = run(*TINY, *RANDOM, "trainer.max_epochs=2", f"run_dir={tmp_path / 'whole'}")
    folder = run(*TINY, *RANDOM, "trainer.max_epochs=2", "trainer.limit_val_batches=1.0")
    (folder / "checkpoints" / "epoch=001.ckpt").unlink()
    (folder / "checkpoints" / "last.ckpt").unlink()
    run(*TINY, *RANDOM, "trainer.max_epochs=2")
    assert "resumed from epoch=000.ckpt" in capsys.readouterr().out
    assert_same_runs(folder, whole)
    with pytest.raises(UserError, match=r"^seed: this run has 0, not 1"):
        run(*TINY, *RANDOM, "trainer.max_epochs=2", "seed=1")


def test_job_killed_before_its_first_checkpoint_starts_over(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with run_folder.claim(tmp_path / "run", configure(*TINY)):
        pass
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    assert (run(*TINY) / "summary.json").is_file()


def test_ranks_with_different_checkpoints_are_rejected(monkeypatch: pytest.MonkeyPatch) -> None:
    rank = SimpleNamespace(world_size=2, global_rank=1, global_step=0, strategy=SimpleNamespace(broadcast=lambda _: 7))
    monkeypatch.setattr(LitClassifier, "trainer", rank)
    with pytest.raises(UserError, match=r"^logs_dir: rank 1 starts at step 0, rank 0 at step 7; "):
        LitClassifier.on_train_start(LitClassifier.__new__(LitClassifier))
