"""Writing files so that whatever happens meanwhile, the old file or the new one is there, whole; by one at a time."""

import csv
import fcntl
import io
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from conf.errors import UserError


def write_durably(path: Path, write: Callable[[BinaryIO], Any]) -> None:
    """Writes a sibling temporary file, has it reach the disk, and renames it over `path`.

    Raises:
        UserError: the disk is full, say; the old file is still there.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "inline_container" not in str(error):  # torch's answer to a full disk
            raise
        problem = getattr(error, "strerror", None) or str(error).splitlines()[0]
        raise UserError(f"{path}: cannot be written ({problem}); make room, then go on by run=…") from error
    finally:
        temporary.unlink(missing_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Has what was written to a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text in UTF-8, durably."""
    write_durably(path, lambda file: file.write(text.encode()))


def write_table(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Writes rows as a CSV table, durably; its columns are all names, in the order of their first appearance."""
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path, text.getvalue())


@contextmanager
def file_lock(path: Path) -> Iterator[None]:
    """One process at a time holds this file; the system lets go when it ends, however it ends."""
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def make_output(folder: Path, key: str = "output") -> None:
    """Makes the folder for what a task writes.

    Raises:
        UserError: it cannot be made; named by `key`, which gave it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{key}: cannot write to {folder} ({error.strerror}); choose another") from error


def read_rows(metrics: Path) -> list[dict[str, str]]:
    """The rows of a metrics.csv as text, one an epoch; none if there is no such file."""
    if not metrics.is_file():
        return []
    with open(metrics, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))
