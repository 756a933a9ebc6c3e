"""Sources of samples: in memory, on a GPU, or decoded on demand."""

import math
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from conf.errors import UserError
from datamodules.storage.decode import ImageSpec, decode_all
from datamodules.storage.stored_file import stamp_of
from datamodules.storage.worker_pool import CHUNK, Workers, chunks, progress

# Samples moved to a GPU at once.
TRANSFER_BATCH = 1024
CHANGED = "the file changed during the run"


class Inputs(Protocol):
    """Samples of one shape, uint8 or float32, that can be read by position."""

    shape: tuple[int, ...]
    """(C, *spatial)"""
    sample_bytes: int
    """Bytes per sample"""

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Positions of each batch, int64 `[N]` → its samples `[N, C, *spatial]`."""


class InMemory:
    """Samples in an array `[*, C, *spatial]`."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.shape = array.shape[1:]
        self.sample_bytes = array.nbytes // max(1, len(array))

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for rows in batches:
            yield torch.from_numpy(self.array.take(rows, axis=0))  # twice as fast as self.array[rows]


class OnDevice:
    """Samples on the device of the network; batches need no transfer."""

    def __init__(self, samples: Tensor) -> None:
        self.samples = samples
        self.shape = tuple(samples.shape[1:])
        self.sample_bytes = samples.element_size() * int(np.prod(self.shape))

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        for rows in batches:
            yield self.samples.index_select(0, torch.from_numpy(rows).to(self.samples.device, non_blocking=True))


class Streamed:
    """Images decoded at every read, some batches ahead.

    Args:
        items: the images.
        files: their names in error messages.
        spec: channels, size and resizing.
        num_workers: see `Workers`.
    """

    def __init__(self, items: Sequence[Any], files: Sequence[str], spec: ImageSpec, num_workers: int | None) -> None:
        self.shape: tuple[int, ...] = (spec.channels, *spec.size)
        self.sample_bytes = int(np.prod(self.shape))
        self._items = items
        self._files = files
        self._stamps = stamps_of(items)
        self._decode = partial(decode_all, spec=spec)
        self._workers = Workers(num_workers, items)

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """
        Raises:
            UserError: an image is unreadable, or has changed since this object was made.
        """
        submitted: deque[np.ndarray] = deque()

        def tasks() -> Iterator[list[Any]]:
            for rows in batches:
                submitted.append(rows)
                yield [self._items[i] for i in rows.tolist()]

        for decoded in self._workers.map(self._decode, tasks()):
            rows = submitted.popleft()
            changed = np.flatnonzero(stamps_of([self._items[i] for i in rows.tolist()]) != self._stamps[rows])
            problems = dict.fromkeys(changed.tolist(), CHANGED) | decoded.bad
            if problems:
                position, reason = min(problems.items())
                raise UserError(f"{self._files[rows[position]]}: {reason}; repair the file, then resume by run=…")
            yield torch.from_numpy(decoded.pixels)

    def find_bad(self) -> dict[int, str]:
        """Decodes everything once: position of each unreadable image → the reason."""
        decoded = self._workers.map(self._decode, chunks(self._items))
        parts = progress(decoded, len(self._items), "checking images", lambda part: len(part.pixels))
        bad: dict[int, str] = {}
        for number, part in enumerate(parts):
            bad |= {number * CHUNK + position: reason for position, reason in part.bad.items()}
        return bad


def stamps_of(items: Sequence[Any]) -> np.ndarray:
    """int64 `[N]`, see `stamp_of`."""
    return np.fromiter(map(stamp_of, items), np.int64, len(items))


class Loaded(NamedTuple):
    """The samples of all splits."""

    inputs: Inputs
    digests: np.ndarray | None
    """uint64 `[N]`, see `decode.digests`; None if unknown"""
    bad: dict[int, str]
    """Position of each unreadable sample → the reason"""


def collect(items: Sequence[Any], spec: ImageSpec, workers: Workers) -> Loaded:
    """Decodes images into memory."""
    pixels = np.empty((len(items), spec.channels, *spec.size), np.uint8)
    digests = np.empty(len(items), np.uint64)
    bad: dict[int, str] = {}
    start = 0
    decoded = workers.map(partial(decode_all, spec=spec), chunks(items))
    for part in progress(decoded, len(items), "decoding images", lambda part: len(part.pixels)):
        stop = start + len(part.pixels)
        pixels[start:stop] = part.pixels
        digests[start:stop] = part.digests
        bad |= {start + position: reason for position, reason in part.bad.items()}
        start = stop
    return Loaded(InMemory(pixels), digests, bad)


class Split(NamedTuple):
    """The samples of one split."""

    inputs: Inputs
    """Those of all splits"""
    rows: np.ndarray
    """int64 `[N]`: position of each sample in `inputs`"""
    labels: Tensor
    """int64 `[N]`, or 0/1 `[N, num_classes]` where a sample may have several"""
    files: Sequence[str]
    """A name for each sample"""

    def read(self, batches: Iterable[np.ndarray]) -> Iterator[Tensor]:
        """Positions in the split, int64 `[N]` for each batch → inputs `[N, C, *spatial]`."""
        return self.inputs.read([self.rows[positions] for positions in batches])


class Inspected(NamedTuple):
    """The samples of all splits as `task=inspect` sees them, unreadable ones included."""

    items: Sequence[Any]
    """Paths, PIL images or rows of an array"""
    files: Sequence[str]
    """A name for each"""
    loaded: Loaded
    splits: dict[str, Split]
    """Of the readable samples"""


def channel_mean_std(split: Split, max_samples: int) -> tuple[list[float], list[float]]:
    """Mean and standard deviation of each channel, of uint8 scaled to [0, 1].

    Args:
        max_samples: a larger split is represented by this many samples, evenly spaced.
    """
    count = min(len(split.rows), max_samples)
    positions = np.arange(count) * len(split.rows) // count
    part_size = max(1, 2**22 // math.prod(split.inputs.shape))  # 32 MiB as double
    shift: Tensor | None = None  # close to the mean, so that the sums do not cancel
    total = squares = torch.zeros(())
    values = 0
    for part in split.read(np.array_split(positions, -(-count // part_size))):
        scale = 255 if part.dtype == torch.uint8 else 1
        channels = part.transpose(0, 1).flatten(1).double() / scale  # [N, C, *spatial] → [C, values]
        if shift is None:
            shift = channels.mean(1, keepdim=True)
        total = total + (channels - shift).sum(1)
        squares = squares + (channels - shift).square().sum(1)
        values += channels.shape[1]
    assert shift is not None
    mean = total / values
    std = (squares / values - mean.square()).clamp(min=0).sqrt()
    return (mean + shift[:, 0]).tolist(), std.tolist()


def resident(split: Split, device: torch.device, max_fraction: float) -> Split:
    """Moves a split to the GPU if it is small enough.

    Args:
        max_fraction: largest size, as a fraction of the GPU's memory.
    """
    if device.type != "cuda" or isinstance(split.inputs, OnDevice):
        return split
    size = split.inputs.sample_bytes * len(split.rows)
    if size > max_fraction * torch.cuda.get_device_properties(device).total_memory:
        return split
    batches = np.array_split(split.rows, -(-len(split.rows) // TRANSFER_BATCH))
    samples = torch.cat([batch.to(device) for batch in split.inputs.read(batches)])
    return split._replace(inputs=OnDevice(samples), rows=np.arange(len(split.rows)))
