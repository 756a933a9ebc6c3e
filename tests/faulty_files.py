"""A file system that fails: the n-th operation on the files of a folder raises an OSError.

Covers what Python does: open, read, write, fsync, replace, mkdir, symlink, unlink and listing of folders. Not covered:
memory-mapped pages, SQLite, and files that libraries open in C.
"""

import builtins
import errno
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

FUNCTIONS = ("replace", "rename", "mkdir", "symlink", "unlink", "scandir", "listdir", "open")


class FaultyFiles:
    """Counts the operations below `folder`, and lets one of them fail.

    Args:
        folder: other files are left alone.
        number: errno of the failure.
        at: its place among the operations, from 0; None: none fails.
    """

    def __init__(self, folder: Path, number: int, at: int | None) -> None:
        self.folder, self.number, self.at = str(folder), number, at
        self.count = 0
        self.failed = ""
        self.names: dict[int, str] = {}  # of open files, by descriptor

    def operate(self, name: str, path: object) -> None:
        try:
            text = os.fsdecode(path)  # type: ignore[arg-type]
        except TypeError:  # a descriptor
            text = self.names.get(path, "") if isinstance(path, int) else ""
        if not text.startswith(self.folder):
            return
        self.count += 1
        if self.count - 1 == self.at:
            self.failed = f"{name} {text}"
            raise OSError(self.number, os.strerror(self.number), text)

    def install(self, patch: pytest.MonkeyPatch) -> None:
        patch.setattr(builtins, "open", self.open)
        patch.setattr(io, "open", self.open)
        for name in FUNCTIONS:
            patch.setattr(os, name, self._wrapped(name, getattr(os, name)))
        fsync = os.fsync

        def faulty_fsync(descriptor: int) -> None:
            self.operate("fsync", descriptor)
            fsync(descriptor)

        patch.setattr(os, "fsync", faulty_fsync)

    def _wrapped(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def faulty(path: Any = ".", *arguments: Any, **options: Any) -> Any:
            self.operate(name, path)
            result = function(path, *arguments, **options)
            if name == "open":
                self.names[result] = os.fsdecode(path)
            return result

        return faulty

    def open(self, file: Any, mode: str = "r", buffering: int = -1, *text: Any, **options: Any) -> Any:
        """`builtins.open`, returning a file whose reads and writes can fail."""
        if isinstance(file, int) or not os.fsdecode(file).startswith(self.folder):
            return ORIGINAL_OPEN(file, mode, buffering, *text, **options)
        self.operate("open", file)
        raw = FaultyFile(self, os.fspath(file), mode.replace("b", "").replace("t", ""))
        self.names[raw.fileno()] = os.fsdecode(file)
        if buffering == 0:
            return raw
        binary: Any = io.BufferedRandom(raw) if "+" in mode else None
        if binary is None:
            binary = io.BufferedReader(raw) if raw.readable() else io.BufferedWriter(raw)
        return binary if "b" in mode else io.TextIOWrapper(binary, *text, **options)


ORIGINAL_OPEN = builtins.open


class FaultyFile(io.FileIO):
    def __init__(self, faults: FaultyFiles, name: str, mode: str) -> None:
        super().__init__(name, mode)
        self._faults = faults

    def write(self, data: Any) -> int:
        self._faults.operate("write", self.name)
        return super().write(data)

    def readinto(self, buffer: Any) -> int:
        self._faults.operate("read", self.name)
        count = super().readinto(buffer)
        return count or 0

    def readall(self) -> bytes:
        self._faults.operate("read", self.name)
        return super().readall()


ERRORS = {name: getattr(errno, name) for name in ("ENOSPC", "EIO", "EROFS", "EMFILE", "ENOLCK")}
