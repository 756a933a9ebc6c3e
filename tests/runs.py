"""Make, read and compare runs."""

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


def assert_same(actual: object, expected: object, path: str = "") -> None:
    """Assert equal bits in nested dicts, lists and tensors."""
    if isinstance(actual, torch.Tensor):
        assert torch.equal(actual, expected), path
    elif isinstance(actual, dict):
        assert isinstance(expected, dict) and actual.keys() == expected.keys(), path
        for key in actual:
            assert_same(actual[key], expected[key], f"{path}.{key}")
    elif isinstance(actual, list):
        assert isinstance(expected, list) and len(actual) == len(expected), path
        for i, (a, b) in enumerate(zip(actual, expected, strict=True)):
            assert_same(a, b, f"{path}.{i}")
    else:
        assert actual == expected, path


def assert_resumable_at_every_step(
    run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, *choices: str, first: int = 0
) -> None:
    """Save a checkpoint after every step, and resume from each of them except the first `first`."""
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
    """A checkpoint of a run."""
    return torch.load(folder / "checkpoints" / name, weights_only=True)


def table(folder: Path) -> list[dict[str, str]]:
    """Rows of metrics.csv without time measurements."""
    rows = read_rows(folder / "metrics.csv")
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def cut_off_after(folder: Path, epoch: int) -> None:
    """Remove the checkpoints after `epoch`, as if the run had been killed there."""
    checkpoints = folder / "checkpoints"
    for later in range(epoch + 1, EPOCHS):
        (checkpoints / f"epoch={later:03d}.ckpt").unlink()
    (checkpoints / "last.ckpt").unlink()
    (checkpoints / "last.ckpt").symlink_to(f"epoch={epoch:03d}.ckpt")


def wait_for(process: subprocess.Popen[str], text: str) -> None:
    """Read the output of a process up to a line that contains `text`."""
    assert process.stdout is not None
    for line in process.stdout:
        if text in line:
            return
    raise AssertionError(f"the run ended without {text!r}")


def assert_same_runs(actual: Path, expected: Path) -> None:
    """Assert that two runs end with the same checkpoint and metrics."""
    checkpoint, expected_checkpoint = load(actual, "last.ckpt"), load(expected, "last.ckpt")
    for part in COMPARED:
        assert_same(checkpoint[part], expected_checkpoint[part], part)
    assert table(actual) == table(expected)


NAMES = ["cat", "dog", "올빼미"]


def trained(shape: tuple[int, ...]) -> LitClassifier:
    """A classifier with BatchNorm statistics of random data and some confident predictions."""
    data = {"input_shape": shape, "class_names": NAMES, "class_counts": [1] * 3}
    means = {"mean": [0.4] * shape[0], "std": [0.2] * shape[0]}
    choices = configure("lit_module.net.channels=[8,8]", "lit_module.net.dropout=0.2", "lit_module.net.activation=GELU")
    module = instantiate(choices.lit_module, **data, **means, _convert_="all")
    torch.manual_seed(0)
    with torch.no_grad():
        for _ in range(20):
            module(torch.rand(32, *shape))
        module.net.head[-1].weight.mul_(5)
    return module.eval()


def rows_of(folder: Path) -> list[dict[str, str]]:
    """Rows of predictions.csv."""
    with open(folder / "predictions.csv", newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
