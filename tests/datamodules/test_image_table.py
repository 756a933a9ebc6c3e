"""Every format of an image table is read, and errors name the table and the row."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.errors import UserError
from datamodules.image_folder import ImageFolderDataModule
from tests.conftest import PLAIN, TINY, inputs_of, write_images
from tests.samples import module_of as folder_module_of
from tests.samples import numbered, put


def module_of(table: Path | str, **changes: Any) -> ImageFolderDataModule:
    return ImageFolderDataModule(**PLAIN | changes, root=str(table))


def write(table: Path, text: str, encoding: str = "utf-8") -> Path:
    table.write_bytes(text.encode(encoding))
    return table


def read(table: Path) -> tuple[dict[str, list[tuple[str, str]]], list[str]]:
    """File and class of each sample of each split, and the class names."""
    splits, names = module_of(table).read()
    return {
        split: [(file, names[label]) for file, label in zip(samples.files, samples.labels, strict=True)]
        for split, samples in splits.items()
    }, names


CAT_AND_ANT = ({"train": [("b/1.png", "cat"), ("2.png", "ant")]}, ["ant", "cat"])


@pytest.mark.parametrize(
    "text",
    [
        "path,label\nb/1.png,cat\n2.png,ant\n",
        "label,path\ncat,b/1.png\nant,2.png",
        "\ufeffpath,label\r\nb/1.png,cat\r\n2.png,ant\r\n",
        "Path, Label \nb/1.png, cat \n\n2.png,ant\n\n",
        'path,remark,label\nb/1.png,"two\nlines, of it",cat\n2.png,,ant\n',
    ],
    ids=["plain", "other_order", "bom_and_crlf", "blanks", "quoted_newline"],
)
def test_formats_of_one_table_are_equivalent(tmp_path: Path, text: str) -> None:
    assert read(write(tmp_path / "t.csv", text)) == CAT_AND_ANT


def test_paths_are_relative_to_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir("/")
    text = f"path,label\na.png,x\n~/b.png,y\n{tmp_path}/far/c.png,y\n../d.png,y\n"
    (tmp_path / "in").mkdir()
    splits, _ = module_of(write(tmp_path / "in" / "t.csv", text)).read()
    expected = [tmp_path / "in" / "a.png", tmp_path / "home" / "b.png", tmp_path / "far" / "c.png", tmp_path / "d.png"]
    assert [os.path.normpath(item) for item in splits["train"].items] == [str(path) for path in expected]


def test_splits_are_those_of_the_column(tmp_path: Path) -> None:
    rows = [f"{word}{label}.png,{label},{word}" for word in ("train", "valid", "test") for label in "ab"]
    splits, _ = read(write(tmp_path / "t.csv", "\n".join(["path,label,split", *rows])))
    assert splits == {
        name: [(f"{word}{label}.png", label) for label in "ab"]
        for name, word in (("train", "train"), ("val", "valid"), ("test", "test"))
    }


def test_table_gives_the_same_samples_as_a_folder(tmp_path: Path) -> None:
    for level, name in enumerate(("ant", "bee")):
        put(tmp_path / name, *numbered(8), level=60 + 90 * level)
    rows = [f"{name}/{file},{name}" for name in ("ant", "bee") for file in numbered(8)]
    table = module_of(write(tmp_path / "t.csv", "\n".join(["path,label", *rows])))
    folder = folder_module_of(tmp_path)
    for module in (table, folder):
        module.setup()
    for split in ("train", "val", "test"):
        assert list(table.files(split)) == list(folder.files(split))
        assert np.array_equal(inputs_of(table, split), inputs_of(folder, split))


@pytest.mark.parametrize("separator", [";", "\t"])
def test_separator_may_be_semicolon_or_tab(tmp_path: Path, separator: str) -> None:
    text = 'path;label;"a,b,c,d,e"\na,1.png;x;\n"b;.png";y;\n'
    splits, _ = read(write(tmp_path / "t.csv", text.replace(";", separator)))
    assert splits == {"train": [("a,1.png", "x"), (f"b{separator}.png", "y")]}


def test_groups_stay_in_one_split(tmp_path: Path) -> None:
    put(tmp_path, *numbered(120))
    rows = [f"{file},{i % 2},patient {i // 4}" for i, file in enumerate(numbered(120))]
    module = module_of(write(tmp_path / "t.csv", "\n".join(["path,label,group", *rows])))
    module.setup()
    patients = [{int(file.split(".")[0]) // 4 for file in module.files(split)} for split in ("train", "val", "test")]
    assert sum(map(len, patients)) == len(set.union(*patients)) == 30


HEAD = "path,label\na.png,x\n"
SPLITS = "path,label,split\na.png,x,train\nb.png,y,train\n"
GROUPS = "path,label,split,group\na.png,x,train,p\nb.png,y,train,q\n"
MISTAKES = {
    "no_rows": ("path,label\n", ": holds no row below its header"),
    "empty": ("", ": row 1: there is no column 'path'; write it first"),
    "no_header": ("a.png,x\nb.png,y\n", ": row 1: there is no column 'path'; choose from "),
    "labels": ("path,lable,x\na.png,x,y\n", ": row 1: there is no column 'label'; did you mean 'lable'?"),
    "groups": ("path,label,groups\na.png,x,1\n", ": row 1: there is no column 'groups'; did you mean 'group'?"),
    "column_twice": ("path,label,label\na.png,x,y\n", ": row 1: column 'label' is listed twice"),
    "short_row": (f"{HEAD}b.png\n", ": row 3: has 1 fields, the header 2"),
    "long_row": (f"{HEAD}b,c.png,y\n", ": row 3: has 3 fields, the header 2; quote fields that contain a separator"),
    "no_path": (f"{HEAD},y\n", ": row 3: path is empty"),
    "no_label": (f"{HEAD}\nb.png, \n", ": row 4: label is empty"),
    "no_group": (f"{GROUPS}c.png,x,test,\n", ": row 4: group is empty"),
    "no_split": (f"{SPLITS}c.png,x,\n", ": row 4: '' is not a split; choose from "),
    "other_split": (f"{SPLITS}c.png,x,tset\n", ": row 4: 'tset' is not a split; did you mean 'test'?"),
    "path_twice": (f"{HEAD}b.png,y\na.png,y\n", ": row 4: a.png is listed in row 2 already; keep one"),
    "path_spelled_twice": (f"{HEAD}b.png,y\n./b//../a.png,y\n", ": row 4: ./b//../a.png is listed in row 2 already"),
    "path_whole": (f"{HEAD}b.png,y\nFOLDER/b.png,y\n", ": row 4: FOLDER/b.png is listed in row 3 already; keep one"),
    "parted_group": (f"{GROUPS}c.png,x,test,p\n", ": row 4: group 'p' is in test, but above in train; keep"),
    "open_quote": (f'{HEAD}"b.png,y\n', ": row 3: is not CSV ("),
    "latin_1": (f"{HEAD}größe.png,y\n", ": row 1 or later: is not UTF-8"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_malformed_table_is_named(tmp_path: Path, name: str) -> None:
    text, line = MISTAKES[name]
    text = text.replace("FOLDER", str(tmp_path))
    line = line.replace("FOLDER", str(tmp_path))
    table = write(tmp_path / "t.csv", text, "latin-1" if name == "latin_1" else "utf-8")
    with pytest.raises(UserError) as caught:
        module_of(table).setup()
    assert str(caught.value).startswith(f"{table}{line}") and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (f"{SPLITS}c.png,z,val\n", "class z: c.png is in val, but none in train; "),
        (HEAD, "datamodule: holds only the class x; "),
        (f"{SPLITS}c.png,x,test\n".replace("train", "val"), "datamodule.root: holds no training split"),
    ],
    ids=["class_not_learned", "one_class", "no_training"],
)
def test_unusable_samples_are_rejected(tmp_path: Path, text: str, line: str) -> None:
    with pytest.raises(UserError) as caught:
        module_of(write(tmp_path / "t.csv", text)).setup()
    assert str(caught.value).startswith(line)


def test_missing_files_are_named(tmp_path: Path) -> None:
    table = write(tmp_path / "t.csv", f"{HEAD}b.png,x\nc.png,y\nd.png,y\ne.png,x\nf.png,y\n")
    with pytest.raises(UserError) as caught:
        module_of(table).setup()
    assert str(caught.value).startswith(f"{tmp_path / 'a.png'}: no such file or directory; every training image is")
    put(tmp_path, "c.png", "d.png", "e.png", "f.png")
    with pytest.raises(UserError) as caught:
        module_of(table).setup()
    assert str(caught.value).startswith("a.png (no such file or directory), b.png (no such file or directory): 2 sam")


def test_missing_table_is_rejected(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        module_of(tmp_path / "no.csv").setup()
    assert str(caught.value).startswith(f"datamodule.root: {tmp_path / 'no.csv'} does not exist; give ")


def test_run_trains_on_a_table_and_is_tested_on_another(
    run: Callable[..., Path], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = []
    for name, level in (("dark", 60), ("light", 190)):
        write_images(tmp_path / name, 40, level=level)
        rows += [f"{name}/{i:03d}.png,{name}" for i in range(40)]
    table = write(tmp_path / "t.csv", "\n".join(["path,label", *rows]))
    choices = ("trainer.max_epochs=4", "datamodule=image_table", "datamodule.batch_size=8")
    folder = run(*TINY, *choices, "lit_module.optimizer.lr=0.01", f"datamodule.root={table}")
    with open(folder / "metrics.csv", newline="") as file:
        assert float(list(csv.DictReader(file))[-1]["val/acc"]) == 1
    other = write(tmp_path / "other.csv", "\n".join(["path,label,split", *(f"{row},test" for row in rows[:40])]))
    run(f"run={folder}", "task=test", f"datamodule.root={other}")
    assert "on 40 samples" in capfd.readouterr().out
    write(other, "\n".join(["path,label,split", *(f"{row},val" for row in rows)]))
    with pytest.raises(UserError, match=r"^datamodule.root: holds neither a training nor a test split; "):
        run(f"run={folder}", "task=test", f"datamodule.root={other}")
