"""Where decoded samples are, and how batches of them are read from there."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from conf.errors import UserError
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.worker_pool import CHUNK, Workers, chunks, progress


class Inputs(Protocol):
    """Samples uint8 or float32 `[*, C, *spatial]`, somewhere."""

    shape: tuple[int, ...]
    """(C, *spatial)"""
    sample_bytes: int
    """What one takes"""

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Positions, int64 `[N]` a batch → their samples `[N, C, *spatial]`."""


class InMemory:
    """An array of samples."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape[1:]
        self.sample_bytes = array.nbytes // max(1, len(array))

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for rows in batches:
            yield torch.from_numpy(self.array.take(rows, axis=0))  # twice as fast as self.array[rows]


class OnDevice:
    """Samples that live where the network is: a batch is not sent to it but gathered there."""

    def __init__(self, samples: Tensor) -> None:
        self.samples = samples
        self.shape = tuple(samples.shape[1:])
        self.sample_bytes = samples.element_size() * int(np.prod(self.shape))

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for rows in batches:
            yield self.samples.index_select(0, torch.from_numpy(rows).to(self.samples.device, non_blocking=True))


class Streamed:
    """Images that are decoded each time they are read, some batches ahead, for nothing can hold them all.

    Args:
        items, files: the images, and names of them for people.
        form: what they are brought to.
        num_workers: processes that decode.
        began: seconds since 1970. A file that was changed later is refused: it is not what was looked at.
    """

    def __init__(
        self, items: Sequence[Any], files: Sequence[str], form: ImageSpec, num_workers: int | None, began: float
    ) -> None:
        self.shape: tuple[int, ...] = (form.channels, *form.size)
        self.sample_bytes = int(np.prod(self.shape))
        self._items, self._files = items, files
        self._decode = partial(decode_all, form=form, latest=began)
        self._workers = Workers(num_workers, items)

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """
        Raises:
            UserError: an image cannot be read, or has changed.
        """
        under_way: deque[np.ndarray] = deque()

        def tasks() -> Iterator[list[Any]]:
            for rows in batches:
                under_way.append(rows)
                yield [self._items[i] for i in rows.tolist()]

        for found in self._workers.map(self._decode, tasks()):
            rows = under_way.popleft()
            if found.bad:
                position, reason = min(found.bad.items())
                raise UserError(f"{self._files[rows[position]]}: {reason}; put it right, then go on by run=…")
            yield torch.from_numpy(found.pixels)

    def find_bad(self) -> dict[int, str]:
        """Decodes everything once: the reason at the position of each image that cannot be read."""
        decoded = self._workers.map(self._decode, chunks(self._items))
        found = progress(decoded, len(self._items), "checking images", lambda part: len(part.pixels))
        bad: dict[int, str] = {}
        for number, part in enumerate(found):
            bad |= {number * CHUNK + position: reason for position, reason in part.bad.items()}
        return bad


class Loaded(NamedTuple):
    """What samples became."""

    inputs: Inputs
    digests: np.ndarray | None
    """A number for the content of each, uint64 `[N]`, where it is known"""
    bad: dict[int, str]
    """The reason at the position of each sample that cannot be read"""


def collect(items: Sequence[Any], form: ImageSpec, workers: Workers) -> Loaded:
    """Images, decoded and in memory."""
    pixels = np.empty((len(items), form.channels, *form.size), np.uint8)
    digests = np.empty(len(items), np.uint64)
    bad: dict[int, str] = {}
    start = 0
    decoded = workers.map(partial(decode_all, form=form), chunks(items))
    for part in progress(decoded, len(items), "reading images", lambda part: len(part.pixels)):
        rows = slice(start, start + len(part.pixels))
        pixels[rows], digests[rows] = part.pixels, part.digests
        bad |= {start + position: reason for position, reason in part.bad.items()}
        start = rows.stop
    return Loaded(InMemory(pixels), digests, bad)


class Split(NamedTuple):
    """The samples of one split."""

    inputs: Inputs
    """Of all splits"""
    rows: np.ndarray
    """int64 `[N]`: where in them each sample is"""
    labels: Tensor
    """int64 `[N]`"""
    files: Sequence[str]
    """A name for each sample"""

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Positions in the split, int64 `[N]` a batch → their inputs `[N, C, *spatial]`."""
        return self.inputs.read([self.rows[positions] for positions in batches])


def resident(split: Split, device: torch.device, share: float) -> Split:
    """The split, moved to a GPU if it takes no more than `share` of the memory there."""
    if device.type != "cuda" or isinstance(split.inputs, OnDevice):
        return split
    size = split.inputs.sample_bytes * len(split.rows)
    if size > share * torch.cuda.get_device_properties(device).total_memory:
        return split
    parts = split.inputs.read(np.array_split(split.rows, -(-len(split.rows) // 1024)))
    return split._replace(
        inputs=OnDevice(torch.cat([part.to(device) for part in parts])), rows=np.arange(len(split.rows))
    )
