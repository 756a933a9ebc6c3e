"""Parquet files and datasets saved to disk, written as Hugging Face's `datasets` writes them."""

import io
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from conf.errors import UserError
from datamodules.storage import row_file
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.row_file import Cell
from tests.conftest import ROOT
from tests.samples import error_of, module_of, noise, read

NAMES = ["ant", "bee"]
IMAGES = pa.struct({"bytes": pa.binary(), "path": pa.string()})
FEATURES = {"image": {"_type": "Image"}, "label": {"names": NAMES, "_type": "ClassLabel"}}
PIXELS = noise(12, 6, 5, 3)


def encoded(pixels: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def rows(labels: Sequence[object], features: Any = FEATURES, **columns: Sequence[object]) -> pa.Table:
    """A table of one image for each label, and more columns."""
    cells = [{"bytes": encoded(PIXELS[i % 12]), "path": f"{i}.png"} for i in range(len(labels))]
    table = pa.table({"image": pa.array(cells, IMAGES), "label": pa.array(labels), **columns})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features else None
    return table.replace_schema_metadata(metadata)


def write(path: Path, table: pa.Table, **options: Any) -> Path:
    """A file of the format that its suffix names; Arrow as a stream."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        pq.write_table(table, path, **{"row_group_size": 5} | options)
    else:
        with pa.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table, max_chunksize=5)
    return path


def save_to_disk(folder: Path, table: pa.Table, features: Any = FEATURES) -> None:
    """A `Dataset`, in two files."""
    names = [f"data-{i:05d}-of-00002.arrow" for i in range(2)]
    half = len(table) // 2
    for name, part in zip(names, (table[:half], table[half:]), strict=True):
        write(folder / name, part)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))


def test_parquet_files_of_splits_hold_the_images_written(tmp_path: Path) -> None:
    write(tmp_path / "data" / "train-00000-of-00002.parquet", rows([0, 1] * 4))
    write(tmp_path / "data" / "train-00001-of-00002.parquet", rows([1, 0]))
    write(tmp_path / "data" / "test-00000-of-00001.parquet", rows([1] * 12))
    write(tmp_path / "data" / "extra-00000-of-00001.parquet", rows([1] * 3))
    (tmp_path / "README.md").write_text("About.")
    module = module_of(tmp_path)
    splits, names = module.read()
    assert names == NAMES
    assert {name: samples.labels.tolist() for name, samples in splits.items()} == {
        "train": [0, 1] * 4 + [1, 0], "test": [1] * 12,
    }  # fmt: skip
    assert splits["train"].files[7:9] == ["train-00000-of-00002.parquet: row 7", "train-00001-of-00002.parquet: row 0"]
    unused = "extra-00000-of-00001.parquet"
    assert module.layout == f"4 Parquet files; splits: train, test; not used: {unused}"
    decoded = decode_all(splits["test"].items, ImageSpec(3, (6, 5), "pad", False))
    np.testing.assert_array_equal(decoded.pixels.transpose(0, 2, 3, 1), PIXELS)


@pytest.mark.parametrize("in_schema", [True, False])
def test_dataset_saved_to_disk_is_read_with_its_classes(tmp_path: Path, in_schema: bool) -> None:
    for split in ("train", "validation"):
        save_to_disk(tmp_path / split, rows([0, 1, 1, 0, 1, 0], FEATURES if in_schema else None))
    write(tmp_path / "train" / "cache-0a1b2c.arrow", rows([0, 0]))  # a result of map
    (tmp_path / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    splits, names = module_of(tmp_path).read()
    assert names == NAMES
    assert {name: samples.labels.tolist() for name, samples in splits.items()} == {
        "train": [0, 1, 1, 0, 1, 0], "val": [0, 1, 1, 0, 1, 0],
    }  # fmt: skip
    assert splits["val"].files[3] == "validation/data-00001-of-00002.arrow: row 0"
    decoded = decode_all(splits["train"].items, ImageSpec(3, (6, 5), "pad", False))
    np.testing.assert_array_equal(decoded.pixels.transpose(0, 2, 3, 1), PIXELS[[0, 1, 2, 3, 4, 5]])


def test_single_dataset_and_single_file_are_read(tmp_path: Path) -> None:
    save_to_disk(tmp_path / "whole", rows([0, 1] * 6))
    assert len(read(tmp_path / "whole")[0]["train"]) == 12
    assert len(read(tmp_path / "whole" / "data-00000-of-00002.arrow")[0]["train"]) == 6
    with pa.ipc.new_file(tmp_path / "other.arrow", rows([0]).schema) as writer:
        writer.write_table(rows([0, 1] * 4))
    assert len(read(tmp_path / "other.arrow")[0]["train"]) == 8


def test_plain_bytes_and_texts_need_no_features(tmp_path: Path) -> None:
    table = pa.table({"jpg": [encoded(image) for image in PIXELS], "class": ["bee", "ant"] * 6})
    splits, names = module_of(write(tmp_path / "a.parquet", table)).read()
    assert names == NAMES and splits["train"].labels.tolist() == [1, 0] * 6
    numbers = write(tmp_path / "b.parquet", rows([10.0, 2.0] * 6, None))
    assert read(numbers)[1] == ["2", "10"]


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize(("label", "features"), [(-1, FEATURES), (None, FEATURES), (-1, None), ("", None)])
def test_split_without_labels_is_not_used(tmp_path: Path, suffix: str, label: object, features: Any) -> None:
    train = rows(["ant", "bee"] * 4, None) if label == "" else rows([0, 1] * 4, features)
    test = rows([label] * 3, features)
    if label is None:
        test = test.set_column(1, "label", pa.array([None] * 3, pa.int64()))
    write(tmp_path / f"train-0.{suffix}", train)
    write(tmp_path / f"test-0.{suffix}", test)
    module = module_of(tmp_path)
    splits, _ = module.read()
    assert list(splits) == ["train"] and len(splits["train"].labels) == 8
    assert module.layout.endswith(f"; splits: train; not used: test-0.{suffix} (no labels)")


def test_minus_one_of_two_numbers_is_a_class(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", rows([-1, 1] * 4, None))
    write(tmp_path / "test.parquet", rows([-1] * 3, None))
    splits, names = read(tmp_path)
    assert names == ["-1", "1"] and len(splits["test"]) == 3


def test_columns_of_splits_and_groups_are_read(tmp_path: Path) -> None:
    splits = ["train"] * 6 + ["valid"] * 3 + ["test"] * 3
    table = rows([0, 1] * 6, split=splits, patient=[i // 3 for i in range(12)])
    found, _ = module_of(write(tmp_path / "a.parquet", table)).read()
    assert {name: len(samples.labels) for name, samples in found.items()} == {"train": 6, "val": 3, "test": 3}
    assert found["train"].groups is not None and found["train"].groups.tolist() == [0] * 3 + [1] * 3


def test_chosen_columns_are_read(tmp_path: Path) -> None:
    table = rows([0, 1] * 6, None, mask=pa.array([{"bytes": b""}] * 12), kind=["b", "a"] * 6)
    path = write(tmp_path / "a.parquet", table)
    assert error_of(path) == f"{path}: has 2 columns of images; datamodule.columns.path=… of: image, mask"
    splits, names = module_of(path, columns={"path": "image", "label": "kind"}).read()
    assert names == ["a", "b"] and splits["train"].labels.tolist() == [1, 0] * 6


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ({"label": ["label", "image"]}, "datamodule.columns.label: ['label', 'image'] are several; give one"),
        ({"label": "lable"}, "datamodule.columns.label: {file} has no column 'lable'; did you mean 'label'?"),
        ({"path": "label"}, "{file}: column 'label' holds no image files; choose by datamodule.columns.path=…"),
        ({"fold": "label"}, "datamodule.columns.fold: is read from tables only; give a column of splits"),
        ({"label": "image"}, "{file}: row 0: the label is a dict, not one; choose another column"),
        ({"split": "label"}, "{file}: row 0: '0' is not a split; write train, val or test"),
    ],
)
def test_wrong_choice_of_columns_is_refused(tmp_path: Path, columns: Any, problem: str) -> None:
    file = write(tmp_path / "a.parquet", rows([0, 1]))
    with pytest.raises(UserError) as caught:
        module_of(file, columns=columns).read()
    assert str(caught.value) == problem.format(file=file)


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        (2, "{path}: row 3: the label 2 is none of the 2 classes; correct it"),
        (-1, "train.parquet: row 3: has no label; remove the row, or label it"),
    ],
)
def test_label_of_no_class_is_refused(tmp_path: Path, label: int, problem: str) -> None:
    path = write(tmp_path / "train.parquet", rows([0, 1, 1, label]))
    assert error_of(path) == problem.format(path=path)


def test_files_of_several_collections_are_refused(tmp_path: Path) -> None:
    for name in ("large", "small"):
        write(tmp_path / name / "train-0.parquet", rows([0, 1]))
    problem = f"{tmp_path} holds several collections: large and small; give one of them"
    assert error_of(tmp_path) == f"datamodule.root: {problem}"
    other = FEATURES | {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    first = write(tmp_path / "mixed" / "test.parquet", rows([0, 1]))
    second = write(tmp_path / "mixed" / "train.parquet", rows([0, 1], other))
    assert error_of(tmp_path / "mixed") == f"{second}: its classes are not those of {first}; give one collection"


def test_incomplete_dataset_is_refused(tmp_path: Path) -> None:
    save_to_disk(tmp_path, rows([0, 1] * 6))
    missing = tmp_path / "data-00001-of-00002.arrow"
    missing.unlink()
    assert error_of(tmp_path) == f"{missing}: is missing, but state.json names it; copy the whole dataset"
    for text in ("{", '{"_data_files": [3]}'):
        (tmp_path / "state.json").write_text(text)
        assert error_of(tmp_path).startswith(f"{tmp_path / 'state.json'}: ")


@pytest.mark.parametrize("suffix", ["parquet", "arrow"])
@pytest.mark.parametrize("keep", [0, 3, 200, 1500])
def test_cut_file_is_refused_in_one_line(tmp_path: Path, suffix: str, keep: int) -> None:
    path = write(tmp_path / f"a.{suffix}", rows([0, 1] * 6))
    path.write_bytes(path.read_bytes()[:keep])
    line = error_of(path)
    assert line.startswith(f"{path}: cannot be read (") and line.endswith("); is it complete?")


def test_offsets_beyond_a_file_are_not_followed(tmp_path: Path) -> None:
    path = write(tmp_path / "a.arrow", pa.table({"image": [b"x" * 10, b"y" * 10], "label": [0, 1]}))
    offsets = np.array([0, 10, 20], np.int32).tobytes()
    content = path.read_bytes()
    assert content.count(offsets) == 1
    path.write_bytes(content.replace(offsets, np.array([0, 2**30, 20], np.int32).tobytes()))
    assert len(read(path)[0]["train"]) == 2
    for row in range(2):
        with pytest.raises(OSError, match="its row cannot be read"):
            Cell(str(path), "image", 0, row).read_bytes()


def test_corrupt_pages_make_their_rows_unreadable(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", rows([0, 1] * 6), compression="snappy")
    content = bytearray(path.read_bytes())
    first = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content[first.data_page_offset : first.data_page_offset + 200] = b"?" * 200
    path.write_bytes(content)
    splits, _ = module_of(path).read()
    decoded = decode_all(splits["train"].items, ImageSpec(3, (6, 5), "pad", False))
    assert list(decoded.bad) == [5, 6, 7, 8, 9]
    assert decoded.bad[5].startswith("its row cannot be read (")


def test_row_without_image_is_unreadable_alone(tmp_path: Path) -> None:
    table = rows([0, 1])
    cells = pa.array([{"bytes": None, "path": "/etc/passwd"}, {"bytes": encoded(PIXELS[1]), "path": None}], IMAGES)
    splits, _ = module_of(write(tmp_path / "a.parquet", table.set_column(0, "image", cells))).read()
    decoded = decode_all(splits["train"].items, ImageSpec(3, (6, 5), "pad", False))
    assert decoded.bad == {0: "the row holds no image; a path alone is not followed"}
    assert decoded.pixels[1].any()


def test_row_group_beyond_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_file, "MAX_GROUP_BYTES", 100)
    path = write(tmp_path / "a.parquet", rows([0, 1]))
    assert error_of(path) == f"{path}: row group 0 has 0.0 GiB; write it with row_group_size=100"


def test_pyarrow_is_imported_only_for_its_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys, datamodules.layouts.parquet as _; sys.exit('pyarrow' in sys.modules or 's3fs' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0
    path = write(tmp_path / "a.parquet", rows([0, 1]))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    assert error_of(path) == 'datamodule.root: pyarrow is not installed; pip install -e ".[formats]"'
