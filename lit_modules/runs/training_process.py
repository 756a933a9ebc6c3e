"""The runs of a study: training subprocesses, which outlive an error of their own and resume after a kill."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from conf import project
from lit_modules.trainer.process import STOP_SIGNALS

STOPPED = [128 + number for number in STOP_SIGNALS]  # exit codes


def start(overrides: Sequence[str], number: int, log: IO[bytes]) -> subprocess.Popen[bytes]:
    """Starts a run, which resumes from its checkpoint if there is one.

    Args:
        overrides: its command line, with its `run_dir`.
        number: of the run in its study.
        log: for its output; locked, see `lock_inherited`, while the run or this process is alive.
    """
    command = [sys.executable, sys.argv[0], *project.config_dir(sys.argv), "task=fit", *overrides]
    environment = os.environ | {"LITMUS_TRIAL": str(number)}
    return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Terminates a run, which saves a checkpoint; kills it after 60 s."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def exit_on_signals() -> None:
    """Lets signals that stop this process raise SystemExit, so that its runs are stopped too."""
    for number in STOP_SIGNALS:
        signal.signal(number, lambda number, _: sys.exit(128 + number))


def without_keys(command_line: Sequence[str], own: set[str]) -> list[str]:
    """The words of a study's command line that are also those of its runs: without the study's own keys."""
    return [text for text in command_line if text.lstrip("+~").split("=")[0].split(".")[0] not in own]


def last_line(log: Path, code: int) -> str:
    """The last line of a run's output; its exit code if there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    return lines[-1] if lines else str(code)
