"""On-disk cache of decoded images: written once, memory-mapped, verified by digest.

A cache entry is a folder `<cache_dir>/<fingerprint>/` of pixels.npy, digests.npy and store.json. It is written as
`<fingerprint>.part` and renamed when complete. Entries that were not used for 30 days are removed.
"""

import hashlib
import json
import math
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from conf.errors import UserError
from conf.files import file_lock, remove_folder, sync
from datamodules.storage.decode import ImageSpec, decode_to, digests
from datamodules.storage.stored_file import StoredFile
from datamodules.storage.worker_pool import CHUNK, Workers, chunks, progress

IMAGE_FILES = ("pixels.npy", "digests.npy", "store.json")
FILES = (*IMAGE_FILES, "features.npy")  # of all entries
MAX_UNUSED_SECONDS = 30 * 24 * 3600
# Bytes that the kernel maps around a byte that is read.
FAULT_AROUND = 64 * 1024
# Resident bytes of an entry that exceeds the memory: in random order, hardly any page is read again before it is freed.
MAX_RESIDENT = 64 * 2**20


def fingerprint(items: Sequence[str | StoredFile], options: Sequence[Any]) -> str:
    """Name of a cache entry.

    A hash of the paths, sizes, mtimes and ctimes of the files or of the archives that hold them, of the options and of
    the decoder's version.
    """
    libraries = [features.version(name) for name in ("jpg", "libjpeg_turbo", "zlib", "webp")]
    decoder = (PIL.__version__, *libraries)
    digest = hashlib.blake2b(repr((1, decoder, *options)).encode(), digest_size=16)
    for item in items:
        path = item if isinstance(item, str) else item.container
        try:
            status = os.stat(path)  # noqa: PTH116  # half the time of Path.stat for a million files
            stamp = (status.st_size, status.st_mtime_ns, status.st_ctime_ns)  # ctime cannot be set back
        except OSError as error:
            stamp = (error.errno or 0, 0, 0)
        except ValueError:  # a null byte, which no file name contains
            stamp = (0, 0, 0)
        absolute = path if path[0] == "/" else os.path.abspath(path)  # noqa: PTH100
        inside = "" if isinstance(item, str) else repr(item)
        digest.update(f"{absolute}\0{inside}{stamp}\n".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


class CachedImages:
    """The samples of a cache entry, read from a memory-mapped file.

    Args:
        folder: the cache entry.
        trusted: written by this process. Otherwise each sample is verified by its digest at its first read.
        within: bytes of memory that the mapped file may take; the pages of a larger one are released while reading.

    Raises:
        OSError, EOFError, ValueError, KeyError, TypeError: the cache entry is incomplete or corrupt.
    """

    def __init__(self, folder: Path, *, trusted: bool, within: int) -> None:
        self.folder = folder
        metadata = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.bad = {int(position): reason for position, reason in metadata["bad"].items()}
        size = tuple(metadata["size"])
        self.spec = ImageSpec(
            metadata["channels"], size, metadata["resize"], metadata["jpeg_draft"], metadata["interpolation"]
        )
        self.digests = np.load(folder / "digests.npy")
        self.shape: tuple[int, ...] = (self.spec.channels, *self.spec.size)
        self.sample_bytes = int(np.prod(self.shape))
        count = len(self.digests)
        with open(folder / "pixels.npy", "rb") as file:
            version = np.lib.format.read_magic(file)
            shape, _, dtype = np.lib.format.read_array_header_1_0(file)
            if version != (1, 0) or shape != (count, *self.shape) or dtype != np.uint8:
                raise ValueError("pixels.npy does not match store.json")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._pixels = np.frombuffer(self._map, np.uint8, count * self.sample_bytes, file.tell()).reshape(shape)
        self._unverified = None if trusted else np.ones(count, bool)
        self._max_resident = math.inf if len(self._map) < within else min(MAX_RESIDENT, within)
        self._resident = 0
        self._resident_per_sample = (self.sample_bytes // FAULT_AROUND + 2) * FAULT_AROUND  # an upper bound

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """
        Raises:
            UserError: the cache entry is corrupt; it is removed.
        """
        for rows in batches:
            pixels = self._pixels.take(rows, axis=0)
            self._verify(rows, pixels)
            self._resident += len(rows) * self._resident_per_sample
            if self._resident > self._max_resident:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._resident = 0
            yield torch.from_numpy(pixels)

    def _verify(self, rows: np.ndarray, pixels: np.ndarray) -> None:
        if self._unverified is None:
            return
        new = self._unverified[rows]
        if not new.any():
            return
        if not np.array_equal(digests(pixels[new]), self.digests[rows[new]]):
            remove_folder(self.folder, FILES)
            raise UserError(f"{self.folder}: corrupt cache entry, now removed; start again to rebuild it")
        self._unverified[rows] = False


def find(cache_dir: Path, name: str, within: int) -> CachedImages | None:
    """The cache entry of that name; None if missing, incomplete or corrupt."""
    folder = cache_dir / name
    try:
        entry = CachedImages(folder, trusted=False, within=within)
        os.utime(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return entry


def has_room(cache_dir: Path, size: int) -> bool:
    """Whether the folder is writable with 1.1 · `size` bytes free."""
    existing = next(folder for folder in (cache_dir, *cache_dir.absolute().parents) if folder.is_dir())
    return os.access(existing, os.W_OK) and shutil.disk_usage(existing).free > 1.1 * size


def make(
    cache_dir: Path, name: str, items: Sequence[Any], spec: ImageSpec, workers: Workers, within: int
) -> CachedImages:
    """Writes a cache entry, unless another process did so in the meantime.

    Args:
        items: image files.
        spec: channels, size and resizing.
        workers: the processes that decode and write.

    Raises:
        UserError: it cannot be written.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with file_lock(cache_dir / f"{name}.lock"):
            existing = find(cache_dir, name, within)
            if existing:
                return existing
            with new_entry(cache_dir, name) as folder:
                _write(folder, items, spec, workers)
            return CachedImages(cache_dir / name, trusted=True, within=within)
    except OSError as error:
        fix = "make room, choose another datamodule.cache_dir, or set datamodule.cache=off"
        raise UserError(f"datamodule.cache_dir: cannot write to {cache_dir} ({error.strerror}); {fix}") from error


@contextmanager
def new_entry(cache_dir: Path, name: str) -> Iterator[Path]:
    """A folder that becomes the cache entry of that name when the block ends without an exception.

    The caller holds the entry's lock, `<name>.lock`.
    """
    assert name, "the cache itself is no entry"
    part = cache_dir / f"{name}.part"
    for leftover in (part, cache_dir / name):
        remove_folder(leftover, FILES)
    part.mkdir()
    try:
        yield part
        part.rename(cache_dir / name)
        sync(cache_dir)
    finally:
        remove_folder(part, FILES)
    _remove_unused(cache_dir)


def _write(folder: Path, items: Sequence[Any], spec: ImageSpec, workers: Workers) -> None:
    path = folder / "pixels.npy"
    with open(path, "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(items), spec.channels, *spec.size)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
    chunk_bytes = CHUNK * spec.channels * spec.size[0] * spec.size[1]
    tasks = ((start + number * chunk_bytes, chunk) for number, chunk in enumerate(chunks(items)))
    decoded = workers.map(partial(decode_to, path, spec), tasks)
    bad: dict[int, str] = {}
    digest_parts: list[np.ndarray] = []
    parts = progress(decoded, len(items), "decoding images", lambda part: len(part.digests))
    for number, part in enumerate(parts):
        digest_parts.append(part.digests)
        bad |= {number * CHUNK + position: reason for position, reason in part.bad.items()}
    np.save(folder / "digests.npy", np.concatenate(digest_parts))
    metadata = {**spec._asdict(), "bad": bad}
    (folder / "store.json").write_text(json.dumps(metadata), encoding="utf-8")
    for name in IMAGE_FILES:
        sync(folder / name)
    sync(folder)


def _remove_unused(cache_dir: Path) -> None:
    for lock in cache_dir.glob("*.lock"):
        entry = lock.with_suffix("")
        if entry.is_dir() and time.time() - entry.stat().st_mtime > MAX_UNUSED_SECONDS:
            remove_folder(entry, FILES)
