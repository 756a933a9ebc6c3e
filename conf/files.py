"""Atomic, durable writes; file locks; CSV tables."""

import csv
import errno
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout, lock_descriptor

from conf.errors import UserError
from conf.text import csv_cell

# What flock answers on a file system without locks, such as some mounts of NFS and Lustre.
NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
SILENT_SECONDS = 5.0  # of waiting for a marker file
_marker_locks: list[BaseFileLock] = []  # of `lock_inherited`, held until this process exits


def write_durably(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Write to a temporary file, fsync it, and rename it over `path`.

    Raises:
        UserError: the write failed, for example because the disk is full; the old file is intact.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.unlink(missing_ok=True)  # it may be a link
        with open(temporary, "xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's error for a full disk
            raise
        problem = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({problem}); free some space, then resume by run=…") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """fsync a file or a folder."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_folder(folder: Path, patterns: Sequence[str]) -> None:
    """Remove the files of a folder whose names fit, and the folder if it holds nothing else. Follows no link.

    All folders are removed here, by the names that Litmus writes, so that nobody else's files are lost.
    """
    if folder.is_symlink():
        return
    for file in [file for pattern in patterns for file in folder.glob(pattern)]:
        with suppress(OSError):
            file.unlink()
    with suppress(OSError):
        folder.rmdir()


def write_text(path: Path, text: str) -> None:
    """Write a text in UTF-8, atomically."""
    write_durably(path, lambda file: file.write(text.encode()))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as a CSV table, atomically. Columns: all keys, in order of first appearance; text is escaped."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(csv_cell(name) for row in rows for name in row)))
    writer.writeheader()
    writer.writerows({csv_cell(name): csv_cell(value) for name, value in row.items()} for row in rows)
    write_text(path, text.getvalue())


@contextmanager
def file_lock(path: Path, timeout: float = -1) -> Iterator[None]:
    """Exclusive lock on a file, released when the process exits.

    Args:
        timeout: seconds to wait while another process holds the lock; -1: no limit.

    Raises:
        filelock.Timeout: another process holds the lock.
        OSError: the lock file cannot be created.
    """
    lock: BaseFileLock = FileLock(path, fallback_to_soft=False)
    try:
        lock.acquire(timeout=timeout)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        lock = _marker_lock(path)
        try:
            lock.acquire(timeout=SILENT_SECONDS if timeout < 0 else timeout)
        except Timeout:
            if timeout >= 0:
                raise
            # A process of this host that died is noticed; of another host, it is not.
            print(f"waiting for {lock.lock_file}; remove it if the process that it names is dead", file=sys.stderr)
            lock.acquire()
    try:
        yield
    finally:
        lock.release()


def lock_inherited(path: Path) -> BinaryIO | None:
    """Open a file to append to, locked while it is open here or in a child process.

    Returns:
        The open file, or None if another process holds the lock.
    """
    file = open(path, "ab")  # noqa: SIM115 (the caller closes it)
    locked = False
    try:
        locked = lock_descriptor(file.fileno(), blocking=False)
    except OSError as error:
        if error.errno not in NO_LOCKS:
            raise
        locked = _hold_marker(path)
    finally:
        if not locked:
            file.close()
    return file if locked else None


def _marker_lock(path: Path) -> BaseFileLock:
    _report_no_locks(path.parent)
    return SoftFileLock(f"{path}.held")


def _hold_marker(path: Path) -> bool:
    """Lock by a marker file until this process exits; children do not inherit it."""
    lock = _marker_lock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    _marker_locks.append(lock)
    return True


@cache
def _report_no_locks(folder: Path) -> None:
    print(f"{folder}: this file system has no file locks; marker files are used instead", file=sys.stderr)


def make_output(folder: Path, key: str = "output") -> None:
    """Create an output folder.

    Raises:
        UserError: it cannot be created; the message names `key`, the config key that holds it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: cannot write to {folder} ({error.strerror}); choose another") from error


def read_rows(metrics: Path) -> list[dict[str, str]]:
    """Rows of a metrics.csv as text, one per epoch; none if the file does not exist."""
    if not metrics.is_file():
        return []
    with open(metrics, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))
