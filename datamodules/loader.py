"""BatchLoader: batches gathered from memory, in an order that is a function of (seed, epoch) alone."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Batch(NamedTuple):
    """What passes from a data module to a network."""

    inputs: Tensor
    """uint8 (pictures before they are on the device) or float32 `[N, C, *spatial]`"""
    labels: Tensor
    """int64 `[N]`"""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """int64 `[N]`: positions in the split, for file names and for randomness that belongs to a sample"""
    size: int
    """Samples in the whole batch, over all ranks; N is this rank's share of them."""


class Split(NamedTuple):
    """The decoded samples of one split."""

    inputs: Tensor
    """uint8 or float32 `[N, C, *spatial]`"""
    labels: Tensor
    """int64 `[N]`"""
    files: Sequence[str]
    """A name for each sample"""


class BatchLoader:
    """This rank's share of each batch of a split.

    Batch b of an epoch is the same set of samples on any number of ranks: rank r takes every world_size-th of them,
    from the r-th on. So evaluation pads nothing and counts nothing twice. In training a last batch with fewer samples
    than ranks is left out, for no rank may be without a gradient; in evaluation such a rank gets an empty batch.

    Args:
        split: the samples.
        batch_size: of the whole batch, over all ranks.
        rank, world_size: this process among all.
        seed: shuffles if given; epoch e is in the order of `numpy.random.default_rng((seed, e))`.
        drop_last: leaves out a last batch that is not full.
        position: tells (epoch, batches of it already done) when an iteration starts. It is asked at the first batch,
            not before: only then are the counters of a resumed Trainer right.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        drop_last: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.position = position
        self.smallest = batch_size if drop_last else 1 if seed is None else world_size

    def __len__(self) -> int:
        full, rest = divmod(len(self.split.labels), self.batch_size)
        return full + (rest >= self.smallest)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self.position()
        samples = len(self.split.labels)
        if self.seed is None:
            order = np.arange(samples)
        else:
            order = np.random.default_rng((self.seed, epoch)).permutation(samples)
        for batch in range(done, len(self)):
            whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
            index = torch.from_numpy(whole[self.rank :: self.world_size].copy())
            yield Batch(self.split.inputs[index], self.split.labels[index], index, len(whole))

    # Lightning takes a loader that has these two for one that can start in the middle of an epoch. There is nothing
    # to store: the order is derived.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass
