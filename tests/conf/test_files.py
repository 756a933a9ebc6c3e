"""Files are written whole or not at all."""

import errno
import os
from pathlib import Path
from typing import BinaryIO

import pytest

from conf.errors import UserError
from conf.files import write_durably, write_table, write_text


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


def test_a_bug_is_not_taken_for_a_full_disk(tmp_path: Path) -> None:
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


def test_bytes_reach_the_disk_before_the_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_file_is_replaced_not_written_over(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    write_text(path, "größe: 1\n")
    assert path.read_bytes() == "größe: 1\n".encode()
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"], "no temporary file is left"
    with open(path, encoding="utf-8") as reader:
        write_text(path, "größe: 2\n")
        assert reader.read() == "größe: 1\n", "who has the old file open reads the old text"
    assert path.read_text(encoding="utf-8") == "größe: 2\n"


def test_a_text_that_cannot_be_written_leaves_the_old_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "config.yaml"
    write_text(path, "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="No space left"):
        write_text(path, "new")
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["config.yaml"], "no temporary file is left"


def test_a_table_has_a_column_for_each_name(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [{"a": 1, "b": "x, y"}, {"c": None, "a": 2.5}])
    assert (tmp_path / "t.csv").read_bytes() == b'a,b,c\r\n1,"x, y",\r\n2.5,,\r\n'
