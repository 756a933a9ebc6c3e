"""Files are written whole or not at all, and reading them runs no code."""

import os
import pickle
from pathlib import Path
from typing import Any, BinaryIO

import pytest
import torch

from conf.errors import UserError
from lit_modules.checkpoint_io import DurableCheckpointIO, write_durably


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


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


def test_checkpoint_is_read_back_by_torch_as_plain_values(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    checkpoint = {"state_dict": {"weight": torch.randn(3, 2)}, "epoch": 4, "class_names": ["cat", "dog"]}
    DurableCheckpointIO().save_checkpoint(checkpoint, path)
    for loaded in (torch.load(path, weights_only=True), DurableCheckpointIO().load_checkpoint(path)):
        assert torch.equal(loaded["state_dict"]["weight"], checkpoint["state_dict"]["weight"])
        assert (loaded["epoch"], loaded["class_names"]) == (4, ["cat", "dog"])


def test_old_checkpoint_survives_one_that_cannot_be_pickled(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    DurableCheckpointIO().save_checkpoint({"epoch": 1}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        DurableCheckpointIO().save_checkpoint({"epoch": 2, "callback": lambda: None}, path)
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert names(tmp_path) == ["a.ckpt"]


@pytest.mark.parametrize("weights_only", [True, False, None])
def test_checkpoint_with_code_is_refused_and_runs_nothing(tmp_path: Path, weights_only: bool | None) -> None:
    path, trap = tmp_path / "evil.ckpt", tmp_path / "trap"
    torch.save({"state_dict": {}, "extra": MakesFolder(trap)}, path)
    with pytest.raises(pickle.UnpicklingError):
        DurableCheckpointIO().load_checkpoint(path, weights_only=weights_only)
    assert not trap.exists()
    torch.load(path, weights_only=False)  # the trap works
    assert trap.exists()
