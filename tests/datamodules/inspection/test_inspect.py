"""An inspection tells of a folder what was put into it, and of its faults each one."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from conf.errors import UserError
from datamodules.inspection.report import draw_sheet
from datamodules.storage.inputs import InMemory, Split
from lit_modules.optim.losses import resolve_class_weights
from tests.conftest import write_images
from tests.samples import photographs

FOLDER = ("task=inspect", "+experiment=image_folder")


def write(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, 20 : 10 in training; what is wrong with it has a name of its own."""
    root, (*fields, large) = tmp_path / "data", photographs()[:41]
    for i, field in enumerate(fields):
        split, name = ("train", "aa") if i < 20 else ("train", "b [x]") if i < 30 else ("test", ["aa", "b [x]"][i % 2])
        write(root / split / name / f"{i:02d}.png", field)
    shutil.copy(root / "train/aa/03.png", root / "test/aa/copied.png")
    write(root / "test/aa/again.bmp", fields[4])
    write(root / "train/aa/inside.tif", fields[5])
    shutil.copy(root / "train/aa/06.png", root / "train/b [x]/conflict.png")
    write(root / "test/b [x]/compressed.jpg", fields[21], quality=75)
    write(root / "test/b [x]/brighter.png", fields[22].point(lambda value: min(255, value + 10)))
    write(root / "test/b [x]/resized.png", fields[23].resize((64, 64), Image.Resampling.LANCZOS))
    write(root / "train/b [x]/grey.png", large.convert("L").resize((50, 40)))
    (root / "test/aa/empty.png").touch()
    (root / "train/aa/page.jpg").write_text("<html>")
    return root


def report(run: Callable[..., Path], output: Path, *overrides: str) -> dict[str, Any]:
    made = run(*FOLDER, "datamodule.image_size=32", *overrides, f"output={output}")
    assert not made.exists(), "an inspection is no run"
    return json.loads((output / "inspection.json").read_text())


def groups(found: list[dict[str, Any]]) -> list[list[str]]:
    return [[each["file"] for each in group["files"]] for group in found]


def test_what_is_wrong_is_told_and_stops_nothing(
    run: Callable[..., Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = report(run, tmp_path / "out", f"datamodule.root={folder}", "datamodule.on_error=raise")
    assert found["damaged"] == [
        {"file": "train/aa/page.jpg", "reason": "not an image that Pillow reads"},
        {"file": "test/aa/empty.png", "reason": "the file is empty"},
    ]
    exact = found["duplicates"]["exact"]
    facts = {
        names: (group["across_splits"], group["label_conflict"], bool(group["byte_identical"]))
        for names, group in zip(map(tuple, groups(exact)), exact, strict=True)
    }
    taken = {each["file"]: each["split"] for group in exact for each in group["files"]}
    inside = taken["train/aa/05.png"] != taken["train/aa/inside.tif"]  # either may have been taken for validation
    conflict = taken["train/aa/06.png"] != taken["train/b [x]/conflict.png"]
    assert facts == {
        ("train/aa/03.png", "test/aa/copied.png"): (True, False, True),
        ("train/aa/04.png", "test/aa/again.bmp"): (True, False, False),
        ("train/aa/05.png", "train/aa/inside.tif"): (inside, False, False),
        ("train/aa/06.png", "train/b [x]/conflict.png"): (conflict, True, True),
    }
    assert groups(found["duplicates"]["near"]) == [
        ["train/b [x]/21.png", "test/b [x]/compressed.jpg"],
        ["train/b [x]/22.png", "test/b [x]/brighter.png"],
        ["train/b [x]/23.png", "test/b [x]/resized.png"],
    ]
    assert all(0.95 <= group["likeness"] <= 1 for group in found["duplicates"]["near"])
    assert found["duplicates"]["near_complete"]
    console = capsys.readouterr().out
    for word in ("page.jpg", "the file is empty", "several classes", "compressed.jpg", "b [x]"):
        assert word in console


def test_training_images_of_which_none_can_be_read_are_one_line(run: Callable[..., Path], tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            write_images(tmp_path / "data" / split / name, 2, level=90, size=(64, 64))
    for path in (tmp_path / "data" / "train").rglob("*.png"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"^train/a/000.png: .*, and so is all there is to learn from; "):
        report(run, tmp_path / "out", f"datamodule.root={tmp_path / 'data'}")


def test_counts_and_measures_are_those_of_the_files(run: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    found = report(run, tmp_path / "out", f"datamodule.root={folder}", "datamodule.val_fraction=0.2")
    assert found["splits"] == {"train": 27, "val": 6, "test": 15}
    counts = [each["train"] for each in found["classes"].values()]
    assert list(found["classes"]) == ["aa", "b [x]"] and counts == [17, 10]
    expected = resolve_class_weights("auto", counts)
    assert expected is not None
    assert [each["weight"] for each in found["classes"].values()] == pytest.approx(expected.tolist())
    assert found["imbalance"] == {"largest": "aa", "smallest": "b [x]", "ratio": 1.7}
    assert found["modes"] == {"RGB": 47, "L": 1}
    assert found["formats"] == {"PNG": 45, "BMP": 1, "TIFF": 1, "JPEG": 1}
    assert found["sizes"]["height"] == {"min": 32, "median": 32, "max": 64}
    assert found["sizes"]["width"] == {"min": 32, "median": 32, "max": 64}
    assert found["sizes"]["commonest"][0] == {"height": 32, "width": 32, "images": 46}
    assert found["input"]["shape"] == [3, 32, 32]
    assert found["decoded"]["bytes"] == 3 * 32 * 32 * 50
    assert found["decoding"]["timed"] == 50 and found["decoding"]["seconds"] > 0


@pytest.mark.parametrize("place", ["disk", "off"])
def test_where_images_are_kept_changes_no_finding(
    run: Callable[..., Path], folder: Path, tmp_path: Path, place: str
) -> None:
    ours = report(run, tmp_path / "ours", f"datamodule.root={folder}", f"datamodule.cache={place}")
    theirs = report(run, tmp_path / "theirs", f"datamodule.root={folder}", "datamodule.cache=memory")
    store = ours["decoded"]["store"]
    assert (Path(store) / "pixels.npy").is_file() if place == "disk" else store is None
    for each in (ours, theirs):
        del each["decoded"], each["decoding"]
    assert ours == theirs


def test_images_that_are_no_files_are_inspected(run: Callable[..., Path], tmp_path: Path) -> None:
    run("task=inspect", f"output={tmp_path}")
    found = json.loads((tmp_path / "inspection.json").read_text())
    assert sum(found["splits"].values()) == 1797
    assert found["formats"] == {"in memory": 1797}
    # Of 8×8 pixels many are nearly the same and none is meant.
    assert found["duplicates"] == {"exact": [], "near": None, "near_complete": None}


def test_report_of_nothing_wrong_is_short(
    run: Callable[..., Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*FOLDER, f"datamodule.root={images}", f"output={tmp_path / 'out'}")
    console = capsys.readouterr().out
    assert "Samples" in console and "Measured" in console
    assert "cannot be read" not in console and "the same" not in console


@pytest.mark.parametrize(("classes", "limit"), [(2, 700), (10, 1500), (200, 5000)])
def test_contact_sheet_shows_each_class_and_split(tmp_path: Path, classes: int, limit: int) -> None:
    labels = torch.arange(classes).repeat(2)
    number = np.arange(2 * classes)
    colours = np.stack([number % 256, 100 + number // 256, np.full_like(number, 50)], 1).astype(np.uint8)
    pixels = np.broadcast_to(colours[:, :, None, None], (2 * classes, 3, 16, 16))
    splits = {
        name: Split(InMemory(pixels), rows, labels[torch.from_numpy(rows)], [])
        for name, rows in (("train", number), ("test", number[1:classes]))
    }
    draw_sheet(splits, [f"class {i}" for i in range(classes)], tmp_path / "sheet.png")
    sheet = np.asarray(Image.open(tmp_path / "sheet.png").convert("RGB")).astype(int)
    assert max(sheet.shape) <= limit
    shown = sheet[(sheet[:, :, 2] == 50) & np.isin(sheet[:, :, 1], [100, 101])]  # letters are grey
    area = np.bincount(shown[:, 0] + 256 * (shown[:, 1] - 100), minlength=2 * classes)
    np.testing.assert_array_equal(area, 62 * 62 * np.where((number > 0) & (number < classes), 2, 1))
