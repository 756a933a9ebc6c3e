"""Images in a layout that may be misread are refused in one line; nothing outside of an archive is read."""

import io
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from conf.errors import UserError
from tests.datamodules.layout_files import make, pack
from tests.samples import module_of

NUMBERS = "id,label\n" + "\n".join(f"{i},{i}.5" for i in range(30))
# Folders of two images, texts by file name, settings and the error.
MISTAKES: dict[str, tuple[str, dict[str, str | bytes], dict[str, Any], str]] = {
    "a split among classes": ("{bus,train}", {}, {}, "datamodule.root: ROOT holds splits but no train; name them"),
    "splits of images": ("{train,test}", {}, {}, "datamodule.root: ROOT holds splits but no train; name them"),
    "Validation alone": ("{ant,Validation}/deep", {}, {}, "datamodule.root: ROOT holds splits but no train; name"),
    "two training splits": ("{train,training}/{ant,bee}", {}, {}, "ROOT/training: is named like the split train; "),
    "images without labels": ("", {"0.png": "", "1.png": ""}, {}, "datamodule.root: ROOT holds images but no labels; "),
    "two labels": (
        "x",
        {"t.csv": "id,label,target\n0,a,b\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 1: label and target may each be the label; choose by datamodule.columns.label=label",
    ),
    "two paths": (
        "x",
        {"t.csv": "id,image_id,label\n0,a,b\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 1: id and image_id may each be the path; ",
    ),
    "no label": (
        "x",
        {"t.csv": "id,age,sex\n0,3,m\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 1: there is no column 'label'; choose from age, sex: datamodule.columns.label=…",
    ),
    "no such column": (
        "x",
        {"t.csv": "id,dx\n0,a\n"},
        {"root": "t.csv", "columns": {"label": "dy"}},
        "datamodule.columns.label: ROOT/t.csv has no column 'dy'; choose from dx, id",
    ),
    "no such key": (
        "x",
        {},
        {"columns": {"labels": "dy"}},
        "datamodule.columns.labels: no such key; did you mean 'label'?",
    ),
    "two one-hot columns": (
        "x",
        {"t.csv": "id,A,B\n0,1,0\n1,1,1\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 3: 2 of the 2 label columns are 1, but",
    ),
    "measurements": (
        "x",
        {"t.csv": NUMBERS},
        {"root": "t.csv"},
        "datamodule.columns.label: 30 different numbers look like measurements; ",
    ),
    "labels in a cell": (
        "x",
        {"t.csv": "id,label\nx/0,cat dog\nx/1,dog\nx/2,cat\n"},
        {"root": "t.csv"},
        "datamodule.columns.label: 'cat dog' looks like several labels, but",
    ),
    "unlabelled rows": (
        "x",
        {"t.csv": "id,label\n0,\n1,a\n2,\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: rows 2, 4: label is empty; fill it, remove",
    ),
    "several tables": (
        "x",
        {"a.csv": "id,label\n0,a\n", "b.csv": "id,label\n0,b\n"},
        {},
        "datamodule.root: ROOT holds several tables: a.csv, b.csv; give one",
    ),
    "two images of a name": (
        "{x,y}",
        {"t.csv": "id,label\n0,a\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 2: '0' may be x/0.png or y/0.png; choose by datamodule.image_dir=x",
    ),
    "other labels": (
        "{part_1,part_2}",
        {"t.csv": "id,label\npart_1/0,a\npart_2/0,a\n"},
        {},
        "datamodule.root: ROOT holds class folders and t.csv with other labels; ",
    ),
    "compressed": (
        "x",
        {"a.tar.gz": "x"},
        {"root": "a.tar.gz"},
        "datamodule.root: ROOT/a.tar.gz is compressed as a whole; unpack it",
    ),
    "a damaged zip": ("x", {"a.zip": "PK"}, {"root": "a.zip"}, "datamodule.root: ROOT/a.zip: cannot be read ("),
    "a damaged tar": ("x", {"a.tar": "x" * 2000}, {"root": "a.tar"}, "datamodule.root: ROOT/a.tar: cannot be read ("),
    "a spreadsheet": (
        "x",
        {"a.xlsx": "x"},
        {"root": "a.xlsx"},
        "datamodule.root: ROOT/a.xlsx holds no labelled images that",
    ),
    "no group": ("x", {}, {"label_pattern": "[a-z]+"}, "datamodule.label_pattern: has no group named label; "),
    "no expression": (
        "x",
        {},
        {"label_pattern": "(?P<label"},
        "datamodule.label_pattern: missing >, unterminated name",
    ),
    "no match": (
        "x",
        {},
        {"label_pattern": "(?P<label>dog)"},
        "datamodule.label_pattern: matches none of 2 images, such as x/0.png; ",
    ),
    "no square": (
        "",
        {"t.csv": "label,pixel1,pixel2\na,1,2\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 2: 2 pixels are not a square image",
    ),
    "a large pixel": (
        "",
        {"t.csv": "label,pixel1,pixel2,pixel3,pixel4\na,1,2,3,256\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 2: a pixel is not an integer from 0 to 255",
    ),
    "no folder of images": (
        "x",
        {"t.csv": "path,label\n0.png,ant\n"},
        {"root": "t.csv", "image_dir": "y"},
        "datamodule.image_dir: ROOT/y is not a folder; ",
    ),
    "levels": (
        "{color,grey}/{ant,bee}",
        {},
        {},
        "datamodule.root: ROOT: its folders hold the same folders, ",
    ),
    "a copy": (
        "all/{yes,no} {yes,no}",
        {},
        {},
        "datamodule.root: ROOT: the folder all in it holds folders of the same ",
    ),
    "splits within classes": (
        "{a,b}/{train,test}",
        {},
        {},
        "datamodule.root: ROOT: the folder a in it holds splits; ",
    ),
    "masks beside images": ("{images,masks}", {}, {}, "datamodule.root: ROOT: the folder images in it is no class; "),
    "images within a class": (
        "birds/images maps/{ant,bee}",
        {},
        {},
        "datamodule.root: ROOT: the folder birds in it is no ",
    ),
    "parts with an unclear table": (
        "images_{1,2}",
        {"t.csv": "Image Index,Finding Labels,Age\n0.png,a,3\n", "test_list.txt": "0.png\n1.png\n"},
        {},
        "t.csv: row 1: there is no column 'label'; choose from age, finding labels: ",
    ),
    "two tables of a split": (
        "x",
        {"train.csv": "id,label\n0,a\n", "train_extra.csv": "id,label\n1,b\n"},
        {},
        "datamodule.root: ROOT holds several tables: train.csv, train_extra.csv; give one",
    ),
    "no such fold": (
        "x",
        {"t.csv": "id,label,fold\n0,a,1\n1,b,2\n"},
        {"root": "t.csv"},
        "datamodule.fold: ROOT/t.csv has no fold 0; choose from 1, 2",
    ),
    "a list of four fields": (
        "x",
        {"train.txt": "Abys_1 1 1 1\n"},
        {"root": "train.txt"},
        "ROOT/train.txt: row 1: has 4",
    ),
    "a list as label": (
        "x",
        {"t.jsonl": '{"id": "0", "label": ["a", "b"]}'},
        {"root": "t.jsonl"},
        "ROOT/t.jsonl: row 1: label is a list or an object; give one label",
    ),
    "brackets": (
        "x",
        {"t.jsonl": "[" * 10**5},
        {"root": "t.jsonl"},
        "ROOT/t.jsonl: row 1: is not JSON; write an object",
    ),
    "null bytes": ("x", {"t.csv": "p\0a\0"}, {"root": "t.csv"}, "ROOT/t.csv: row 1: holds null bytes; save"),
    "half hot": (
        "x",
        {"t.csv": "id,a,b\n0,1,0\n1,0.5,0\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 3: a is '0.5', but a ",
    ),
    "an empty label": (
        "x",
        {},
        {"label_pattern": "(?P<label>a)|png"},
        "datamodule.label_pattern: matches none of 2 ima",
    ),
    "a pattern for a table": (
        "x",
        {"t.csv": ""},
        {"root": "t.csv", "label_pattern": "x"},
        "datamodule.label_pattern: ",
    ),
    "empty pixels": ("", {"t.csv": "label,pixels\na,\n"}, {"root": "t.csv"}, "ROOT/t.csv: row 2: has 0 pixels"),
    "other pixels": (
        "",
        {"t.csv": "label,pixels\na,1\nb,1 2 3 4\n"},
        {"root": "t.csv"},
        "ROOT/t.csv: row 3: has 4 pixels, not 1",
    ),
    "images without a clear label": (
        "part_{1,2}",
        {"t.csv": "image_id,age,sex\n0,3,m\n"},
        {},
        "t.csv: row 1: there is no column 'label'; choose from age, sex: ",
    ),
    "an image in two tables": (
        "x",
        {"train.csv": "id,label\nx/0,a\n", "test.csv": "id,label\nx/0,b\n"},
        {},
        "train.csv: row 2: x/0 is listed in test.csv row 2 already; keep one",
    ),
    "a group in two tables": (
        "x",
        {"train.csv": "id,label,patient\nx/0,a,p\n", "test.csv": "id,label,patient\nx/1,b,p\n"},
        {},
        "train.csv: row 2: group 'p' is in train, but above in test; keep each group",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistake_is_answered_in_one_line(tmp_path: Path, name: str) -> None:
    folders, texts, settings, line = MISTAKES[name]
    make(tmp_path, folders, texts)
    with pytest.raises(UserError) as caught:
        module_of(tmp_path / settings.get("root", ""), **{k: v for k, v in settings.items() if k != "root"}).setup()
    assert str(caught.value).startswith(line.replace("ROOT", str(tmp_path))) and "\n" not in str(caught.value)


def zip_of(path: Path, name: str, size: int = 3) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(name, b"x" * size)
    return path


@pytest.mark.parametrize("name", ["../../evil.png", "/etc/evil.png", "a/..\\evil.png"])
@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_member_outside_of_the_archive_is_refused(tmp_path: Path, name: str, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix == ".zip":
        zip_of(path, name)
    else:
        with tarfile.open(path, "w") as archive:
            member = tarfile.TarInfo(name)
            member.size = 3
            archive.addfile(member, io.BytesIO(b"xyz"))
    with pytest.raises(UserError, match="is outside of the archive; a sound archive has none"):
        module_of(path).read()


def test_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.layouts.archive.MAX_MEMBER_BYTES", 10**6)
    with pytest.raises(UserError, match=r"the member 'ant/0\.png' has "):
        module_of(zip_of(tmp_path / "a.zip", "ant/0.png", 10**6 + 1)).read()


def test_flipped_bit_in_an_archive_is_named(tmp_path: Path) -> None:
    make(tmp_path / "data", "{train,val,test}/{ant,bee}", {})
    archive = pack(tmp_path / "data", ".zip")
    content = bytearray(archive.read_bytes())
    content[30 + len("test/ant/0.png") + 9] ^= 1  # after the member's header
    archive.write_bytes(content)
    with pytest.raises(UserError, match=r"^test/ant/0.png \(corrupt in the archive \(.*\)\): 1 sample cannot be"):
        module_of(archive).setup()
