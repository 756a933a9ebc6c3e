"""Images and shards in an S3-compatible store."""

import json
import multiprocessing
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from conf.errors import UserError
from datamodules.layouts import object_store as layouts
from datamodules.storage import cache
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.stored_file import ByteRange, fetch, object_store
from tests.samples import error_of, labels, module_of, pixels
from tests.stores import URL, Store, png, running_store, shard, tar, write_shards

SPEC = ImageSpec(3, (12, 12), "pad", True)


@pytest.fixture(scope="module")
def running() -> Iterator[Store]:
    with running_store() as store:
        yield store


@pytest.fixture
def store(running: Store) -> Store:
    running.clear()
    return running


def streamed(root: Path | str, cache_dir: Path, **changes: Any) -> Any:
    module = module_of(root, **{"cache": "off", "cache_dir": str(cache_dir), "channels": 3, "image_size": 12} | changes)
    module.setup()
    return module


@pytest.mark.parametrize("choice", [{"cache": "disk"}, {"channels": "auto", "image_size": None}])
def test_shards_in_a_store_are_those_on_disk(store: Store, tmp_path: Path, choice: dict[str, Any]) -> None:
    folder = write_shards(tmp_path / "shards", count=2, samples=16)
    store.put("shards/", b"")  # a console's mark of a folder
    remote, local = (streamed(root, tmp_path, **choice) for root in (store.upload(folder), folder))
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(pixels(remote, split), pixels(local, split))
        assert labels(remote, split) == labels(local, split)
        assert remote.files(split) == local.files(split)


def test_class_folders_and_tables_in_a_store_are_read(store: Store, tmp_path: Path) -> None:
    for i in range(20):
        store.put(f"folders/{'ant' if i % 2 else 'bee'}/{i}.png", png(i % 2, i))
        store.put(f"table/{i}.png", png(i % 2, i))
    rows = "".join(f"{i}.png,{'ant' if i % 2 else 'bee'}\n" for i in range(20))
    store.put("table/labels.csv", b"file,label\n" + rows.encode())
    for name in ("folders", "table"):
        module = streamed(f"s3://images/{name}", tmp_path)
        assert module.class_names == ["ant", "bee"]
        assert pixels(module, "train").shape == (12, 3, 12, 12)


def test_one_shard_is_a_source_too(store: Store, tmp_path: Path) -> None:
    store.put("shards/a.tar", shard(0, 20))
    assert streamed(f"{URL}/a.tar", tmp_path).layout == "1 WebDataset shard"


def test_shards_are_listed_once(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.put("shards/a.tar", shard(0, 20))
    first = streamed(URL, tmp_path)
    monkeypatch.setattr(type(object_store()), "open", None)
    assert streamed(URL, tmp_path).files("train") == first.files("train")
    store.put("shards/a.tar", shard(100, 20))
    with pytest.raises(TypeError):  # another version is listed again
        streamed(URL, tmp_path)


WRONG_ENTRIES = [
    [],
    {},
    {"members": [["00000.png", 0]]},
    {"members": [["00000.png", "0", 10]]},
    {"members": [["00000.png", 0, 10**6]]},  # beyond the object
    {"members": [["00000.png", 0, 10**9]]},
    {"members": [["00000.png", -1, 10]]},
    {"labels": {"00000.cls": "올"}},
    {"labels": {"00000.cls": 5}},
]


def test_corrupt_index_is_made_again(store: Store, tmp_path: Path) -> None:
    store.put("shards/a.tar", shard(0, 20))
    folder = layouts.open_bucket(URL)
    archives = list(folder.files.values())
    (whole,) = layouts.open_archives(archives, tmp_path)
    (file,) = tmp_path.glob("shards/*.json")
    text = file.read_text()
    wrong = [json.dumps(json.loads(text) | entry if entry else entry) for entry in WRONG_ENTRIES]
    for corrupt in ("", "{", "[" * 100_000, *wrong):
        file.write_text(corrupt)
        (again,) = layouts.open_archives(archives, tmp_path)
        assert again.files == whole.files and len(again.files) == 40
        assert file.read_text() == text, corrupt[:80]


def test_cache_folder_that_cannot_be_written_is_not_needed(store: Store, tmp_path: Path) -> None:
    store.put("shards/a.tar", shard(0, 20))
    (tmp_path / "file").write_text("")
    assert len(streamed(URL, tmp_path / "file" / "cache").files("train")) == 12


def test_replaced_object_is_another_cache_entry() -> None:
    first, second = ByteRange(URL, 0, 9, "a"), ByteRange(URL, 0, 9, "b")
    assert cache.fingerprint([first], ()) != cache.fingerprint([second], ())


def test_other_processes_and_threads_read_the_store(store: Store) -> None:
    store.put("shards/a.png", png(1, 0))
    items = [ByteRange(f"{URL}/a.png", 0, len(png(1, 0)))] * 3
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        decoded = pool.submit(partial(decode_all, spec=SPEC), items).result()
    np.testing.assert_array_equal(decoded.pixels, decode_all(items, SPEC).pixels)
    assert not decoded.bad and decoded.pixels.any()


def test_file_of_no_bytes_is_unreadable_alone(store: Store) -> None:
    store.put("shards/a.png", png(1, 0))
    items = [ByteRange(f"{URL}/a.png", 0, 0), ByteRange(f"{URL}/a.png", 0, len(png(1, 0)))]
    assert decode_all(items, SPEC).bad == {0: "the file is empty"}


@pytest.fixture
def new_client() -> Iterator[None]:
    """For other variables than those of the store."""
    object_store.cache_clear()
    yield
    object_store.cache_clear()


def line_of(root: str, tmp_path: Path) -> str:
    with pytest.raises(UserError) as caught:
        streamed(root, tmp_path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_missing_bucket_and_objects_are_named(store: Store, tmp_path: Path) -> None:
    missing = "is not in the store; check its name, or restore it and resume by run=…"
    assert line_of("s3://nobody/x", tmp_path) == f"s3://nobody/x: {missing}"
    assert line_of(URL, tmp_path) == f"datamodule.root: {URL} holds no objects; check its name"
    assert "Cannot traverse all of S3" in line_of("s3://", tmp_path)


def test_wrong_and_missing_credentials_are_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fix = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, then resume by run=…"
    store.configure("reset-auth", b"0")  # requests before moto checks credentials
    try:
        line = line_of(URL, tmp_path)
    finally:
        store.configure("reset-auth", b"inf")
    assert line.startswith(f"{URL}: access is denied (The AWS Access Key Id") and line.endswith(fix)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    object_store.cache_clear()
    assert line_of(URL, tmp_path) == f"{URL}: access is denied (Unable to locate credentials); {fix}"


@pytest.mark.usefixtures("new_client")
def test_store_that_does_not_answer_is_named(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setattr("s3fs.S3FileSystem.retries", 1)
    line = line_of(URL, tmp_path)
    assert line.startswith(f"{URL}: cannot be read (EndpointConnectionError: Could not connect to the endpoint")
    assert line.endswith("); check AWS_ENDPOINT_URL and the network, then resume by run=…")


def test_object_that_changes_during_a_run_is_named(store: Store, tmp_path: Path) -> None:
    store.put("shards/a.tar", shard(0, 20))
    store.put("shards/b.tar", shard(20, 20))
    module = streamed(URL, tmp_path)
    store.remove("shards/b.tar")
    with pytest.raises(UserError, match=rf"^{URL}/b\.tar: is not in the store; .* resume by run=…$"):
        list(module.batches("train"))
    store.put("shards/b.tar", shard(20, 20)[:700])
    with pytest.raises(UserError, match=rf"^{URL}/b\.tar: .*resume by run=…$"):
        list(module.batches("train"))
    store.put("shards/b.tar", shard(20, 20))
    assert pixels(module, "train").any()


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("a.tar", b"nonsense" * 100, "cannot be read (invalid header); is it complete?"),
        ("a.tar", shard(0, 9).partition(b"00001.png")[0], "cannot be read (the end is missing); is it complete?"),
        ("a.tar", tar({"../a.png": b""}), "the member '../a.png' is outside of the archive; a sound archive has none"),
        ("a.zip", b"PK", "only tar archives are read in a store; download it"),
        ("a.parquet", b"PAR1", "is not read in a store; download it, or write tar shards"),
    ],
)
def test_unfit_object_is_refused(store: Store, tmp_path: Path, name: str, content: bytes, problem: str) -> None:
    store.put(f"shards/{name}", content)
    assert line_of(URL, tmp_path) == f"{URL}/{name}: {problem}"


def test_huge_image_is_refused(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "MAX_MEMBER_BYTES", 100)
    store.put("shards/ant/a.png", png(0, 0))
    assert line_of(URL, tmp_path).endswith("a.png: has 0.0 GiB; an image has less than 0.5")


@pytest.mark.usefixtures("new_client")
def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    assert error_of(URL) == 'datamodule.root: s3fs is not installed; pip install -e ".[formats]"'
    assert fetch(["a.png"]) == ["a.png"]
