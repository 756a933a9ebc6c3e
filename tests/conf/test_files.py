"""Files are written whole or not at all; a lock has one holder."""

import errno
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

import pytest
from filelock import Timeout

from conf import files
from conf.errors import UserError
from conf.files import file_lock, lock_inherited, write_durably, write_table, write_text
from tests.conftest import ROOT, TINY, Command


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


def test_written_file_holds_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "file"
    write_durably(path, lambda file: file.write(b"new"))
    write_durably(path, lambda file: file.write(b"newer"))
    assert path.read_bytes() == b"newer"
    assert names(path.parent) == ["file"]


def test_old_file_survives_a_write_that_fails_midway(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        file.write(b"half of the n")
        raise OSError("No space left on device")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(UserError, match="No space left"):
        write_durably(path, fail)
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_bug_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def fail(file: BinaryIO) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="CUDA error"):
        write_durably(tmp_path / "file", fail)
    assert names(tmp_path) == []


def test_old_file_survives_a_rename_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(source: Path, target: Path) -> None:
        raise OSError("Input/output error")

    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(UserError, match="Input/output"):
        write_durably(path, lambda file: file.write(b"new"))
    assert path.read_bytes() == b"old"
    assert names(tmp_path) == ["file"]


def test_bytes_are_synced_before_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync, replace = os.fsync, os.replace
    done: list[str] = []

    def record_sync(descriptor: int) -> None:
        target = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"sync {'folder' if target.is_dir() else target.read_text()}")
        sync(descriptor)

    def record_replace(source: Path, target: Path) -> None:
        done.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", record_sync)
    monkeypatch.setattr(os, "replace", record_replace)
    write_durably(tmp_path / "file", lambda file: file.write(b"new"))
    assert done == ["sync new", "rename", "sync folder"]


def test_link_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    (tmp_path / "target").write_bytes(b"old")
    (tmp_path / "link").symlink_to("target")
    write_durably(tmp_path / "link", lambda file: file.write(b"new"))
    assert (tmp_path / "target").read_bytes() == b"old"
    assert (tmp_path / "link").read_bytes() == b"new" and not (tmp_path / "link").is_symlink()


def test_text_file_is_replaced_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, "größe: 1\n")
    assert path.read_bytes() == "größe: 1\n".encode()
    assert names(tmp_path) == ["config.yaml"], "no temporary file is left"
    with open(path, encoding="utf-8") as reader:
        write_text(path, "größe: 2\n")
        assert reader.read() == "größe: 1\n", "an open file keeps the old text"
    assert path.read_text(encoding="utf-8") == "größe: 2\n"


def test_old_text_survives_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "config.yaml"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["config.yaml"], "no temporary file is left"


def test_table_has_a_column_for_each_key(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [{"a": 1, "b": "x, y"}, {"c": None, "a": 2.5}])
    assert (tmp_path / "t.csv").read_bytes() == b'a,b,c\r\n1,"x, y",\r\n2.5,,\r\n'


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """As on a file system without locks."""
    import fcntl

    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    files._report_no_locks.cache_clear()


def lock_elsewhere(path: Path) -> str:
    """Whether another process can lock a file: `free` or `held`."""
    code = (
        "import sys; from pathlib import Path; from filelock import Timeout; from conf.files import file_lock\n"
        "try:\n    with file_lock(Path(sys.argv[1]), timeout=0): print('free')\n"
        "except Timeout: print('held')"
    )
    command = [sys.executable, "-c", code, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()


def test_file_lock_has_one_holder(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with file_lock(path):
        assert lock_elsewhere(path) == "held"
        with pytest.raises(Timeout), file_lock(path, timeout=0):
            pytest.fail("it is held already")
    assert lock_elsewhere(path) == "free"


def test_inherited_lock_is_held_while_parent_or_child_lives(tmp_path: Path) -> None:
    path = tmp_path / "trial.log"
    log = lock_inherited(path)
    assert log is not None and lock_inherited(path) is None
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stdout=log)
    log.close()
    assert lock_inherited(path) is None, "the child holds it"
    child.communicate(b"\n")
    again = lock_inherited(path)
    assert again is not None
    again.close()


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_marker_files_replace_locks_where_flock_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    without_flock(monkeypatch, number)
    for _ in range(2):
        with file_lock(tmp_path / "lock"), pytest.raises(Timeout), file_lock(tmp_path / "lock", timeout=0):
            pytest.fail("it is held already")
    log = lock_inherited(tmp_path / "trial.log")
    assert log is not None and lock_inherited(tmp_path / "trial.log") is None
    log.close()
    line = f"{tmp_path}: this file system has no file locks; marker files are used instead\n"
    assert capsys.readouterr().err == line, "said once"
    files._marker_locks.pop().release()


def test_marker_of_a_dead_process_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_flock(monkeypatch, errno.ENOLCK)
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / "lock.held").write_text(f"{dead.pid}\n{socket.gethostname()}\n")
    with file_lock(tmp_path / "lock"):
        pass
    assert "waiting for" not in capsys.readouterr().err


def test_marker_of_another_host_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    without_flock(monkeypatch, errno.ENOLCK)
    monkeypatch.setattr(files, "SILENT_SECONDS", 0.01)
    marker = tmp_path / "lock.held"
    marker.write_text("1\nelsewhere\n")
    threading.Timer(0.5, marker.unlink).start()
    with file_lock(tmp_path / "lock"):
        assert f"waiting for {marker}; remove it if the process that it names is dead" in capsys.readouterr().err


def test_run_goes_on_without_locks(command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    without_flock(monkeypatch, errno.ENOSYS)
    result = command(*TINY, "trainer.limit_train_batches=1", f"run_dir={tmp_path / 'run'}")
    assert result.returncode == 0
    assert result.stderr.count("this file system has no file locks") == 1


def test_other_errors_of_a_lock_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match="Input/output error"), file_lock(tmp_path / "lock"):
        pytest.fail("it is not held")
    with pytest.raises(OSError, match="Input/output error"):
        lock_inherited(tmp_path / "trial.log")


def test_no_module_needs_what_windows_lacks() -> None:
    code = (
        "import sys; sys.modules['fcntl'] = sys.modules['resource'] = None\n"
        "import lit_modules.runs.run_folder, lit_modules.runs.sweep, conf.error_messages\n"
        "from datamodules.storage.memory import free_memory; assert free_memory() > 0"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
