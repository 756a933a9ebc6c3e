"""A process keeps freed memory, exits fast with its output written, and reports output that it cannot write."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from datamodules.storage.memory import free_memory
from lit_modules.trainer.process import MIN_FREE_MEMORY
from tests.conftest import ROOT

# Allocates and frees as a step does, then counts the page faults of further steps.
STEPS = """
import resource, torch
from datamodules.storage.memory import free_memory
from lit_modules.trainer import process
process.set_up(free_memory())
def step():
    return [torch.ones(size * 2**18) for size in (10, 40, 80)]
for _ in range(10):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = 5 * 130 * 2**20 // os.sysconf("SC_PAGE_SIZE")


def python(program: str, **environment: str) -> subprocess.CompletedProcess[str]:
    chosen = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_TUN"))}
    command = [sys.executable, "-c", program]
    return subprocess.run(command, cwd=ROOT, env=chosen | environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
@pytest.mark.skipif(free_memory() < 2 * MIN_FREE_MEMORY, reason="needs more free memory")
def test_freed_memory_is_kept_for_the_next_step() -> None:
    assert int(python(STEPS).stdout) < PAGES / 100


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_malloc_settings_of_the_user_are_kept() -> None:
    assert int(python(STEPS, MALLOC_ARENA_MAX="8").stdout) > PAGES / 4


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_freed_memory_is_returned_where_it_is_scarce() -> None:
    limited = "import resource; resource.setrlimit(resource.RLIMIT_DATA, (2**32, 2**32))\n" + STEPS
    assert int(python(limited).stdout) > PAGES / 4


def program(body: str) -> str:
    """A program that prints a line at interpreter teardown."""
    return f"""
import atexit, sys
from lit_modules.trainer import process
class Part:
    def __del__(self): print("torn down")
part = Part()
def program():
    atexit.register(print, "registered later", end="")
    {body}
process.run(program)
"""


def test_finished_process_exits_after_all_atexit_functions() -> None:
    done = python(program("print('worked')"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "worked\nregistered later", "")


def test_buffered_log_records_are_written_before_the_exit() -> None:
    held = "import logging.handlers as h; logging = h.logging; to = logging.StreamHandler(sys.stdout)"
    body = f"{held}; logging.getLogger().addHandler(h.MemoryHandler(100, target=to)); logging.warning('held back')"
    assert python(program(body)).stdout == "registered laterheld back\n"


def test_exit_code_is_kept() -> None:
    done = python(program("sys.exit(3)"))
    assert (done.returncode, done.stderr) == (3, "")
    assert done.stdout.startswith("registered later")


@pytest.mark.parametrize(
    ("overrides", "unbuffered"),
    [(["--cfg", "job"], ""), (["--cfg", "job"], "1"), pytest.param(["trainer=debug"], "1", marks=pytest.mark.slow)],
)
def test_closed_pipe_ends_a_command_silently_with_141(overrides: list[str], unbuffered: str, tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "train.py", "+experiment=digits", f"logs_dir={tmp_path}", *overrides]
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    with os.fdopen(writer, "wb") as output:
        done = subprocess.run(
            command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    "overrides", [["--cfg", "job"], ["--help"], pytest.param(["trainer=debug"], marks=pytest.mark.slow)]
)
def test_output_on_a_full_disk_is_answered_in_one_line(overrides: list[str], tmp_path: Path) -> None:
    command = [sys.executable, "train.py", "+experiment=digits", f"logs_dir={tmp_path}", *overrides]
    with open("/dev/full", "w") as output:
        done = subprocess.run(command, cwd=ROOT, stdout=output, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr.startswith("error: output: No space left on device; free some space")
        and done.stderr.count("\n") == 1
    )
