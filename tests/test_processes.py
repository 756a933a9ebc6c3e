"""Processes: not more than cores, none outlives its launcher, signals, jobs of a multirun."""

import itertools
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import joblib
import pytest
import torch
from pytorch_lightning import Trainer

from lit_modules.classifier import LitClassifier
from lit_modules.trainer import process
from tests.conftest import ROOT, TINY, Command, configure, error_line
from tests.runs import RANDOM, assert_same_runs, load, wait_for

ENDLESS = (*TINY, "trainer.max_epochs=5000")


@pytest.mark.parametrize(
    "choices",
    [["devices=cpu"], ["devices=auto"], ["devices=ddp"], ["devices=fsdp", "trainer.accelerator=cpu"]],
    ids=lambda choices: choices[0],
)
def test_more_processes_than_cores_are_refused(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, choices: list[str]
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(Trainer, "fit", lambda *_, **__: pytest.fail("processes are started"))
    result = command(*choices, "trainer.devices=3", f"run_dir={tmp_path / 'run'}")
    line = "trainer.devices: 3 processes exceed the CPU's 2 core(s); set 2 or fewer"
    assert error_line(result.returncode, result.stderr) == line
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("variable", ["LOCAL_RANK", "SLURM_PROCID"])
def test_ranks_that_a_launcher_started_are_not_counted(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    trainer = configure("devices=cpu", "trainer.devices=100000").trainer
    monkeypatch.setenv(variable, "0")
    process.check_count(trainer)


def is_running(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_ranks_end_within_seconds_of_a_killed_launcher(tmp_path: Path) -> None:
    several = ("devices=ddp", "trainer.accelerator=cpu", "trainer.devices=2", f"run_dir={tmp_path / 'run'}")
    command = [sys.executable, "train.py", *ENDLESS, *several]
    launcher = subprocess.Popen(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wait_for(launcher, "watch:")  # rank 1 is still importing
    rank: list[str] = []
    while not rank:
        time.sleep(0.1)
        rank = subprocess.run(["pgrep", "-P", str(launcher.pid)], capture_output=True, text=True).stdout.split()
    time.sleep(1)
    assert is_running(int(rank[0]))
    launcher.kill()
    launcher.communicate()
    until = time.monotonic() + 3
    while is_running(int(rank[0])) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(int(rank[0]))


RANK = """
import time
from lit_modules.trainer import process
process.run(lambda: (print("ready", flush=True), time.sleep(60)))
"""
LAUNCHER = """
import os, signal, subprocess, sys
from lit_modules.trainer import process
def launch():
    command = [sys.executable, "-c", os.environ["RANK"]]
    rank = subprocess.Popen(command, env=os.environ | {"LOCAL_RANK": "1"}, stdout=subprocess.PIPE)
    rank.stdout.readline()
    print(rank.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
process.run(launch)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_rank_dies_with_the_process_that_started_it() -> None:
    environment = os.environ | {"RANK": RANK}
    command = [sys.executable, "-c", LAUNCHER]
    launcher = subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, timeout=60)
    assert launcher.returncode == -signal.SIGKILL
    until = time.monotonic() + 3
    while is_running(int(launcher.stdout)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_running(int(launcher.stdout))


@pytest.mark.skipif(sys.platform != "linux", reason="needs prctl")
def test_rank_whose_launcher_died_first_ends_at_once() -> None:
    orphan = os.environ | {"LOCAL_RANK": "1", process.LAUNCHER: "1"}
    done = subprocess.run([sys.executable, "-c", RANK], cwd=ROOT, env=orphan, capture_output=True, timeout=30)
    assert (done.returncode, done.stdout) == (1, b"")


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_run_stopped_by_a_signal_resumes_with_the_same_bits(
    command: Command, run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, number: signal.Signals
) -> None:
    step, steps, stopped = LitClassifier.training_step, itertools.count(1), tmp_path / "stopped"

    def interrupted(*arguments: object) -> object:
        if next(steps) == 7:
            os.kill(os.getpid(), number)
        return step(*arguments)

    before = signal.getsignal(number)
    with monkeypatch.context() as patch:
        patch.setattr(LitClassifier, "training_step", interrupted)
        result = command(*TINY, *RANDOM, f"run_dir={stopped}")
    signal.signal(number, before)
    assert result.returncode == 128 + number, result.stderr
    assert f"stopped by {number.name} at step 7; resume with: python train.py run={stopped}" in result.stdout
    assert load(stopped, "last.ckpt")["global_step"] == 7
    assert_same_runs(run(f"run={stopped}"), run(*TINY, *RANDOM))


def test_nohup_stays_in_force() -> None:
    code = (
        "import signal; signal.signal(signal.SIGHUP, signal.{}); from lit_modules.trainer.process import STOP_SIGNALS\n"
        "print(*[number.name for number in STOP_SIGNALS])"
    )
    for handler, names in {"SIG_IGN": "SIGTERM SIGINT", "SIG_DFL": "SIGTERM SIGINT SIGHUP"}.items():
        command = [sys.executable, "-c", code.format(handler)]
        assert subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True).stdout == f"{names}\n"


@pytest.mark.slow
def test_closed_terminal_stops_a_run_with_129(tmp_path: Path) -> None:
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "train.py", *ENDLESS, f"run_dir={tmp_path / 'run'}"])
    shown = b""
    while b"epoch 2/" not in shown:
        shown += os.read(terminal, 4096)
    os.close(terminal)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 129
    assert (tmp_path / "run" / "checkpoints" / "last.ckpt").is_file()


def test_multirun_goes_on_after_a_failed_job_and_names_it(command: Command, tmp_path: Path) -> None:
    diverges = ("lit_module/optimizer=sgd", "lit_module.net.norm=none", "lit_module.optimizer.lr=0.01,1e30,0.02")
    result = command("-m", *TINY, *diverges, "trainer.limit_train_batches=3", f"run_dir={tmp_path / 'runs'}")
    assert result.returncode == 2
    of_the_job, named = result.stderr.splitlines()
    assert of_the_job.startswith("error: lit_module.optimizer.lr: loss or weights are no longer finite")
    assert named.startswith("error: -m: failed jobs: 1 (lit_module.optimizer.lr=1e+30); ")
    assert sorted(path.parent.name for path in tmp_path.rglob("summary.json")) == ["0", "2"]
