"""A statistic that tells classes apart is reported, and one that does not is not."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.model_selection import StratifiedKFold

from datamodules.inspection.image_files import ImageFile, read_image_files
from datamodules.inspection.report import shortcut_lines
from datamodules.inspection.shortcuts import find_shortcuts, source_folders

CLASSES = ["cat", "dog", "owl"]
LABELS = np.arange(300) % 3
GENERATOR = np.random.default_rng(0)


def shortcut(values: np.ndarray, labels: np.ndarray = LABELS) -> dict[str, object]:
    (result,) = find_shortcuts({"width": values}, labels, CLASSES)
    return result


def test_numbers_that_tell_all_classes_apart_are_found() -> None:
    result = shortcut(LABELS * 10 + GENERATOR.normal(size=300))
    assert result["accuracy"] == 1 and result["majority"] == pytest.approx(1 / 3)
    assert result["tells_apart"] and result["classes"] == CLASSES


def test_numbers_that_tell_one_class_are_found() -> None:
    result = shortcut(np.where(LABELS == 1, 5.0, GENERATOR.normal(size=300)))
    assert not result["tells_apart"] and result["classes"] == ["dog"]
    assert list(shortcut_lines([result], CLASSES)) == ["width alone tells dog from all others"]


def test_chance_is_no_shortcut() -> None:
    random = {"a": GENERATOR.normal(size=300), "b": GENERATOR.integers(0, 99, 300).astype(str), "c": np.ones(300)}
    results = find_shortcuts(random, LABELS, CLASSES)
    assert [result["statistic"] for result in results] == ["a", "b"]
    assert list(shortcut_lines(results, CLASSES)) == []
    mostly = np.array([0] * 280 + [1] * 20)  # naming the largest class is right 14 times of 15
    assert list(shortcut_lines([shortcut(GENERATOR.normal(size=300), mostly)], CLASSES)) == []
    assert find_shortcuts({"width": LABELS[:40]}, LABELS[:40], CLASSES) == []


def test_accuracy_of_texts_equals_that_of_the_most_frequent_class() -> None:
    values = np.array(["ab"[label % 2] if i % 4 else "c" for i, label in enumerate(LABELS)])
    hits = 0
    for train, test in StratifiedKFold(5, shuffle=True, random_state=0).split(values, LABELS):
        for i in test:
            same = LABELS[train][values[train] == values[i]]
            hits += np.bincount(same, minlength=3).argmax() == LABELS[i]
    assert shortcut(values)["accuracy"] == pytest.approx(hits / 300, abs=0.02)  # ties


def test_the_folder_of_the_class_is_no_source() -> None:
    labels = np.array([0, 0, 1, 1])
    files = ["train/cat/a/1.png", "train/cat/b/1.png", "train/dog/a/1.png", "train/dog/1.png"]
    assert source_folders(files, labels, CLASSES).tolist() == ["train/a", "train/b", "train/a", "train/"]
    nested = ["x/Cats/cat/1", "x/Cats/cat/2", "x/Dogs/dog/1", "x/Dogs/dog/2"]
    assert set(source_folders(nested, labels, CLASSES).tolist()) == {"x"}
    assert set(source_folders(["1", "2", "3", "4"], labels, CLASSES).tolist()) == {""}


def test_camera_and_size_of_a_file_are_read(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F], exif[0x0110] = "Canon", "EOS"
    Image.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "b.jpg").touch()
    read, empty = read_image_files([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")])
    assert isinstance(read, ImageFile)
    assert (read.camera, read.size) == ("Canon EOS", (tmp_path / "a.jpg").stat().st_size)
    assert (read.header.height, read.header.width) == (4, 6)
    assert empty == "the file is empty"


def test_inspection_reports_unusual_images_and_shortcuts(
    run: Callable[..., Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The fixture's dark images are PNG, the light ones JPEG files."""
    Image.new("RGB", (12, 12), (90, 80, 70)).save(images / "dark" / "blank.png")
    Image.new("RGB", (120, 120)).save(images / "dark" / "black.png")
    run("task=inspect", "+experiment=from_scratch", f"datamodule.root={images}", f"output={tmp_path / 'out'}")
    report = json.loads((tmp_path / "out" / "inspection.json").read_text())
    named = {kind: [row["file"] for row in rows] for kind, rows in report["unusual"].items()}
    assert named["dark"] == ["dark/black.png"] and named["odd size"] == ["dark/black.png"]
    assert set(named["nearly empty"]) == {"dark/black.png", "dark/blank.png"}
    told = {row["statistic"]: row["accuracy"] for row in report["shortcuts"] if row["tells_apart"]}
    assert {"brightness", "file format", "file size"} <= told.keys()
    console = capsys.readouterr().out
    assert "Unusual images" in console
    assert "shortcut: file format alone tells dark from light: accuracy 1.00 (the largest class: 0.5" in console
