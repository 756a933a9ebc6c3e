"""Image folders as people have them are read as they are meant, or refused."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.samples import error_of, numbered, put, read

# Folders of images → the splits and the classes of their files.
LAYOUTS = {
    "a wrapping folder": ("archive/dataset/{ant,bee}", {"train": "archive/dataset/{ant,bee}"}),
    "words in capitals": ("{TRAIN,TEST}/{ant,bee}", {"train": "TRAIN/{ant,bee}", "test": "TEST/{ant,bee}"}),
    "Training, Testing": (
        "data/{Training,Testing}/{ant,bee}",
        {"train": "data/Training/{ant,bee}", "test": "data/Testing/{ant,bee}"},
    ),
    "repeated folders": (
        "seg_{train,test}/seg_{train,test}/{ant,bee}",
        {"train": "seg_train/seg_train/{ant,bee}", "test": "seg_test/seg_test/{ant,bee}"},
    ),
    "sets": (
        "{train_set,dev-set,testset}/{ant,bee}",
        {"train": "train_set/{ant,bee}", "val": "dev-set/{ant,bee}", "test": "testset/{ant,bee}"},
    ),
    "years": ("{train,val}2017/{ant,bee}", {"train": "train2017/{ant,bee}", "val": "val2017/{ant,bee}"}),
    "traces of a Mac": ("{ant,bee,__MACOSX/ant}", {"train": "{ant,bee}"}),
    "test images without labels": ("{train/{ant,bee},test}", {"train": "train/{ant,bee}"}),
}


def folders(pattern: str) -> list[str]:
    """The names that a pattern such as {a,b}/c stands for, as in a shell; equal braces have equal words."""
    expanded = subprocess.run(["bash", "-c", f"echo {pattern}"], capture_output=True, text=True, check=True).stdout
    return [name for name in expanded.split() if not re.search("seg_train/seg_test|seg_test/seg_train", name)]


@pytest.mark.parametrize(("pattern", "expected"), LAYOUTS.values(), ids=LAYOUTS)
def test_usual_layouts_are_read(tmp_path: Path, pattern: str, expected: dict[str, str]) -> None:
    for folder in folders(pattern):
        put(tmp_path / folder, *numbered(3))
    (tmp_path / "Thumbs.db").write_bytes(b"")
    splits, names = read(tmp_path)
    assert names == sorted({Path(folder).name for folder in folders(expected["train"])})
    found = {split: sorted({str(Path(file).parent) for file in files}) for split, files in splits.items()}
    assert found == {split: sorted(folders(pattern)) for split, pattern in expected.items()}


def test_folder_beside_the_splits_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in ("train/ant", "train/bee", "test", "extra/ant"):
        put(tmp_path / folder, *numbered(3))
    read(tmp_path)
    assert capsys.readouterr().err == f"warning: {tmp_path}: not used beside the splits: extra, test\n"


@pytest.mark.parametrize("pattern", ["{bus,train}", "{train,test}", "{ant,Validation}/deep"])
def test_what_may_be_splits_is_not_read_as_classes(tmp_path: Path, pattern: str) -> None:
    for folder in folders(pattern):
        put(tmp_path / folder, *numbered(3))
    problem = "holds splits but no train; name them train, val and test, or rename the class"
    assert error_of(tmp_path) == f"datamodule.root: {tmp_path} {problem}"


def test_two_folders_of_one_split_are_refused(tmp_path: Path) -> None:
    for folder in ("train/ant", "train/bee", "training/ant", "training/bee"):
        put(tmp_path / folder, *numbered(3))
    assert error_of(tmp_path) == f"{tmp_path / 'training'}: is named like the split train; rename or remove one of them"
