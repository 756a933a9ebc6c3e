"""datamodule.relabel changes labels and drops samples, and nothing else."""

from pathlib import Path

import numpy as np
import pytest

from conf.errors import UserError
from conf.files import write_table
from tests.samples import datamodule, noise

SPLITS = {"train": noise(24, 6, 5), "test": noise(9, 6, 5, seed=1)}  # labels cycle through ant, bee, cat


def table(folder: Path, **new_labels: str) -> str:
    """A table with a row for each sample: `train_0="bee"` relabels train/0."""
    path = folder / "new.csv"
    write_table(path, [{"file": file.replace("_", "/"), "new_label": new} for file, new in new_labels.items()])
    return str(path)


def test_listed_samples_are_relabelled_or_dropped(tmp_path: Path) -> None:
    before, after = datamodule(SPLITS), datamodule(SPLITS)
    after.relabel = table(tmp_path, train_0="bee", train_1="", train_2="drop", test_4="cat")
    before.setup()
    after.setup()
    for name in ("train", "val", "test"):
        old, new = before.split(name), after.split(name)
        labels = dict(zip(old.files, old.labels.tolist(), strict=True))
        labels |= {file: label for file, label in (("train/0", 1), ("test/4", 2)) if file in labels}
        labels.pop("train/2", None)
        assert dict(zip(new.files, new.labels.tolist(), strict=True)) == labels
        pixels = dict(zip(old.files, next(old.read([np.arange(len(old.rows))])), strict=True))
        for file, sample in zip(new.files, next(new.read([np.arange(len(new.rows))])), strict=True):
            assert (sample == pixels[file]).all()
    moved = (after.split("train").labels, after.split("val").labels)
    assert sum(map(len, moved)) == 23 and sum(after.class_counts) == len(moved[0])


def test_test_split_alone_is_relabelled(tmp_path: Path) -> None:
    module = datamodule(SPLITS, channels=1, image_size=[6, 5])
    module.relabel = table(tmp_path, train_0="bee", test_0="cat", test_1="drop")
    module.setup("test")
    assert module.split("test").labels.tolist() == [2, 2, 0, 1, 2, 0, 1, 2]


def test_a_name_is_found_as_a_spreadsheet_shows_it(tmp_path: Path) -> None:
    module = datamodule(SPLITS, names=["=ant", "bee\x1b", "cat"])
    module.relabel = table(tmp_path, train_1="=ant", train_2="bee\x1b")
    module.setup()
    assert [
        module.split(name).labels[module.split(name).files.index(file)].item()
        for file in ("train/1", "train/2")
        for name in ("train", "val")
        if file in module.split(name).files
    ] == [0, 1]


@pytest.mark.parametrize(
    ("rows", "error"),
    [
        ("file,new_label\ntrain/99,bee\n", "train/99 is not in the data; remove the row"),
        ("file,new_label\ntrain/0,bea\n", "there is no class 'bea'; did you mean 'bee'"),
        ("file,new_label\ntrain/0,bee\ntrain/0,cat\n", "train/0 is listed twice"),
        ("file,label\ntrain/0,bee\n", "lacks a column; it needs file and new_label"),
        ("", "lacks a column"),
        ("file,new_label\n" + "".join(f"test/{i},drop\n" for i in range(9)), "drops every sample of test"),
        ("file,new_label\n" + "".join(f"train/{i},bee\n" for i in range(0, 24, 3)), "no training sample of class ant"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, rows: str, error: str) -> None:
    (tmp_path / "new.csv").write_text(rows)
    module = datamodule(SPLITS, relabel=str(tmp_path / "new.csv"))
    with pytest.raises(UserError, match=error):
        module.setup()


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a file; give a table"):
        datamodule(SPLITS, relabel=str(tmp_path)).setup()
