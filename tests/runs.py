"""Runs that several tests make, read and compare."""

import csv
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra.utils import instantiate
from pytorch_lightning import Trainer

from conf.files import read_rows
from lit_modules.classifier import LitClassifier
from tests.conftest import configure

EPOCHS = 4

CLOCK = ("seconds", "images_per_second", "data_wait")

COMPARED = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")

RANDOM = (
    "lit_module.net.dropout=0.3",
    "+datamodule.augment.crop._target_=datamodules.augment.transforms.RandomCrop",
    "+datamodule.augment.crop.padding=1",
    "+datamodule.augment.crop.fill=black",
)


def assert_same(ours: object, theirs: object, path: str = "") -> None:
    """Equal bits in nested dicts, lists and tensors."""
    if isinstance(ours, torch.Tensor):
        assert torch.equal(ours, theirs), path
    elif isinstance(ours, dict):
        assert isinstance(theirs, dict) and ours.keys() == theirs.keys(), path
        for key in ours:
            assert_same(ours[key], theirs[key], f"{path}.{key}")
    elif isinstance(ours, list):
        assert isinstance(theirs, list) and len(ours) == len(theirs), path
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_same(a, b, f"{path}.{i}")
    else:
        assert ours == theirs, path


def assert_resumable_at_every_step(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, *choices: str, first: int = 0
) -> None:
    """Saves a checkpoint after every step of a run, and resumes from each of them, from the `first` on."""
    saved: list[Path] = []
    save = Trainer.save_checkpoint

    def keep(trainer: Trainer, path: Path, *_: object) -> None:
        save(trainer, path)
        saved.append(Path(path).with_name(f"kept-{trainer.global_step}.ckpt"))
        shutil.copy(path, saved[-1])

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_checkpoint", keep)
        whole = run(*choices, "callbacks.mid_epoch_checkpoint.every_n_steps=1")
    expected = {part: load(whole, "last.ckpt")[part] for part in COMPARED}
    rows = table(whole)
    assert len(saved) > first + 7

    for checkpoint in saved[first:]:
        shutil.copy(checkpoint, whole / "checkpoints" / "last.ckpt", follow_symlinks=False)
        run(f"run={whole}")
        final = load(whole, "last.ckpt")
        assert_same(expected, {part: final[part] for part in COMPARED}, checkpoint.name)
        assert table(whole) == rows


def load(folder: Path, name: str) -> dict[str, object]:
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def table(folder: Path) -> list[dict[str, str]]:
    """metrics.csv without the columns that are measured by the clock."""
    rows = read_rows(folder / "metrics.csv")
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def cut_off_after(folder: Path, epoch: int) -> None:
    """Leaves in a run's folder what was there when that epoch's checkpoint had just been written."""
    checkpoints = folder / "checkpoints"
    for later in range(epoch + 1, EPOCHS):
        (checkpoints / f"epoch={later:03d}.ckpt").unlink()
    (checkpoints / "last.ckpt").unlink()
    (checkpoints / "last.ckpt").symlink_to(f"epoch={epoch:03d}.ckpt")


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended without {text!r}")


def assert_same_runs(ours: Path, theirs: Path) -> None:
    a, b = load(ours, "last.ckpt"), load(theirs, "last.ckpt")
    assert_same({part: a[part] for part in COMPARED}, {part: b[part] for part in COMPARED})
    assert table(ours) == table(theirs)


NAMES = ["cat", "dog", "올빼미"]


def trained(shape: tuple[int, ...]) -> LitClassifier:
    """A classifier whose BatchNorm has seen data, and which is sure of some of its answers."""
    told = {"input_shape": shape, "class_names": NAMES, "class_counts": [1] * 3}
    means = {"mean": [0.4] * shape[0], "std": [0.2] * shape[0]}
    choices = configure("lit_module.net.channels=[8,8]", "lit_module.net.dropout=0.2", "lit_module.net.activation=GELU")
    module = instantiate(choices.lit_module, **told, **means, _convert_="all")
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            module(torch.rand(32, *shape))
        module.net.head[-1].weight.mul_(5)
    return module.eval()


def rows_of(folder: Path) -> list[dict[str, str]]:
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
