"""Output and temporary folders that a shell or a container gives in an unusual state."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conf.error_messages import one_line, one_line_errors
from tests.conftest import ROOT, TINY, Command


def python(body: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a function's body as a program, with the redirections of a shell."""
    lines = "\n    ".join(body.splitlines())
    code = f"import os, sys, threading\nfrom lit_modules.trainer import process\ndef program():\n    {lines}\n"
    command = ["sh", "-c", f'exec "$0" -c "$1" {shell}', sys.executable, f"{code}\nprocess.run(program)"]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, timeout=60)


C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE], ids=["ascii", "C"])
def test_character_that_stdout_lacks_is_replaced(environment: dict[str, str]) -> None:
    done = python(r"print('a \u2192 b'); print('a \u2192 b', file=sys.stderr)", **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "a ? b\n", "a \\u2192 b\n")


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, C_LOCALE], ids=["ascii", "C"])
def test_run_needs_no_utf8(process: Command, tmp_path: Path, environment: dict[str, str]) -> None:
    for choices in ([*TINY, f"run_dir={tmp_path / 'run'}"], [f"run={tmp_path / 'run'}", "trainer.max_epochs=2"]):
        done = process(*choices, **environment)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("shell", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_stream_is_replaced_and_its_number_not_reused(shell: str, tmp_path: Path) -> None:
    body = f"""
print("out")
print("err", file=sys.stderr)
with open({str(tmp_path / "file")!r}, "w") as file:
    assert file.fileno() > 2
    assert os.system("echo child && echo child >&2") == 0
"""
    done = python(body, shell)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.slow
def test_run_goes_on_without_streams(tmp_path: Path) -> None:
    command = ["sh", "-c", 'exec "$0" "$@" <&- >&- 2>&-', sys.executable, "train.py", *TINY]
    assert subprocess.run([*command, f"run_dir={tmp_path / 'run'}"], cwd=ROOT).returncode == 0
    assert (tmp_path / "run" / "summary.json").is_file()


def test_pipe_that_closes_during_a_table_of_rich_exits_with_141() -> None:
    body = """
import rich.console
from conf.error_messages import one_line_errors
reader, writer = os.pipe()
os.dup2(writer, 1)
os.close(reader)
os.close(writer)
with one_line_errors():
    rich.console.Console().print("row")
"""
    done = python(body)
    assert (done.returncode, done.stderr) == (141, "")


def test_exit_code_of_a_program_is_not_taken_for_a_closed_pipe() -> None:
    with pytest.raises(SystemExit) as stopped, one_line_errors():
        raise SystemExit(1)
    assert stopped.value.code == 1


def test_user_without_a_home_has_one_that_holds_no_cache() -> None:
    body = """
import pwd
pwd.getpwuid = {}.__getitem__
del os.environ["HOME"]
process.run(lambda: print(os.path.expanduser("~/.cache/litmus")))
"""
    assert python(body).stdout == "/nonexistent/.cache/litmus\n"


def test_memory_limit_too_low_for_torch_is_one_line() -> None:
    line = one_line(ImportError("libtorch_cpu.so: failed to map segment from shared object"))
    assert line == "ulimit -v: too low to load torch; raise it, or leave it out"
    assert one_line(ImportError("no module named x")) is None


def in_thread(error: str) -> subprocess.CompletedProcess[str]:
    body = f"""
def fail():
    raise {error}
thread = threading.Thread(target=fail)
thread.start()
thread.join()
"""
    return python(body)


def test_thread_prints_no_error_that_the_main_thread_answers() -> None:
    assert in_thread(f"OSError({errno.ENOSPC}, 'No space left on device')").stderr == ""
    assert "ValueError: a bug" in in_thread("ValueError('a bug')").stderr


@pytest.mark.slow
def test_full_disk_in_a_fit_is_one_line(tmp_path: Path) -> None:
    # A file size limit simulates a full disk; TensorBoard's file is the first that reaches it.
    command = ["sh", "-c", 'ulimit -f 20; exec "$0" "$@"', sys.executable, "train.py", *TINY, "trainer.max_epochs=50"]
    done = subprocess.run([*command, f"run_dir={tmp_path / 'run'}"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1, done.stderr
