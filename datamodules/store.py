"""Decoded pictures: every file of a split is read once, by all cores, into one uint8 array."""

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from torch.utils.data import Subset
from tqdm import tqdm

from conf.errors import UserError
from datamodules.decode import Probe, Resize, decode, probe

# Below this many files starting processes costs more than they save.
FEWEST_FOR_PROCESSES = 2000


class Pictures(NamedTuple):
    """The pictures of one split before decoding."""

    items: Any
    """Indexable and with a length: what `decode.open_picture` opens: paths, or PIL images."""
    labels: np.ndarray
    """int64 [N]"""
    files: Sequence[str]
    """Names for people, in the same order."""

    def take(self, index: np.ndarray) -> "Pictures":
        """The pictures at some positions, still undecoded."""
        items: Any = Subset(self.items, index.tolist())
        return Pictures(items, self.labels[index], [self.files[i] for i in index])


def probe_pictures(pictures: Pictures, num_workers: int | None) -> list[Probe]:
    """The headers of all pictures.

    Raises:
        UserError: some are damaged.
    """
    with _mapping(pictures.items, num_workers) as each:
        found = list(_progress(each(probe, pictures.items), len(pictures.items), "looking at pictures"))
    _refuse_damaged(pictures, found)
    return found


def decode_pictures(
    pictures: Pictures, channels: int, size: tuple[int, int], resize: Resize, num_workers: int | None
) -> np.ndarray:
    """The pixels of all pictures: uint8 `[N, channels, height, width]`.

    Raises:
        UserError: some are damaged.
    """
    array = np.empty((len(pictures.items), channels, *size), np.uint8)
    found: list[Any] = [None] * len(array)
    read = partial(decode, channels=channels, size=size, resize=resize)
    with _mapping(pictures.items, num_workers) as each:
        for i, pixels in enumerate(_progress(each(read, pictures.items), len(array), "reading pictures")):
            if isinstance(pixels, str):
                found[i] = pixels
            else:
                array[i] = pixels
    _refuse_damaged(pictures, found)
    return array


@contextmanager
def _mapping(items: Any, num_workers: int | None) -> Iterator[Callable[..., Iterator[Any]]]:
    """`map`, by processes where there are files enough. Their start method is spawn: a fork of a process with
    torch's threads may hang."""
    workers = cores() if num_workers is None else num_workers
    if workers < 2 or len(items) < FEWEST_FOR_PROCESSES or not isinstance(items[0], Path):
        yield map
        return
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            yield partial(pool.map, chunksize=128)
        except BrokenProcessPool as error:
            raise UserError("datamodule.num_workers: a process was killed, perhaps for memory; use fewer") from error


def cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _progress(found: Iterator[Any], total: int, description: str) -> Iterator[Any]:
    return tqdm(found, description, total, delay=1, leave=False, disable=not sys.stderr.isatty(), unit=" pictures")


def _refuse_damaged(pictures: Pictures, found: Sequence[Any]) -> None:
    damaged = [f"{pictures.files[i]} ({problem})" for i, problem in enumerate(found) if isinstance(problem, str)]
    if damaged:
        more = f" and {len(damaged) - 10} more" if len(damaged) > 10 else ""
        count = "1 picture" if len(damaged) == 1 else f"{len(damaged)} pictures"
        raise UserError(f"{', '.join(damaged[:10])}{more}: {count} cannot be read; repair or remove what is named")
