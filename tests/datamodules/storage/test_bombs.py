"""Small files that ask for much memory or time, and pipes, are refused in one line."""

import gzip
import io
import os
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tifffile
from PIL import Image

from conf.errors import UserError
from datamodules.image_stream import find
from datamodules.layouts.folder import MAX_DEPTH, DiskFolder, StoredFolder
from datamodules.storage import memory, row_file
from datamodules.storage.array_file import read_array
from datamodules.storage.array_form import ArrayForm
from datamodules.storage.decode import ImageSpec, decode_all
from tests.samples import error_of, numbered, put

DEEP = f"{'p/' * 3000}x.png"


def png() -> bytes:
    file = io.BytesIO()
    Image.new("L", (4, 4)).save(file, "PNG")
    return file.getvalue()


def zip_of(path: Path, names: list[str]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, png())


def tar_of(path: Path, names: list[str]) -> None:
    with tarfile.open(path, "w") as archive:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = len(png())
            archive.addfile(member, io.BytesIO(png()))


@pytest.mark.parametrize("suffix", ["zip", "tar"])
def test_nested_folders_of_an_archive_are_limited(tmp_path: Path, suffix: str) -> None:
    file = tmp_path / f"deep.{suffix}"
    {"zip": zip_of, "tar": tar_of}[suffix](file, [*(f"{name}/{i}.png" for name in "ab" for i in range(6)), DEEP])
    line = f"{file}: holds more than 64 folders within each other; move its images up"
    assert error_of(file) == line
    with pytest.raises(UserError, match="holds more than 64 folders"):
        find(str(file))


def test_nested_folders_on_disk_are_limited(tmp_path: Path) -> None:
    folder = tmp_path
    for _ in range(MAX_DEPTH + 1):
        folder /= "p"
    folder.parent.mkdir(parents=True)
    put(folder.parent, "0.png")
    assert len(list(DiskFolder(tmp_path).walk())) == 1
    put(folder, "1.png")
    with pytest.raises(UserError, match=f"^{tmp_path}: holds more than 64 folders within each other; "):
        list(DiskFolder(tmp_path).walk())


def test_many_folders_beside_each_other_are_read() -> None:
    names = [f"{i}/x.png" for i in range(3000)]
    assert len(StoredFolder("a.zip", [(name, None) for name in names]).folders) == 3000


def test_chain_of_long_names_in_a_tar_is_one_line(tmp_path: Path) -> None:
    header = tarfile.TarInfo("././@LongLink")
    header.type, header.size = tarfile.GNUTYPE_LONGNAME, 2
    (tmp_path / "a.tar").write_bytes((header.tobuf() + b"a\0".ljust(512, b"\0")) * 3000 + bytes(1024))
    line = error_of(tmp_path / "a.tar")
    assert line.startswith(f"datamodule.root: {tmp_path / 'a.tar'}: cannot be read (") and "\n" not in line


def test_parquet_file_claims_no_more_images_than_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    count = 500_000
    pq.write_table(pa.table({"image": [b"x"] * count, "label": np.zeros(count, np.int8)}), file)
    size = file.stat().st_size
    assert size < count / 100
    assert error_of(file) == f"{file}: claims 500,000 images in {size:,} bytes; write one image in each row"


@pytest.mark.parametrize("column", ["image", "label"])
def test_parquet_rows_that_repeat_a_large_value_are_limited(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, column: str
) -> None:
    values = {"image": [png()] * 200, "label": ["a", "b"] * 100}
    values[column] = [b"x" * 10_000] * 200 if column == "image" else ["x" * 10_000] * 200
    file = tmp_path / "a.parquet"
    pq.write_table(pa.table(values), file)
    monkeypatch.setattr(row_file, "MAX_GROUP_BYTES", 2**20)
    row_file._parquet_images.cache_clear()
    if column == "label":
        assert "row group 0 has more than 0 GiB" in error_of(file)
    else:
        decoded = decode_all([row_file.Cell(str(file), "image", 0, 0)], ImageSpec(1, (4, 4), "pad", False))
        assert "row group 0 has more than" in decoded.bad[0]


def write_npz(path: Path) -> None:
    np.savez_compressed(path, np.zeros((1, 3000, 9000), np.float32))


def write_tiff(path: Path) -> None:
    tifffile.imwrite(path, np.zeros((4096, 4096), np.uint8), compression="zlib")


def write_nifti(path: Path) -> None:
    header = bytearray(352)
    header[0:4] = (348).to_bytes(4, "little")
    header[40:56] = b"".join(n.to_bytes(2, "little") for n in (3, 500, 500, 500, 1, 1, 1, 1))
    header[70:74] = (2).to_bytes(2, "little") + (8).to_bytes(2, "little")
    header[76:108] = np.ones(8, "<f4").tobytes()
    header[108:112] = np.float32(352).tobytes()
    header[344:348] = b"n+1\0"
    path.write_bytes(gzip.compress(bytes(header)))


ARRAYS = {"a.npz": write_npz, "a.tif": write_tiff, "a.nii.gz": write_nifti}


@pytest.mark.parametrize("name", ARRAYS)
def test_array_that_does_not_fit_into_the_memory_is_unreadable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    ARRAYS[name](tmp_path / name)
    assert (tmp_path / name).stat().st_size < 500_000
    monkeypatch.setattr(memory, "free_memory", lambda: 2**26)
    reason = read_array(str(tmp_path / name), ArrayForm())
    assert (
        isinstance(reason, str)
        and reason.startswith("needs ")
        and reason.endswith(" GiB of memory, of which 0.1 are free")
    )


def test_labels_that_are_a_pipe_are_refused(tmp_path: Path) -> None:
    put(tmp_path, *numbered(12))
    os.mkfifo(tmp_path / "labels.csv")
    assert error_of(tmp_path).endswith(
        "labels.csv: is a pipe or a device, not a file; give a table with a column of paths and a column of labels"
    )


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt", "a.zip", "a.tar", "a.parquet", "a.arrow"])
def test_root_that_is_a_pipe_is_refused(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    assert "is a pipe or a device, not a file" in error_of(tmp_path / name)


@pytest.mark.parametrize("name", ["a.png", "a.npy", "a.npz", "a.tif", "a.dcm"])
def test_sample_that_is_a_pipe_or_a_device_is_unreadable(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    (tmp_path / f"device_{name}").symlink_to("/dev/zero")
    for file in (str(tmp_path / name), str(tmp_path / f"device_{name}")):
        if name == "a.png":
            reason = decode_all([file], ImageSpec(1, (4, 4), "pad", False)).bad[0]
        else:
            reason = str(read_array(file, ArrayForm()))
        assert reason == "is a pipe or a device, not a file"
