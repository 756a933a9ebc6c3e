"""Decoded images on disk: made once by one process, found again by all, never believed when damaged.

A store is a folder `<cache_dir>/<fingerprint>/` of pixels.npy, digests.npy and store.json. It is made under another
name and renamed when it is whole. Stores that nobody used for 30 days are removed.
"""

import hashlib
import json
import math
import mmap
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from PIL import features
from torch import Tensor

from conf.errors import UserError
from conf.files import file_lock, sync
from datamodules.storage.decode import ImageSpec, decode_to, digests
from datamodules.storage.worker_pool import CHUNK, Workers, chunks, progress

FILES = ("pixels.npy", "digests.npy", "store.json")
UNUSED_SECONDS = 30 * 24 * 3600
# What the system maps around a byte that is read.
MAPPED_AROUND = 64 * 1024
# Bytes of a large store that may be mapped at once: of a random order hardly any would be read again before its end.
MAPPED = 64 * 2**20


def fingerprint(paths: Sequence[str], options: Sequence[Any]) -> str:
    """A name for what decoding these files by these options gives: it changes with their content as far as the file
    system tells, with the options, and with the decoder."""
    decoder = (PIL.__version__, *(features.version(name) for name in ("jpg", "libjpeg_turbo", "zlib", "webp")))
    digest = hashlib.blake2b(repr((1, decoder, *options)).encode(), digest_size=16)
    for path in paths:
        try:
            found = os.stat(path)  # noqa: PTH116  # of a million files in half the time
            stamp = (found.st_size, found.st_mtime_ns, found.st_ctime_ns)  # the last cannot be set back
        except OSError as error:
            stamp = (error.errno or 0, 0, 0)
        except ValueError:  # a zero byte, which no name holds
            stamp = (0, 0, 0)
        absolute = path if path[0] == "/" else os.path.abspath(path)  # noqa: PTH100
        digest.update(f"{absolute}\0{stamp}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


class CachedImages:
    """The samples of a store.

    Args:
        folder: the store's.
        trusted: whether this process made it. Else each sample's digest is compared when it is first read.
        within: bytes of memory that the mapped file may take. What was read of a larger one is soon given back.
    """

    def __init__(self, folder: Path, *, trusted: bool, within: int) -> None:
        self.folder = folder
        facts = json.loads((folder / "store.json").read_text(encoding="utf-8"))
        self.bad = {int(position): reason for position, reason in facts["bad"].items()}
        self.form = ImageSpec(facts["channels"], tuple(facts["size"]), facts["resize"], facts["jpeg_draft"])
        self.digests = np.load(folder / "digests.npy")
        self.shape: tuple[int, ...] = (self.form.channels, *self.form.size)
        count = len(self.digests)
        self.sample_bytes = int(np.prod(self.shape))
        with open(folder / "pixels.npy", "rb") as file:
            version = np.lib.format.read_magic(file)
            shape, _, kind = np.lib.format.read_array_header_1_0(file)
            if version != (1, 0) or shape != (count, *self.shape) or kind != np.uint8:
                raise ValueError("pixels.npy is not what store.json says")
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            self._pixels = np.frombuffer(self._map, np.uint8, count * self.sample_bytes, file.tell()).reshape(shape)
        self._unseen = None if trusted else np.ones(count, bool)
        self._each = (self.sample_bytes // MAPPED_AROUND + 2) * MAPPED_AROUND  # at most
        self._within = math.inf if len(self._map) < within else min(MAPPED, within)
        self._mapped = 0

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """
        Raises:
            UserError: the store is damaged; it is removed.
        """
        for rows in batches:
            found = self._pixels.take(rows, axis=0)
            if self._unseen is not None and (new := self._unseen[rows]).any():
                if not np.array_equal(digests(found[new]), self.digests[rows[new]]):
                    shutil.rmtree(self.folder, ignore_errors=True)
                    raise UserError(f"{self.folder}: damaged, and removed; start again, and it is made anew")
                self._unseen[rows] = False
            self._mapped += len(rows) * self._each
            if self._mapped > self._within:
                self._map.madvise(mmap.MADV_DONTNEED)
                self._mapped = 0
            yield torch.from_numpy(found)


def find(cache_dir: Path, name: str, within: int) -> CachedImages | None:
    """The store of that name; one that is not whole is no store."""
    folder = cache_dir / name
    try:
        found = CachedImages(folder, trusted=False, within=within)
        os.utime(folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        return None
    return found


def has_room(cache_dir: Path, size: int) -> bool:
    """Whether so many bytes can be written there, with a tenth to spare."""
    existing = next(folder for folder in (cache_dir, *cache_dir.absolute().parents) if folder.is_dir())
    return os.access(existing, os.W_OK) and shutil.disk_usage(existing).free > 1.1 * size


def make(
    cache_dir: Path, name: str, items: Sequence[Any], form: ImageSpec, workers: Workers, within: int
) -> CachedImages:
    """Writes a store, or finds the one that another process wrote meanwhile.

    Args:
        items: image files.
        form: what they are brought to.
        workers: who decodes and writes them.

    Raises:
        UserError: it cannot be written.
    """
    try:
        cache_dir.mkdir(parents=True, exist_ok=True)
        with file_lock(cache_dir / f"{name}.lock"):
            if found := find(cache_dir, name, within):
                return found
            part = cache_dir / f"{name}.part"
            for leftover in (part, cache_dir / name):
                shutil.rmtree(leftover, ignore_errors=True)
            part.mkdir()
            try:
                _write(part, items, form, workers)
                part.rename(cache_dir / name)
                sync(cache_dir)
            finally:
                shutil.rmtree(part, ignore_errors=True)
            _remove_unused(cache_dir)
            return CachedImages(cache_dir / name, trusted=True, within=within)
    except OSError as error:
        fix = "make room, name another folder by datamodule.cache_dir, or set datamodule.cache=off"
        raise UserError(f"datamodule.cache_dir: cannot write to {cache_dir} ({error.strerror}); {fix}") from error


def _write(folder: Path, items: Sequence[Any], form: ImageSpec, workers: Workers) -> None:
    bad: dict[int, str] = {}
    found: list[np.ndarray] = []
    with open(folder / "pixels.npy", "wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (len(items), form.channels, *form.size)}
        np.lib.format.write_array_header_1_0(file, header)
        start = file.tell()
    each = CHUNK * form.channels * form.size[0] * form.size[1]
    tasks = ((start + number * each, chunk) for number, chunk in enumerate(chunks(items)))
    parts = workers.map(partial(decode_to, folder / "pixels.npy", form), tasks)
    for number, part in enumerate(progress(parts, len(items), "reading images", lambda part: len(part.digests))):
        found.append(part.digests)
        bad |= {number * CHUNK + position: reason for position, reason in part.bad.items()}
    np.save(folder / "digests.npy", np.concatenate(found))
    facts = {**form._asdict(), "bad": bad}
    (folder / "store.json").write_text(json.dumps(facts), encoding="utf-8")
    for name in FILES:
        sync(folder / name)
    sync(folder)


def _remove_unused(cache_dir: Path) -> None:
    for lock in cache_dir.glob("*.lock"):
        store = lock.with_suffix("")
        if store.is_dir() and time.time() - store.stat().st_mtime > UNUSED_SECONDS:
            shutil.rmtree(store, ignore_errors=True)
