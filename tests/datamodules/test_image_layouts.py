"""Images as people have them are read as they are meant."""

from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from PIL import Image

from datamodules.layouts.folder import DiskFolder
from datamodules.layouts.named_images import ImageFinder
from tests.datamodules.layout_files import make, pack
from tests.samples import module_of, numbered, put

PAIR = {"ant": 2, "bee": 2}


class Layout(NamedTuple):
    """Folders with two images each, texts by file name, and what they must be read as."""

    folders: str
    """With {a,b} for both, as in a shell"""
    expected: dict[str, dict[str, int]]
    """Split → class → number of samples"""
    texts: dict[str, str | bytes] = {}  # noqa: RUF012
    settings: dict[str, Any] = {}  # noqa: RUF012
    root: str = ""
    packed: str = ""
    """The suffix of the archive into which all is moved"""


def table(*rows: str) -> str:
    return "\n".join(rows) + "\n"


GREY = ",".join(f"pixel{i}" for i in range(4))
RGB = ",".join(f"pixel{i:04d}" for i in range(12))
NAMES = "ant/0.png", "ant/1.png", "bee/0.png", "bee/1.png"
LABELS = table("path,label", *(f"{name},{name[:3]}" for name in NAMES))
TRAIN, TEST = table("0,ant", "1,bee"), table("0,bee", "1,bee")
LAYOUTS = {
    # Folders
    "class folders": Layout("{ant,bee}", {"train": PAIR}),
    "a wrapping folder": Layout("archive/dataset/{ant,bee}", {"train": PAIR}),
    "words in capitals": Layout("{TRAIN,TEST}/{ant,bee}", {"train": PAIR, "test": PAIR}),
    "Training, Testing": Layout("data/{Training,Testing}/{ant,bee}", {"train": PAIR, "test": PAIR}),
    "repeated folders": Layout(
        "seg_train/seg_train/{ant,bee} seg_test/seg_test/{ant,bee}", {"train": PAIR, "test": PAIR}
    ),
    "sets": Layout("{train_set,dev-set,testset}/{ant,bee}", {"train": PAIR, "val": PAIR, "test": PAIR}),
    "years": Layout("{train,val}2017/{ant,bee}", {"train": PAIR, "val": PAIR}),
    "traces of a Mac": Layout("{ant,bee,__MACOSX/ant}", {"train": PAIR}, {"ant/._0.png": "x", ".DS_Store": "x"}),
    "traces of Windows": Layout("{ant,bee}", {"train": PAIR}, {"ant/Thumbs.db": "x", "desktop.ini": "x"}),
    "test images without labels": Layout("train/{ant,bee} test", {"train": PAIR}),
    "folders within classes": Layout("ant/{2024,2025} bee/old/june", {"train": {"ant": 4, "bee": 2}}),
    "words of other classes": Layout("{hot,dog}", {"train": {"hot": 2, "dog": 2, "hot dog": 1}}, {"hot dog/0.png": ""}),
    "patients within classes": Layout("ill/{p1,p2} well/{p3,p4}", {"train": {"ill": 4, "well": 4}}),
    "loosely named splits": Layout(
        "signs_train/signs_train/{A,B} signs_test/signs_test/{A,B}",
        {"train": {"A": 2, "B": 2}, "test": {"A": 2, "B": 2}},
    ),
    "folders without images": Layout(
        "birds/images/{ant,bee}", {"train": PAIR}, {"birds/parts/b/c.dat": "x", "a.txt": "x", "docs/x": "x"}
    ),
    # Tables
    "a table beside a folder of folders": Layout(
        "images/{part_p,part_q}", {"train": {"ant": 1, "bee": 1}},
        {"t.csv": "path,label\npart_p/0,ant\npart_q/1,bee\n"},
    ),
    "a table of images in parts": Layout(
        "x_part_{1,2}", {"train": {"nv": 2, "mel": 1}},
        {"metadata_of_x.csv": "image_id,dx,age\nx_part_1/0,nv,3\nx_part_2/0,nv,4\nx_part_2/1,mel,5\n"},
        root="metadata_of_x.csv",
    ),
    "an example of a submission": Layout(
        "train test", {"train": {"ant": 1, "bee": 1}},
        {"trainLabels.csv": "id,label\n0,ant\n1,bee\n", "sample_submission.csv": "id,label\n0,x\n1,x\n"},
    ),
    "an example beside the labels": Layout(
        "images", {"train": {"ant": 1, "bee": 1}},
        {"labels.csv": "id,label\n0,ant\n1,bee\n", "sample_submission.csv": "id,label\n0,x\n1,x\n"},
    ),
    "a folder within the split": Layout(
        "train/train", {"train": {"ant": 1, "bee": 1}}, {"train.csv": "id,label\n0,ant\n1,bee\n"}
    ),
    "numbers beside class folders": Layout(
        "Train/{0,1}", {"train": {"0": 2, "1": 2}}, {"Train.csv": "Path,ClassId\nTrain/0/0.png,0\nTrain/1/0.png,1\n"}
    ),
    "True and False": Layout(
        "x", {"train": {"a": 1, "b": 1}}, {"t.csv": "id,a,b\n0,True,False\n1,False,True\n"}, root="t.csv"
    ),
    "a table": Layout("{ant,bee}", {"train": PAIR}, {"t.csv": LABELS}, root="t.csv"),
    "ids of images in a folder": Layout(
        "train test", {"train": {"ant": 1, "bee": 1}}, {"labels.csv": "id,breed\n" + TRAIN}, {"image_dir": "train"}
    ),
    "folders for each table": Layout(
        "{train,test}_images", {"train": {"ant": 1, "bee": 1}, "test": {"bee": 2}},
        {"train.csv": "image_id,label\n" + TRAIN, "test.csv": "image_id,label\n" + TEST},
    ),
    "a test table without labels": Layout(
        "{train,test}_images", {"train": {"ant": 1, "bee": 1}},
        {"train.csv": "image_id,label\n" + TRAIN, "test.csv": "image_id,width\n0,9\n1,9\n"},
    ),
    "one-hot columns": Layout(
        "images", {"train": {"MEL": 1, "NV": 1}}, {"truth.csv": "image,MEL,NV,BCC\n0,1.0,0.0,0.0\n1,0.0,1.0,0.0\n"}
    ),
    "backslashes": Layout("{ant,bee}", {"train": PAIR}, {"t.csv": LABELS.replace("/", "\\")}, root="t.csv"),
    "UTF-16 with tabs": Layout(
        "{ant,bee}", {"train": PAIR}, {"t.csv": LABELS.replace(",", "\t").encode("utf-16")}, root="t.csv"
    ),
    "Excel's line": Layout(
        "{ant,bee}", {"train": PAIR}, {"t.csv": "sep=;\r\n" + LABELS.replace(",", ";")}, root="t.csv"
    ),
    "a column of splits": Layout(
        "{ant,bee}", {"train": {"ant": 2, "bee": 1}, "val": {"bee": 1}},
        {
            "t.csv": table(
                "filepaths,labels,data set", *(f"{name},{name[:3]},train" for name in NAMES[:3]), "bee/1.png,bee,valid"
            )
        },
        root="t.csv",
    ),
    "a column of folds": Layout(
        "{ant,bee}", {"train": {"ant": 1, "bee": 1}, "test": {"ant": 1, "bee": 1}},
        {"t.csv": table("file,target,fold", *(f"{n},{n[:3]},{n[4]}.0" for n in NAMES))}, {"fold": 1}, "t.csv",
    ),
    "metadata.csv": Layout(
        "images", {"train": {"x": 2}}, {"metadata.csv": "file_name,label\nimages/0.png,x\nimages/1.png,x\n"}
    ),
    "metadata.jsonl in splits": Layout(
        "{train,test}", {"train": {"3": 1, "4": 1}, "test": {"3": 2}},
        {
            "train/metadata.jsonl": '{"file_name": "0.png", "label": 3}\n{"file_name": "1.png", "label": 4}\n',
            "test/metadata.jsonl": '{"label": 3, "file_name": "0.png"}\n{"file_name": "1.png", "label": 3}\n',
        },
    ),
    "chosen columns": Layout(
        "images", {"train": {"ant": 1, "bee": 1}}, {"t.csv": "id_code,diagnosis,age\n0,ant,3\n1,bee,4\n"},
        {"columns": {"path": "ID_code", "label": "diagnosis"}}, "t.csv",
    ),
    "unlabelled rows": Layout(
        "images", {"train": {"ant": 1}}, {"t.csv": "id,label\n0,ant\n1,\n"}, {"on_error": "skip"}, "t.csv"
    ),
    "both in one folder": Layout("{ant,bee}", {"train": PAIR}, {"labels.csv": LABELS}),
    # Names and lists
    "labels in names": Layout(
        "train", {"train": {"cat": 1, "dog": 1}}, {"train/cat.0.jpg": "", "train/dog.7.jpg": "", "test1/1.jpg": ""},
        {"label_pattern": r"(?P<label>[a-z]+)\.\d+"},
    ),
    "splits in names": Layout(
        "x", {"train": {"cat": 1}, "test": {"dog": 1}}, {"x/train_cat7.jpg": "", "x/test_dog8.jpg": ""},
        {"label_pattern": r"(?P<split>train|test)_(?P<label>[a-z]+)"},
    ),
    "lists with numbers": Layout(
        "images", {"train": {"3": 1}, "val": {"3": 1}}, {"train.txt": "images/0.png 3\n", "val.txt": "images/1.png 3\n"}
    ),
    "lists below the folder": Layout(
        "images/{ant,bee}", {"train": {"ant": 2, "bee": 1}, "test": {"bee": 1}},
        {"meta/train.txt": "ant/0\nant/1\nbee/0\n", "meta/test.txt": "bee/1\n", "meta/labels.txt": "Ant\n"},
        root="meta",
    ),
    "names below a wrapper": Layout(
        "", {"train": {"cat": 1}, "test": {"dog": 1}}, {"x/train/cat.0.jpg": "", "x/test/dog.0.jpg": ""},
        {"label_pattern": r"(?P<label>[a-z]+)\.\d"},
    ),
    # Pixels
    "grey pixels": Layout(
        "", {"train": {"0": 1, "1": 1}, "test": {"1": 1}},
        {"mnist_train.csv": f"label,{GREY}\n0,1,2,3,4\n1,5,6,7,255\n", "mnist_test.csv": f"label,{GREY}\n1,1,2,3,4\n"},
    ),
    "colours": Layout("", {"train": {"0": 1}}, {"t.csv": f"{RGB},label\n1,2,3,4,5,6,7,8,9,10,11,12,0\n"}, root="t.csv"),
    "pixels in a cell": Layout(
        "", {"train": {"0": 1}, "val": {"0": 1}},
        {"t.csv": "emotion,pixels,Usage\n0,1 2 3 4,Training\n0,5 6 7 8,PublicTest\n"}, root="t.csv",
    ),
    # Archives
    "zip of class folders": Layout("data/{ant,bee,__MACOSX}", {"train": PAIR}, packed=".zip"),
    "zip of splits": Layout("{train,test}/{ant,bee}", {"train": PAIR, "test": PAIR}, packed=".zip"),
    "zip of a table": Layout("images", {"train": {"ant": 1, "bee": 1}}, {"t.csv": "id,label\n" + TRAIN}, packed=".zip"),
    "tar of class folders": Layout("{ant,bee}", {"train": PAIR}, packed=".tar"),
    "tar of lists": Layout("x", {"train": {"3": 1}}, {"train.txt": "x/0.png 3\n"}, packed=".tar"),
    "WebDataset": Layout("x", {"train": {"7": 1, "10": 1}}, {"x/0.cls": "10", "x/1.cls": "7"}, packed=".tar"),
    "WebDataset with JSON": Layout(
        "x", {"train": {"b": 2}}, {"x/0.json": '{"label": "b"}', "x/1.json": '{"label": "b"}'}, packed=".tar"
    ),
}  # fmt: skip


def counts(root: Path, **settings: Any) -> dict[str, dict[str, int]]:
    splits, names = module_of(root, **settings).read()
    return {split: dict(Counter(names[label] for label in samples.labels)) for split, samples in splits.items()}


@pytest.mark.parametrize("name", LAYOUTS)
def test_layout_is_read_as_it_is_meant(tmp_path: Path, name: str) -> None:
    layout = LAYOUTS[name]
    root = tmp_path / "data"
    root.mkdir()
    make(root, layout.folders, layout.texts)
    root = pack(root, layout.packed) if layout.packed else root / layout.root
    assert counts(root, **layout.settings) == layout.expected


def test_archives_in_a_folder_are_read_as_if_unpacked(tmp_path: Path) -> None:
    for name in ("n01", "n02"):
        put(tmp_path / "classes" / name, *numbered(3))
        pack(tmp_path / "classes" / name, ".tar").with_name("moved").rename(tmp_path / name)
    assert counts(tmp_path / "classes") == {"train": {"n01": 3, "n02": 3}}
    for split in ("train", "test"):
        make(tmp_path / "kaggle" / split, "{ant,bee}", {})
        pack(tmp_path / "kaggle" / split, ".zip").with_name("moved").rename(tmp_path / split)
    assert counts(tmp_path / "kaggle") == {"train": PAIR, "test": PAIR}


@pytest.mark.parametrize("suffix", [".zip", ".tar"])
def test_archive_gives_the_pixels_of_its_folder(tmp_path: Path, suffix: str) -> None:
    for level, name in enumerate(("ant", "bee")):
        put(tmp_path / "data" / name, *numbered(8), level=60 + 90 * level)
    folder = module_of(tmp_path / "data")
    folder.setup()
    archive = module_of(pack(tmp_path / "data", suffix))
    archive.setup()
    for split in ("train", "val", "test"):
        assert list(archive.files(split)) == list(folder.files(split))
        assert archive.samples(split, archive._splits[split].labels * 0).equal(
            folder.samples(split, folder._splits[split].labels * 0)
        )
    assert archive.digests["train"].tolist() == folder.digests["train"].tolist()


def test_pixels_of_a_table_are_the_image(tmp_path: Path) -> None:
    make(tmp_path, "", {"t.csv": f"label,{RGB}\n0,1,2,3,4,5,6,7,8,9,10,11,12\n"})
    splits, _ = module_of(tmp_path / "t.csv").read()
    image: Image.Image = splits["train"].items[0]
    assert image.mode == "RGB" and image.getpixel((1, 0)) == (4, 5, 6) and image.getpixel((0, 1)) == (7, 8, 9)


def test_exact_path_wins_over_a_search(tmp_path: Path) -> None:
    make(tmp_path, ". other", {})
    finder = ImageFinder(DiskFolder(tmp_path), None, ["a name that is not there"])
    assert finder.find("row 2", "0.png", None) == str(tmp_path / "0.png")
    assert finder.find("row 3", "other/1", None) == str(tmp_path / "other" / "1.png")


def test_numbers_are_in_numeric_order(tmp_path: Path) -> None:
    rows = [f"{i}.png,{i}" for i in range(12)]
    make(tmp_path, "", {"t.csv": table("path,label", *rows)})
    assert module_of(tmp_path / "t.csv").read()[1] == [str(i) for i in range(12)]


def test_layout_is_described_in_one_line(tmp_path: Path) -> None:
    make(tmp_path / "a", "train/{ant,bee} valid/{ant,bee} test extra/ant", {"train/ant/notes.md": "x"})
    module = module_of(tmp_path / "a")
    module.read()
    assert module.layout == ("class folders; splits: train, val (valid); not used: extra/, test/, train/ant/notes.md")
    make(tmp_path / "b", "images", {"t.csv": "id,breed,patient-id\n0,ant,p\n1,bee,q\n"})
    module = module_of(tmp_path / "b")
    module.read()
    assert module.layout == "table t.csv (image: id, group: patient-id, label: breed); 2 groups"
