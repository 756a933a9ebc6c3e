"""A store gives the pixels that decoding gives, is made once, and is never believed when it is damaged."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conf.errors import UserError
from datamodules.storage import cache
from datamodules.storage.decode import Decoded, ImageSpec, decode_all, decode_to
from datamodules.storage.worker_pool import Workers
from tests.conftest import ROOT

FORM = ImageSpec(3, (6, 5), "crop", True)
PLENTY = 10**9


def on_disk(folder: Path, count: int, damaged: tuple[int, ...] = ()) -> list[str]:
    generator = np.random.default_rng(0)
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i:03d}.{'jpg' if i % 2 else 'png'}" for i in range(count)]
    for i, path in enumerate(paths):
        Image.fromarray(generator.integers(0, 256, (9, 5 + i % 4, 3), dtype=np.uint8)).save(path)
        if i in damaged:
            path.write_bytes(b"<html>")
    return [str(path) for path in paths]


def make(cache_dir: Path, paths: list[str], within: int = PLENTY) -> cache.CachedImages:
    with Workers(None, paths) as workers:
        return cache.make(cache_dir, cache.fingerprint(paths, FORM), paths, FORM, workers, within)


def all_of(stored: cache.CachedImages, count: int) -> np.ndarray:
    return np.concatenate([part.numpy() for part in stored.read(np.array_split(np.arange(count), 7))])


@pytest.fixture
def paths(tmp_path: Path) -> list[str]:
    return on_disk(tmp_path / "images", 300)


def test_pixels_are_those_of_decoding(tmp_path: Path, paths: list[str]) -> None:
    expected = decode_all(paths, FORM).pixels
    assert np.array_equal(all_of(make(tmp_path / "cache", paths), 300), expected)
    found = cache.find(tmp_path / "cache", cache.fingerprint(paths, FORM), PLENTY)
    assert found is not None and found.form == FORM
    assert np.array_equal(all_of(found, 300), expected)
    rows = np.array([299, 3, 3, 128])
    assert np.array_equal(next(found.read([rows])).numpy(), expected[rows])


def test_giving_memory_back_changes_nothing(tmp_path: Path, paths: list[str]) -> None:
    expected = all_of(make(tmp_path / "cache", paths), 300)
    assert np.array_equal(all_of(make(tmp_path / "cache", paths, within=0), 300), expected)


def mapped() -> int:
    """Bytes of files that are resident in this process."""
    status = Path("/proc/self/status").read_text()
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssFile"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is resident")
@pytest.mark.parametrize(("within", "grows"), [(2**20, False), (PLENTY, True)])
def test_a_store_larger_than_memory_is_given_back(tmp_path: Path, paths: list[str], within: int, grows: bool) -> None:
    form = FORM._replace(size=(256, 256))
    with Workers(0, paths) as workers:
        made = cache.make(tmp_path / "cache", "large", paths, form, workers, within)
    before = mapped()
    most = max(mapped() for _ in made.read(np.array_split(np.random.default_rng(0).permutation(300), 60)))
    assert (most - before > 30 * 2**20) == grows, "of 56 MiB"


def test_damaged_images_are_remembered_with_their_reasons(tmp_path: Path) -> None:
    paths = on_disk(tmp_path / "images", 140, damaged=(2, 130))
    made = make(tmp_path / "cache", paths)
    found = cache.find(tmp_path / "cache", cache.fingerprint(paths, FORM), PLENTY)
    assert found is not None and found.bad == made.bad == dict.fromkeys((2, 130), "not an image that Pillow reads")


def touched(path: str) -> None:
    os.utime(path, (1, 1))


def other_bytes_of_the_same_size_and_time(path: str) -> None:
    before = Path(path).stat()
    Path(path).write_bytes(b"x" * before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("change", [touched, other_bytes_of_the_same_size_and_time, os.unlink])
def test_another_file_is_another_store(paths: list[str], change) -> None:  # type: ignore[no-untyped-def]
    before = cache.fingerprint(paths, FORM)
    assert cache.fingerprint(paths, FORM) == before
    change(paths[5])
    assert cache.fingerprint(paths, FORM) != before


def test_another_order_or_option_is_another_store(paths: list[str]) -> None:
    names = {
        cache.fingerprint(paths, FORM),
        cache.fingerprint(paths[::-1], FORM),
        cache.fingerprint(paths[1:], FORM),
        *(cache.fingerprint(paths, FORM._replace(**{key: value})) for key, value in
          {"channels": 1, "size": (5, 6), "resize": "pad", "jpeg_draft": False}.items()),
    }  # fmt: skip
    assert len(names) == 7


DAMAGES = {
    "a flipped bit": lambda folder: flip(folder / "pixels.npy", 5000),
    "a flipped digest": lambda folder: flip(folder / "digests.npy", 300),
    "cut off": lambda folder: os.truncate(folder / "pixels.npy", 4000),
    "empty": lambda folder: os.truncate(folder / "pixels.npy", 0),
    "no digests": lambda folder: (folder / "digests.npy").unlink(),
    "empty digests": lambda folder: os.truncate(folder / "digests.npy", 0),
    "no facts": lambda folder: (folder / "store.json").write_text("{"),
    "facts of another": lambda folder: (folder / "store.json").write_text(
        json.dumps({**FORM._asdict(), "size": [1, 1], "bad": {}})
    ),
}


def flip(path: Path, position: int) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_store_is_never_believed(tmp_path: Path, paths: list[str], damage) -> None:  # type: ignore[no-untyped-def]
    expected, name = all_of(make(tmp_path / "cache", paths), 300), cache.fingerprint(paths, FORM)
    damage(tmp_path / "cache" / name)
    found = cache.find(tmp_path / "cache", name, PLENTY)
    if found is not None:
        with pytest.raises(UserError, match=r"damaged, and removed; start again"):
            all_of(found, 300)
    assert np.array_equal(all_of(make(tmp_path / "cache", paths), 300), expected)


def test_a_store_that_cannot_be_written_is_one_line(tmp_path: Path, paths: list[str]) -> None:
    (tmp_path / "cache").write_text("a file")
    with pytest.raises(UserError, match=r"^datamodule\.cache_dir: cannot write to .*; make room"):
        make(tmp_path / "cache", paths)


def full_from_the_second_part_on(file: Path, form: ImageSpec, task: tuple[int, list[str]]) -> Decoded:
    if file.stat().st_size > 1000:
        raise OSError(28, "No space left on device")
    return decode_to(file, form, task)


def test_what_fails_leaves_nothing_behind(tmp_path: Path, paths: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "decode_to", full_from_the_second_part_on)
    with pytest.raises(UserError, match="No space left"):
        make(tmp_path / "cache", paths)
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]


def test_stores_that_nobody_uses_are_removed(tmp_path: Path, paths: list[str]) -> None:
    cache_dir = tmp_path / "cache"
    make(cache_dir, paths)
    old, recent = cache_dir / cache.fingerprint(paths, FORM), cache_dir / cache.fingerprint(paths[1:], FORM)
    os.utime(old, (1, 1))
    make(cache_dir, paths[1:])
    assert not old.exists() and recent.exists()


def make_and_say(cache_dir: Path, folder: Path, said: Path) -> None:
    paths = sorted(str(path) for path in folder.iterdir())

    class Slow(Workers):
        def map(self, work, tasks):  # type: ignore[no-untyped-def]
            said.with_name(f"{os.getpid()} makes it").touch()
            for task in tasks:
                time.sleep(0.1)
                yield work(task)

    stored = cache.make(cache_dir, cache.fingerprint(paths, FORM), paths, FORM, Slow(0, paths), PLENTY)
    np.save(said, all_of(stored, len(paths)))


def test_two_processes_make_one_store(tmp_path: Path, paths: list[str]) -> None:
    context = multiprocessing.get_context("spawn")
    cache_dir, folder = tmp_path / "cache", Path(paths[0]).parent
    both = [context.Process(target=make_and_say, args=(cache_dir, folder, tmp_path / f"{i}.npy")) for i in range(2)]
    for process in both:
        process.start()
    for process in both:
        process.join()
        assert process.exitcode == 0
    assert len(list(tmp_path.glob("*makes it"))) == 1
    for i in range(2):
        assert np.array_equal(np.load(tmp_path / f"{i}.npy"), decode_all(paths, FORM).pixels)


MAKE = """
import sys
from pathlib import Path
from tests.datamodules.storage.test_cache import make
make(Path(sys.argv[1]), sorted(map(str, Path(sys.argv[2]).iterdir())))
"""


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_fifty_kills_leave_no_wrong_image(tmp_path: Path) -> None:
    paths = sorted(on_disk(tmp_path / "images", 3000))
    expected = decode_all(paths, FORM).pixels
    name = cache.fingerprint(paths, FORM)
    generator = np.random.default_rng(0)
    command = [sys.executable, "-c", MAKE, str(tmp_path / "cache"), str(tmp_path / "images")]
    began = time.monotonic()
    subprocess.run(command, cwd=ROOT, check=True)
    seconds = time.monotonic() - began
    whole = killed = 0
    while killed < 50:
        shutil.rmtree(tmp_path / "cache" / name, ignore_errors=True)
        process = subprocess.Popen(command, cwd=ROOT)
        time.sleep(seconds * generator.uniform(0.3, 1.05))
        process.send_signal(signal.SIGKILL)
        killed += process.wait() == -signal.SIGKILL
        if found := cache.find(tmp_path / "cache", name, PLENTY):
            whole += 1
            assert np.array_equal(all_of(found, 3000), expected)
    subprocess.run(command, cwd=ROOT, check=True)
    found = cache.find(tmp_path / "cache", name, PLENTY)
    assert found is not None and np.array_equal(all_of(found, 3000), expected)
    assert 0 < whole < 50, "kills before and after it is whole"
