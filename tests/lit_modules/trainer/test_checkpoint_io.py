"""Checkpoints are written atomically, and loading them executes no code."""

import os
import pickle
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.errors import UserError
from lit_modules.trainer.checkpoint_io import DurableCheckpointIO


class MakesFolder:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def names(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()]


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


def test_old_checkpoint_survives_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "a.ckpt"
    DurableCheckpointIO().save_checkpoint({"epoch": 1}, path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(UserError, match=r"a\.ckpt: cannot be written"):  # torch's writer raises RuntimeError
            DurableCheckpointIO().save_checkpoint({"weight": torch.zeros(100_000)}, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
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


@pytest.mark.parametrize("name", ["thesis", "thesis.tex", "a/../../thesis.ckpt", "folder.ckpt"])
def test_only_a_checkpoint_file_is_removed(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder.ckpt").mkdir()
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(UserError, match="is no checkpoint to be removed"):
        DurableCheckpointIO().remove_checkpoint(tmp_path / name)
    assert sorted(names(tmp_path)) == ["folder.ckpt", "thesis", "thesis.tex"]


def test_checkpoint_is_removed_once(tmp_path: Path) -> None:
    (tmp_path / "epoch=000.ckpt").touch()
    for _ in range(2):
        DurableCheckpointIO().remove_checkpoint(tmp_path / "epoch=000.ckpt")
    assert names(tmp_path) == []
