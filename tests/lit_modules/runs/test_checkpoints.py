"""Checkpoints are found, verified before use, and read without executing code."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from conf.errors import UserError
from lit_modules.networks.weights import load_verified
from lit_modules.runs import checkpoints
from lit_modules.runs.checkpoints import PREDICTABLE, RESUMABLE, misfit
from lit_modules.runs.restore import load_best
from tests.damaged_checkpoints import flip_bit


def checkpoint_in(folder: Path, name: str, **changes: object) -> Path:
    """Writes a checkpoint that holds the entries of a real one."""
    path = folder / "checkpoints" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = {"normalize.mean": torch.zeros(3, 1, 1), "net.weight": torch.arange(1000.0)}
    data = {"class_names": ["a", "b"], "input_shape": [3, 8, 8], "state_dict": weights, "train_scores": {}}
    torch.save(RESUMABLE | data | {"callbacks": {}} | changes, path)
    return path


def flip_weight(path: Path) -> None:
    flip_bit(path, path.read_bytes().index(torch.arange(1000.0).numpy().tobytes()) + 400)


def test_newest_intact_checkpoint_is_taken(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    oldest, old, new = (checkpoint_in(tmp_path, f"epoch={i:03d}.ckpt", epoch=i) for i in (2, 999, 1000))
    checkpoint_in(tmp_path, "epoch=of a friend.ckpt")
    assert checkpoints.newest(tmp_path) == new
    last = checkpoint_in(tmp_path, "last.ckpt")
    assert checkpoints.newest(tmp_path) == last
    assert capsys.readouterr().err == ""
    last.write_bytes(last.read_bytes()[:100])
    flip_weight(new)
    checkpoint_in(tmp_path, old.name, state_dict=[1])
    assert checkpoints.newest(tmp_path) == oldest
    corrupt = [f"skipped {path}: is corrupt or no checkpoint" for path in (last, new)]
    assert capsys.readouterr().err.splitlines() == [*corrupt, f"skipped {old}: has no valid state_dict"]


def test_run_without_checkpoints_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^run: {tmp_path} has no readable checkpoint; "):
        checkpoints.newest(tmp_path)
    missing = f"^{checkpoints.best_path(tmp_path)}: does not exist; resume the run with run={tmp_path}$"
    with pytest.raises(UserError, match=missing):
        checkpoints.best(tmp_path)


def test_best_epoch_is_that_of_the_file_behind_the_link(tmp_path: Path) -> None:
    file, best = checkpoint_in(tmp_path, "epoch=007.ckpt", epoch=7), checkpoints.best_path(tmp_path)
    best.symlink_to(file.name)
    assert checkpoints.best(tmp_path)["epoch"] == 7
    best.unlink()
    shutil.copy(file, best)  # as in a copy of the folder that follows links
    assert checkpoints.best(tmp_path)["epoch"] == 7


def test_each_bit_of_a_tensor_is_verified(tmp_path: Path) -> None:
    path = checkpoint_in(tmp_path, "best.ckpt")
    assert torch.equal(load_verified(path)["state_dict"]["net.weight"], torch.arange(1000.0))
    start = path.read_bytes().index(torch.arange(1000.0).numpy().tobytes())
    for position in range(start, start + 4000, 333):
        flip_bit(path, position, position % 8)
        with pytest.raises(UserError, match=f"^{path}: is corrupt or no checkpoint; restore it from a backup, or "):
            checkpoints.best(tmp_path)
        flip_bit(path, position, position % 8)
    assert checkpoints.best(tmp_path)["epoch"] == 0


def test_files_of_old_versions_of_torch_are_read(tmp_path: Path) -> None:
    torch.save({"a": torch.ones(2)}, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    assert torch.equal(load_verified(tmp_path / "old.pth")["a"], torch.ones(2))


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def test_code_in_a_checkpoint_is_not_executed(tmp_path: Path) -> None:
    path = checkpoint_in(tmp_path, "last.ckpt", class_names=Evil(tmp_path / "made"))
    with pytest.raises(ValueError, match=r"^contains code, which is not executed$"):
        checkpoints.load(path, PREDICTABLE)
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize("content", [{"state_dict": {}}, [1, 2], torch.zeros(2)])
def test_checkpoint_of_another_program_is_named(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "last.ckpt")
    with pytest.raises(ValueError, match=r"^was not written by Litmus$"):
        checkpoints.load(tmp_path / "last.ckpt", PREDICTABLE)


def test_checkpoint_for_predictions_alone_is_not_resumed(tmp_path: Path) -> None:
    path = checkpoint_in(tmp_path, "best.ckpt", optimizer_states=None)
    assert checkpoints.load(path, PREDICTABLE)
    with pytest.raises(ValueError, match=r"^has no valid optimizer_states$"):
        checkpoints.load(path, RESUMABLE)


@pytest.mark.parametrize(
    ("value", "example", "place"),
    [
        ({"a": 1, "b": 2}, {"a": 0}, None),
        ({"b": 2}, {"a": None}, "a"),
        ({"a": [1, 2, "3"]}, {"a": [0]}, "a.2"),
        ({"a": []}, {"a": [0]}, None),
        ({"a": {"x": 1, "y": "2"}}, {"a": {str: 0}}, "a.y"),
        ({"a": {1: 1}}, {"a": {str: 0}}, "a.1"),
        ({"a": -1}, {"a": 0}, "a"),
        ({"a": "x"}, {"a": None}, None),
        ([], {}, ""),
    ],
)
def test_first_place_that_differs_from_the_example_is_named(value: object, example: object, place: str | None) -> None:
    assert misfit(value, example) == place


def test_errors_outside_of_restoring_pass(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), checkpoints.restoring(tmp_path / "last.ckpt"):
        1 / 0  # noqa: B018


def test_best_epoch_has_a_row_in_metrics_csv(tmp_path: Path) -> None:
    checkpoint_in(tmp_path, "best.ckpt", epoch=10**30)  # a copy, not a link
    (tmp_path / "metrics.csv").write_text("epoch,val/f1\n0,0.5\n")
    with pytest.raises(UserError, match=rf"^{tmp_path}/metrics\.csv: has no row of epoch {10**30}, the best; restore"):
        load_best(None, tmp_path)
