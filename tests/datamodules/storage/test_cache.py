"""A cache entry holds the pixels that decoding gives, is written once, and is rejected when corrupt."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.errors import UserError
from conf.files import remove_folder
from datamodules.storage import cache
from datamodules.storage.decode import Decoded, ImageSpec, decode_all, decode_to
from datamodules.storage.worker_pool import Workers
from tests.conftest import ROOT
from tests.datamodules.storage.work import SlowWorkers

SPEC = ImageSpec(3, (6, 5), "crop", True)
UNLIMITED = 10**9


def write_images(folder: Path, count: int, unreadable: tuple[int, ...] = ()) -> list[str]:
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:03d}.{'jpg' if i % 2 else 'png'}" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(generator.integers(0, 256, (9, 5 + i % 4, 3), dtype=np.uint8)).save(path)
        if i in unreadable:
            path.write_bytes(b"<html>")
    return [str(path) for path in paths]


def make(cache_dir: Path, paths: list[str], within: int = UNLIMITED) -> cache.CachedImages:
    with Workers(None, paths) as workers:
        return cache.make(cache_dir, cache.fingerprint(paths, SPEC), paths, SPEC, workers, within)


def read_all(entry: cache.CachedImages) -> np.ndarray:
    positions = np.arange(len(entry.digests))
    return np.concatenate([part.numpy() for part in entry.read(np.array_split(positions, 7))])


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return write_images(tmp_path / "images", 300)


def test_pixels_equal_decoding(tmp_path: Path, paths: list[str]) -> None:
    expected = decode_all(paths, SPEC).pixels
    assert np.array_equal(read_all(make(tmp_path / "cache", paths)), expected)
    entry = cache.find(tmp_path / "cache", cache.fingerprint(paths, SPEC), UNLIMITED)
    assert entry is not None and entry.spec == SPEC
    assert np.array_equal(read_all(entry), expected)
    rows = np.array([299, 3, 3, 128])
    assert np.array_equal(next(entry.read([rows])).numpy(), expected[rows])


def test_releasing_memory_changes_no_pixel(tmp_path: Path, paths: list[str]) -> None:
    expected = read_all(make(tmp_path / "cache", paths))
    assert np.array_equal(read_all(make(tmp_path / "cache", paths, within=0)), expected)


def resident() -> int:
    """Resident bytes of the files that this process maps."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc/self/status")
@pytest.mark.parametrize(("within", "grows"), [(2**20, False), (UNLIMITED, True)])
def test_entry_larger_than_memory_is_released(tmp_path: Path, paths: list[str], within: int, grows: bool) -> None:
    spec = SPEC._replace(size=(256, 256))
    with Workers(0, paths) as workers:
        entry = cache.make(tmp_path / "cache", "large", paths, spec, workers, within)
    before = resident()
    most = max(resident() for _ in entry.read(np.array_split(np.random.default_rng(0).permutation(300), 60)))
    assert (most - before > 30 * 2**20) == grows, "of 56 MiB"


def test_entry_stores_unreadable_images_with_reasons(tmp_path: Path) -> None:
    paths = write_images(tmp_path / "images", 140, unreadable=(2, 130))
    made = make(tmp_path / "cache", paths)
    entry = cache.find(tmp_path / "cache", cache.fingerprint(paths, SPEC), UNLIMITED)
    assert entry is not None and entry.bad == made.bad == dict.fromkeys((2, 130), "not an image that Pillow reads")


def touch(path: str) -> None:
    os.utime(path, (1, 1))


def rewrite_with_same_size_and_mtime(path: str) -> None:
    before = Path(path).stat()
    Path(path).write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [touch, rewrite_with_same_size_and_mtime, os.unlink])
def test_changed_file_changes_the_fingerprint(paths: list[str], change: Callable[[str], None]) -> None:
    before = cache.fingerprint(paths, SPEC)
    assert cache.fingerprint(paths, SPEC) == before
    change(paths[5])
    assert cache.fingerprint(paths, SPEC) != before


def test_order_and_options_change_the_fingerprint(paths: list[str]) -> None:
    specs = [
        SPEC._replace(channels=1),
        SPEC._replace(size=(5, 6)),
        SPEC._replace(resize="pad"),
        SPEC._replace(jpeg_draft=False),
    ]
    names = {cache.fingerprint(paths, spec) for spec in [SPEC, *specs]}
    names |= {cache.fingerprint(paths[::-1], SPEC), cache.fingerprint(paths[1:], SPEC)}
    assert len(names) == 7


def flip_bit(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


def write_metadata_of_another_size(folder: Path) -> None:
    (folder / "store.json").write_text(json.dumps({**SPEC._asdict(), "size": [1, 1], "bad": {}}))


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda folder: flip_bit(folder / "pixels.npy", 5000),
    "a flipped digest": lambda folder: flip_bit(folder / "digests.npy", 300),
    "truncated": lambda folder: os.truncate(folder / "pixels.npy", 4000),
    "empty": lambda folder: os.truncate(folder / "pixels.npy", 0),
    "no digests": lambda folder: (folder / "digests.npy").unlink(),
    "empty digests": lambda folder: os.truncate(folder / "digests.npy", 0),
    "invalid metadata": lambda folder: (folder / "store.json").write_text("{"),
    "metadata of another size": write_metadata_of_another_size,
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_corrupt_entry_is_rejected_and_rebuilt(tmp_path: Path, paths: list[str], corruption: str) -> None:
    expected = read_all(make(tmp_path / "cache", paths))
    name = cache.fingerprint(paths, SPEC)
    CORRUPTIONS[corruption](tmp_path / "cache" / name)
    entry = cache.find(tmp_path / "cache", name, UNLIMITED)
    if entry is not None:
        with pytest.raises(UserError, match=r"corrupt cache entry, now removed; start again"):
            read_all(entry)
    assert np.array_equal(read_all(make(tmp_path / "cache", paths)), expected)


def test_entry_that_cannot_be_written_is_one_line(tmp_path: Path, paths: list[str]) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"^datamodule\.cache_dir: cannot write to .*; make room"):
        make(tmp_path / "cache", paths)


def fail_from_the_second_chunk(file: Path, spec: ImageSpec, task: tuple[int, list[str]]) -> Decoded:
    if file.stat().st_size > 1000:
        raise OSError(28, "No space left on device")
    return decode_to(file, spec, task)


def test_failed_write_leaves_only_the_lock(tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "decode_to", fail_from_the_second_chunk)
    with pytest.raises(UserError, match="No space left"):
        make(tmp_path / "cache", paths)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_unused_entries_are_removed(tmp_path: Path, paths: list[str]) -> None:
    cache_dir = tmp_path / "cache"
    make(cache_dir, paths)
    old = cache_dir / cache.fingerprint(paths, SPEC)
    recent = cache_dir / cache.fingerprint(paths[1:], SPEC)
    os.utime(old, (1, 1))
    make(cache_dir, paths[1:])
    assert not old.exists() and recent.exists()


# Arguments: the cache folder, the folder of images; for slow workers, the folder of their files.
MAKE = """
import sys, time
from pathlib import Path
from datamodules.storage import cache
from datamodules.storage.decode import ImageSpec
from datamodules.storage.worker_pool import Workers
from tests.datamodules.storage.work import SlowWorkers

cache_dir, folder = Path(sys.argv[1]), Path(sys.argv[2])
paths = sorted(map(str, folder.iterdir()))
spec = ImageSpec(3, (6, 5), "crop", True)
if len(sys.argv) > 3:
    SlowWorkers.folder = Path(sys.argv[3])
    (SlowWorkers.folder / "ready").touch()
    workers = SlowWorkers(0, paths)
else:
    workers = Workers(None, paths)
with workers:
    cache.make(cache_dir, cache.fingerprint(paths, spec), paths, spec, workers, 10**9)
"""


def command_to_make(*arguments: Path) -> list[str]:
    return [sys.executable, "-c", MAKE, *map(str, arguments)]


def test_two_processes_write_one_entry(tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(SlowWorkers, "folder", tmp_path, raising=False)
    cache_dir = tmp_path / "cache"
    name = cache.fingerprint(paths, SPEC)
    with subprocess.Popen(command_to_make(cache_dir, tmp_path / "images", tmp_path), cwd=ROOT) as process:
        while not (tmp_path / "ready").exists():
            assert process.poll() is None
            time.sleep(0.01)
        entry = cache.make(cache_dir, name, paths, SPEC, SlowWorkers(0, paths), UNLIMITED)
    assert process.returncode == 0
    assert len(list(tmp_path.glob("*.writes"))) == 1
    assert np.array_equal(read_all(entry), decode_all(paths, SPEC).pixels)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_kills_leave_no_wrong_image(tmp_path: Path) -> None:
    paths = sorted(write_images(tmp_path / "images", 3000))
    expected = decode_all(paths, SPEC).pixels
    name = cache.fingerprint(paths, SPEC)
    generator = np.random.default_rng(0)
    command = command_to_make(tmp_path / "cache", tmp_path / "images")
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.monotonic() - began
    complete = killed = 0
    while killed < 50:
        shutil.rmtree(tmp_path / "cache" / name, ignore_errors=True)
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(seconds * generator.uniform(0.3, 1.05))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        entry = cache.find(tmp_path / "cache", name, UNLIMITED)
        if entry:
            complete += 1
            assert np.array_equal(read_all(entry), expected)
    subprocess.run(command, cwd=ROOT, check=True)
    entry = cache.find(tmp_path / "cache", name, UNLIMITED)
    assert entry is not None and np.array_equal(read_all(entry), expected)
    assert 0 < complete < 50, "kills before and after the entry is complete"


def test_only_files_of_the_cache_are_removed(tmp_path: Path) -> None:
    entry = tmp_path / "entry"
    entry.mkdir()
    for name in ("pixels.npy", "store.json", "thesis.tex"):
        (entry / name).write_text("x")
    (tmp_path / "link").symlink_to(entry, target_is_directory=True)
    remove_folder(tmp_path / "link", cache.FILES)
    assert len(list(entry.iterdir())) == 3
    remove_folder(entry, cache.FILES)
    assert [path.name for path in entry.iterdir()] == ["thesis.tex"]
    (entry / "thesis.tex").unlink()
    remove_folder(entry, cache.FILES)
    assert not entry.exists()
