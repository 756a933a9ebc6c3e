"""Every layout of an image folder is read, and errors name the file or folder."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import datamodules.layouts.folder as folders
from tests.conftest import ROOT
from tests.samples import error_of, module_of, numbered, put, read


def test_flat_folder_is_one_split(tmp_path: Path) -> None:
    put(tmp_path / "cat", "b.png", "a.jpg")
    put(tmp_path / "ant", "c.png")
    splits, names = read(tmp_path)
    assert names == ["ant", "cat"]
    assert splits == {"train": ["ant/c.png", "cat/a.jpg", "cat/b.png"]}


@pytest.mark.parametrize("root", [".", "..", "../data/.", "{}/", ".in/.."])
@pytest.mark.parametrize("split", ["", "train/"])
def test_files_are_named_relative_to_the_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, root: str, split: str
) -> None:
    for name in ("ant", "cat"):
        put(tmp_path / "data" / split / name / "deep", "a.png")
    (tmp_path / "data" / ".in").mkdir()
    monkeypatch.chdir(tmp_path / "data" / (".in" if root == ".." else ""))
    expected = [f"{split}{name}/deep/a.png" for name in ("ant", "cat")]
    assert read(Path(root.format(tmp_path / "data")))[0]["train"] == expected


@pytest.mark.parametrize("split", ["", "train/"])
def test_files_are_named_relative_to_the_filesystem_root(monkeypatch: pytest.MonkeyPatch, split: str) -> None:
    monkeypatch.setattr(folders, "_files_below", lambda path, *_: [f"{path}{split}ant/a.png"])
    assert list(folders.DiskFolder("/").walk()) == [(f"{split}ant/a.png", f"/{split}ant/a.png")]


def test_labels_are_positions_in_the_class_names(tmp_path: Path) -> None:
    for position, name in enumerate(["ant", "bee", "cat"]):
        put(tmp_path / name, *numbered(position + 1))
    splits, _ = module_of(tmp_path).read()
    assert splits["train"].labels.tolist() == [0, 1, 1, 2, 2, 2]


@pytest.mark.parametrize("val", ["val", "valid", "validation"])
def test_split_folders_are_read_as_splits(tmp_path: Path, val: str) -> None:
    for split, count in (("train", 3), (val, 2), ("test", 1)):
        for name in ("ant", "bee"):
            put(tmp_path / split / name, *numbered(count))
    splits, names = read(tmp_path)
    assert names == ["ant", "bee"]
    assert {name: len(files) for name, files in splits.items()} == {"train": 6, "val": 4, "test": 2}
    assert all(file.startswith(f"{val}/") for file in splits["val"])


def test_missing_splits_are_taken_from_training(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        put(tmp_path / "train" / name, *numbered(8))
    module = module_of(tmp_path)
    module.setup()
    assert [len(module.files(split)) for split in ("train", "val", "test")] == [8, 4, 4]


def test_nested_folders_belong_to_their_class(tmp_path: Path) -> None:
    put(tmp_path / "ant" / "2024" / "june", "a.png")
    put(tmp_path / "ant", "b.png")
    put(tmp_path / "bee", "c.png")
    assert read(tmp_path)[0]["train"] == ["ant/2024/june/a.png", "ant/b.png", "bee/c.png"]


def test_suffixes_may_be_upper_case(tmp_path: Path) -> None:
    put(tmp_path / "ant", "a.JPG", "b.Png", "c.JPEG")
    put(tmp_path / "bee", "d.BMP")
    assert read(tmp_path)[0]["train"] == ["ant/a.JPG", "ant/b.Png", "ant/c.JPEG", "bee/d.BMP"]


def test_hidden_files_and_other_files_are_skipped(tmp_path: Path) -> None:
    put(tmp_path / "ant", "a.png", "._a.png")
    put(tmp_path / "bee", "b.png")
    put(tmp_path / "bee" / ".thumbnails", "b.png")
    put(tmp_path / ".cache", "c.png")
    (tmp_path / "ant" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "ant" / "labels.txt").write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert read(tmp_path) == ({"train": ["ant/a.png", "bee/b.png"]}, ["ant", "bee"])


def test_names_may_be_in_any_script(tmp_path: Path) -> None:
    put(tmp_path / "고양이", "사진 1.png")
    put(tmp_path / "Käfer", "größe.png")
    assert read(tmp_path) == ({"train": ["Käfer/größe.png", "고양이/사진 1.png"]}, ["Käfer", "고양이"])


def test_link_to_a_parent_folder_is_not_followed(tmp_path: Path) -> None:
    put(tmp_path / "ant" / "deep", "a.png")
    put(tmp_path / "bee", "b.png")
    (tmp_path / "ant" / "deep" / "back").symlink_to(tmp_path / "ant", target_is_directory=True)
    (tmp_path / "bee" / "self").symlink_to(tmp_path / "bee" / "self")
    assert read(tmp_path)[0]["train"] == ["ant/deep/a.png", "bee/b.png"]


def test_link_to_another_folder_is_followed(tmp_path: Path) -> None:
    put(tmp_path / "elsewhere", "a.png")
    put(tmp_path / "root" / "bee", "b.png")
    (tmp_path / "root" / "ant").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert read(tmp_path / "root") == ({"train": ["ant/a.png", "bee/b.png"]}, ["ant", "bee"])


def test_broken_link_is_named(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        put(tmp_path / name, *numbered(6))
    (tmp_path / "bee" / "lost.png").symlink_to(tmp_path / "gone.png")
    assert error_of(tmp_path).startswith("bee/lost.png (no such file or directory): 1 sample cannot be read")


@pytest.mark.parametrize("split", ["", "train", "val", "test"])
def test_damaged_file_is_named(tmp_path: Path, split: str) -> None:
    for part in [split] if not split else ["train", "val", "test"]:
        for name in ("ant", "bee"):
            put(tmp_path / part / name, *numbered(6))
    (tmp_path / split / "ant" / "3.png").write_bytes(b"<html>not here</html>")
    name = f"{split}/ant/3.png".lstrip("/")
    assert error_of(tmp_path).startswith(f"{name} (not an image that Pillow reads): 1 sample cannot be read")


def test_missing_root_is_rejected(tmp_path: Path) -> None:
    assert error_of(tmp_path / "nothing").startswith(f"datamodule.root: {tmp_path / 'nothing'} does not exist; ")


def test_file_as_root_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    assert error_of(tmp_path / "a.png").startswith(f"datamodule.root: {tmp_path / 'a.png'} holds no labelled images")


def test_root_without_classes_is_rejected(tmp_path: Path) -> None:
    assert error_of(tmp_path).startswith(f"datamodule.root: {tmp_path} holds 0 class folders; ")


def test_root_with_one_class_is_rejected(tmp_path: Path) -> None:
    put(tmp_path / "ant", *numbered(3))
    assert error_of(tmp_path).startswith(f"datamodule.root: {tmp_path} holds 1 class folder")


@pytest.mark.parametrize("split", ["", "train"])
@pytest.mark.parametrize("parent", ["images", "test"])
def test_empty_class_is_named(tmp_path: Path, split: str, parent: str) -> None:
    root = tmp_path / parent
    put(root / split / "ant", *numbered(6))
    (root / split / "bee").mkdir()
    assert error_of(root).startswith(f"{root / split / 'bee'}: contains no images; ")


def test_empty_validation_split_is_named(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        put(tmp_path / "train" / name, *numbered(6))
        (tmp_path / "val" / name).mkdir(parents=True)
    assert error_of(tmp_path).startswith(f"{tmp_path / 'val'}: contains no images; ")


def test_image_that_pillow_cannot_read_is_named(tmp_path: Path) -> None:
    for name in ("ant", "bee"):
        put(tmp_path / name, *numbered(6))
    (tmp_path / "ant" / "7.HEIC").write_bytes(b"\0\0\0\x18ftypheic" * 9)
    (tmp_path / "bee" / "Thumbs.db").write_bytes(b"none of anybody's")
    assert error_of(tmp_path).startswith("ant/7.HEIC (not an image that Pillow reads): 1 sample cannot be read")


def test_extra_class_in_validation_is_named(tmp_path: Path) -> None:
    for folder in ("train/ant", "train/bee", "val/ant", "val/bees"):
        put(tmp_path / folder, *numbered(6))
    message = f"{tmp_path / 'val' / 'bees'}: the training split has no class of that name; did you mean 'bee'?"
    assert error_of(tmp_path) == message


def test_class_missing_in_validation_shifts_no_label(tmp_path: Path) -> None:
    for folder in ("train/ant", "train/bee", "train/cat", "val/cat", "test/bee"):
        put(tmp_path / folder, *numbered(2))
    splits, names = module_of(tmp_path).read()
    assert names == ["ant", "bee", "cat"]
    assert splits["val"].labels.tolist() == [2, 2] and splits["test"].labels.tolist() == [1, 1]


@pytest.mark.parametrize(("modes", "channels"), [("LL", 1), ("RGB RGB", 3), ("L RGB", 3)])
def test_channels_are_inferred_from_all_images(tmp_path: Path, modes: str, channels: int) -> None:
    first, second = modes.split() if " " in modes else modes
    put(tmp_path / "ant", *numbered(6), mode=first)
    put(tmp_path / "bee", *numbered(6), mode=second)
    module = module_of(tmp_path)
    module.setup()
    assert module.input_shape == (channels, 4, 4)


def test_pixels_equal_those_of_the_files(tmp_path: Path) -> None:
    for level, name in enumerate(("ant", "bee")):
        put(tmp_path / name, *numbered(8), level=50 + 100 * level)
    module = module_of(tmp_path)
    module.setup()
    mean, std = module.mean_std
    assert np.allclose(np.array(mean) * 255, [100, 0, 155])
    assert np.allclose(np.array(std) * 255, [50, 0, 50])


def test_images_of_many_sizes_become_one_square(tmp_path: Path) -> None:
    put(tmp_path / "ant", *numbered(6), size=(10, 14))
    put(tmp_path / "bee", *numbered(6), size=(30, 10))
    module = module_of(tmp_path)
    module.setup()
    assert module.input_shape == (3, 10, 10)


def test_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("ant", "bee"):
        put(tmp_path / "images" / name, *numbered(1))
    assert module_of(f"~{os.sep}images").read()[1] == ["ant", "bee"]


def test_common_formats_are_tried_first() -> None:
    # In a new process, where no format is registered yet, and without torch, which takes seconds to import.
    program = """
import sys
from types import SimpleNamespace
sys.modules["datamodules.image_datamodule"] = SimpleNamespace(ImageDataModule=object)
from datamodules.layouts.folder import is_image
from PIL import Image
assert "torch" not in sys.modules and not Image.ID
assert is_image("a.png")
assert Image.ID.index("JPEG") < Image.ID.index("BLP")
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def test_small_classes_are_named_at_once_with_their_counts(tmp_path: Path) -> None:
    for name, count in (("ant", 8), ("bee", 2), ("cat", 3), ("dog", 1)):
        put(tmp_path / name, *numbered(count))
    line = "classes bee (2), dog (1): too few samples to take test and val from, which needs 3; add some, "
    assert error_of(tmp_path).startswith(line)
