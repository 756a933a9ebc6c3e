"""task=test scores a trained network on other data, if its classes are known to the run."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf
from sklearn.metrics import accuracy_score, f1_score

from conf.errors import UserError
from tests.conftest import TINY, write_images

CHOICES = ("+experiment=from_scratch", *TINY, "lit_module.net.pool=2", "trainer.max_epochs=2")


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory: pytest.TempPathFactory, shared_run: Callable[..., Path]) -> Path:
    """A run with the classes dark, grey and light."""
    images = tmp_path_factory.mktemp("classes")
    write_images(images / "dark", 40, level=60)
    write_images(images / "light", 30, level=190, suffix="jpg")
    write_images(images / "grey", 30, level=125)
    return shared_run(*CHOICES, f"datamodule.root={images}")


def scores(output: str) -> dict[str, float]:
    """Accuracy and F1 of the last printed table."""
    rows = [line.split() for line in output.splitlines()]
    values = next(row for row in rows if row[:1] == ["test"])
    names = next(row for row in rows if row[:2] == ["loss", "acc"])
    row = dict(zip(names, map(float, values[1:]), strict=True))
    return {name: row[name] for name in ("acc", "f1")}


@pytest.mark.parametrize("classes", [["grey", "light"], ["light"], ["dark", "grey", "light"]], ids=len)
def test_scores_on_other_images_are_those_of_their_predictions(
    run: Callable[..., Path],
    trained_run: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    classes: list[str],
) -> None:
    levels = {"dark": 60, "grey": 150, "light": 190}
    for name in classes:
        write_images(tmp_path / "other" / "test" / name, 25, level=levels[name] + 1, size=(20, 16))
    run(f"run={trained_run}", "task=test", f"datamodule.root={tmp_path / 'other'}")
    printed = capfd.readouterr().out
    assert f"on {25 * len(classes)} samples" in printed

    run(f"run={trained_run}", "task=predict", f"input={tmp_path / 'other'}", f"output={tmp_path / 'out'}")
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = [(Path(row["file"]).parent.name, row["predicted"]) for row in csv.DictReader(file)]
    true, predicted = zip(*rows, strict=True)
    expected = {"acc": accuracy_score(true, predicted), "f1": f1_score(true, predicted, average="macro")}
    assert scores(printed) == pytest.approx(expected, abs=1e-4)


def test_moved_data_give_the_same_scores(
    run: Callable[..., Path], trained_run: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    run(f"run={trained_run}", "task=test")
    before = scores(capfd.readouterr().out)
    images = Path(OmegaConf.load(trained_run / "config.yaml").datamodule.root)
    moved = shutil.copytree(images, tmp_path / "moved")
    run(f"run={trained_run}", "task=test", f"datamodule.root={moved}")
    assert scores(capfd.readouterr().out) == before


def test_unknown_class_is_named(run: Callable[..., Path], trained_run: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "other" / "test" / "ligth", 3, level=190)
    with pytest.raises(UserError, match=r"^datamodule.root: the run has no class 'ligth'; did you mean 'light'\?$"):
        run(f"run={trained_run}", "task=test", f"datamodule.root={tmp_path / 'other'}")


def test_training_on_a_test_split_alone_is_rejected(run: Callable[..., Path], tmp_path: Path) -> None:
    for name in ("dark", "light"):
        write_images(tmp_path / "other" / "test" / name, 3, level=190)
    with pytest.raises(UserError, match=r"^datamodule.root: holds no training split, only a test split; "):
        run(*CHOICES, f"datamodule.root={tmp_path / 'other'}")


def test_samples_of_another_shape_are_rejected(run: Callable[..., Path], tmp_path: Path) -> None:
    for name, length in (("one", 20), ("other", 21)):
        inputs = np.random.default_rng(0).random((60, 3, length), np.float32)
        np.savez(tmp_path / f"{name}.npz", inputs=inputs, labels=np.arange(60) % 2)
    folder = run("datamodule=arrays", f"datamodule.root={tmp_path / 'one.npz'}", *TINY)
    with pytest.raises(UserError, match=r"^datamodule.root: samples of 3×21, but the run was trained on 3×20; "):
        run(f"run={folder}", "task=test", f"datamodule.root={tmp_path / 'other.npz'}")
