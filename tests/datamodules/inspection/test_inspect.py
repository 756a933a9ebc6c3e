"""An inspection reports the content of a folder and each of its faults."""

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
from tests.datamodules.images import photographs

FOLDER = ("task=inspect", "+experiment=image_folder")


def write(path: Path, image: Image.Image, **options: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two classes, 20 : 10 in training; each fault is in a file named after it."""
    root = tmp_path / "data"
    *fields, large = photographs()[:41]
    folders = ["train/aa"] * 20 + ["train/b [x]"] * 10 + ["test/aa", "test/b [x]"] * 5
    for i, field in enumerate(fields):
        write(root / folders[i] / f"{i:02d}.png", field)
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


def inspect(run: Callable[..., Path], output: Path, *overrides: str) -> dict[str, Any]:
    run_dir = run(*FOLDER, "datamodule.image_size=32", *overrides, f"output={output}")
    assert not run_dir.exists(), "an inspection is no run"
    return json.loads((output / "inspection.json").read_text())


def files_of(groups: list[dict[str, Any]]) -> list[list[str]]:
    return [[file["file"] for file in group["files"]] for group in groups]


def test_all_faults_are_reported(
    run: Callable[..., Path], folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    report = inspect(run, tmp_path / "out", f"datamodule.root={folder}", "datamodule.on_error=raise")
    assert report["unreadable"] == [
        {"file": "train/aa/page.jpg", "reason": "not an image that Pillow reads"},
        {"file": "test/aa/empty.png", "reason": "the file is empty"},
    ]
    exact = report["duplicates"]["exact"]
    remarks = [(group["across_splits"], group["label_conflict"], bool(group["byte_identical"])) for group in exact]
    split_of = {file["file"]: file["split"] for group in exact for file in group["files"]}
    # Either file of these pairs may have been taken for validation.
    inside_across = split_of["train/aa/05.png"] != split_of["train/aa/inside.tif"]
    conflict_across = split_of["train/aa/06.png"] != split_of["train/b [x]/conflict.png"]
    assert dict(zip(map(tuple, files_of(exact)), remarks, strict=True)) == {
        ("train/aa/03.png", "test/aa/copied.png"): (True, False, True),
        ("train/aa/04.png", "test/aa/again.bmp"): (True, False, False),
        ("train/aa/05.png", "train/aa/inside.tif"): (inside_across, False, False),
        ("train/aa/06.png", "train/b [x]/conflict.png"): (conflict_across, True, True),
    }
    near = report["duplicates"]["near"]
    assert files_of(near) == [
        ["train/b [x]/21.png", "test/b [x]/compressed.jpg"],
        ["train/b [x]/22.png", "test/b [x]/brighter.png"],
        ["train/b [x]/23.png", "test/b [x]/resized.png"],
    ]
    assert all(0.95 <= group["similarity"] <= 1 for group in near)
    assert report["duplicates"]["near_search_complete"]
    console = capsys.readouterr().out
    for word in ("page.jpg", "the file is empty", "label conflict", "compressed.jpg", "b [x]"):
        assert word in console


def test_unreadable_training_images_are_one_line(run: Callable[..., Path], tmp_path: Path) -> None:
    for split in ("train", "val", "test"):
        for name in ("a", "b"):
            write_images(tmp_path / "data" / split / name, 2, level=90, size=(64, 64))
    for path in (tmp_path / "data" / "train").rglob("*.png"):
        os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(UserError, match=r"^train/a/000.png: .*every training (image|sample) is unreadable; "):
        inspect(run, tmp_path / "out", f"datamodule.root={tmp_path / 'data'}")


def test_counts_and_statistics_are_those_of_the_files(run: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    report = inspect(run, tmp_path / "out", f"datamodule.root={folder}", "datamodule.val_fraction=0.2")
    assert report["splits"] == {"train": 27, "val": 6, "test": 15}
    counts = [row["train"] for row in report["classes"].values()]
    assert list(report["classes"]) == ["aa", "b [x]"] and counts == [17, 10]
    expected = resolve_class_weights("auto", counts)
    assert expected is not None
    assert [row["weight"] for row in report["classes"].values()] == pytest.approx(expected.tolist())
    assert report["imbalance"] == {"largest": "aa", "smallest": "b [x]", "ratio": 1.7}
    assert report["modes"] == {"RGB": 47, "L": 1}
    assert report["formats"] == {"PNG": 45, "BMP": 1, "TIFF": 1, "JPEG": 1}
    assert report["sizes"]["height"] == {"min": 32, "median": 32, "max": 64}
    assert report["sizes"]["width"] == {"min": 32, "median": 32, "max": 64}
    assert report["sizes"]["most_common"][0] == {"height": 32, "width": 32, "count": 46}
    assert report["input"]["shape"] == [3, 32, 32]
    assert report["decoded"]["bytes"] == 3 * 32 * 32 * 50
    assert report["decoding"]["num_timed"] == 50 and report["decoding"]["total_seconds"] > 0


def test_cache_does_not_change_the_report(run: Callable[..., Path], folder: Path, tmp_path: Path) -> None:
    reports = {}
    for place in ("memory", "disk", "off"):
        report = inspect(run, tmp_path / place, f"datamodule.root={folder}", f"datamodule.cache={place}")
        entry = report.pop("decoded")["cache_entry"]
        assert (Path(entry) / "pixels.npy").is_file() if place == "disk" else entry is None
        del report["decoding"]
        reports[place] = report
    assert reports["disk"] == reports["memory"]
    assert reports["off"] == reports["memory"]


def test_images_in_memory_are_inspected(run: Callable[..., Path], tmp_path: Path) -> None:
    run("task=inspect", f"output={tmp_path}")
    report = json.loads((tmp_path / "inspection.json").read_text())
    assert sum(report["splits"].values()) == 1797
    assert report["formats"] == {"in memory": 1797}
    # Images of 8×8 pixels are too small for near duplicates.
    assert report["duplicates"] == {"exact": [], "near": None, "near_search_complete": None}


def test_report_without_faults_is_short(
    run: Callable[..., Path], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*FOLDER, f"datamodule.root={images}", f"output={tmp_path / 'out'}")
    console = capsys.readouterr().out
    assert "Samples" in console and "Statistics" in console
    assert "unreadable" not in console and "duplicates" not in console


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
