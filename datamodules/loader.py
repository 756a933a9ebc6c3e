"""BatchLoader: batches of a split in an order that depends on (seed, epoch) alone."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.splits import balanced_order
from datamodules.storage.inputs import Split


class Batch(NamedTuple):
    """A batch of this rank."""

    inputs: Tensor
    """uint8 (images, before they are moved to the device) or float32 `[N, C, *spatial]`"""
    labels: Tensor
    """int64 `[N]`, or 0/1 `[N, num_classes]` where a sample may have several"""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """int64 `[N]`: positions in the split, for file names and per-sample randomness"""
    size: int
    """Samples of the global batch, over all ranks; N of them are on this rank."""
    features: bool = False
    """Whether `inputs` are what a frozen body makes of the samples, float32 `[N, F]`"""
    targets: Tensor | None = None
    """float32 `[N, num_classes]`: class probabilities of mixed samples; None for hard labels"""


class BatchLoader:
    """This rank's shard of each batch of a split.

    Batch b of an epoch is the same set of samples on any number of ranks: rank r takes every world_size-th of them,
    starting with the r-th. So evaluation neither pads nor counts a sample twice. In training a last batch with fewer
    samples than ranks is dropped, because every rank needs a gradient; in evaluation such a rank gets an empty batch.

    Args:
        split: the samples.
        batch_size: samples of the global batch, over all ranks.
        rank, world_size: of this process.
        seed: for training, where the order of epoch e comes from `numpy.random.default_rng((seed, e))`; None: for
            evaluation, in the order of the split.
        balanced: draws classes equally often, see `splits.balanced_order`, instead of each sample once an epoch.
        drop_last: drops a last batch that is not full.
        partners: also returns for each sample another one of the global batch to be mixed with: 2 N samples, the
            partners last.
        position: returns (epoch, batches of it already done). It is called at the first batch of an iteration: only
            then are the counters of a resumed Trainer right.
        views: features of the samples, which replace them: epoch e takes view e modulo their number.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        *,
        rank: int = 0,
        world_size: int = 1,
        seed: int | None = None,
        balanced: bool = False,
        drop_last: bool = False,
        partners: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
        views: Sequence[Split] = (),
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.balanced = balanced
        self.partners = partners
        self.position = position
        self.views = views
        self.min_size = 1  # of the last batch
        if seed is not None:
            self.min_size = batch_size if drop_last else world_size

    def __len__(self) -> int:
        full, rest = divmod(len(self.split.labels), self.batch_size)
        return full + (rest >= self.min_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self.position()
        order = self.order(epoch)
        # All lookups at once: between two training steps each would take many times as long, because caches are cold.
        global_batches = [self._global_batch(order, batch) for batch in range(done, len(self))]
        shards = [self._shard(positions) for positions in global_batches]
        indices = [torch.from_numpy(shard) for shard in shards]
        labels = [self.split.labels.index_select(0, index) for index in indices]
        source = self.views[epoch % len(self.views)] if self.views else self.split
        inputs = source.read(shards)
        for samples, label, index, positions in zip(inputs, labels, indices, global_batches, strict=True):
            yield Batch(samples, label, index, len(positions), features=bool(self.views))

    def order(self, epoch: int) -> np.ndarray:
        """The positions of an epoch's samples, int64."""
        samples = len(self.split.labels)
        if self.seed is None:
            return np.arange(samples)
        generator = np.random.default_rng((self.seed, epoch))
        if self.balanced:
            return balanced_order(self.split.labels.numpy(), generator)
        return generator.permutation(samples)

    def _global_batch(self, order: np.ndarray, batch: int) -> np.ndarray:
        return order[batch * self.batch_size : (batch + 1) * self.batch_size]

    def _shard(self, positions: np.ndarray) -> np.ndarray:
        """This rank's positions of a global batch, and their partners if asked for."""
        own = positions[self.rank :: self.world_size]
        if self.partners:
            return np.concatenate([own, np.roll(positions, -1)[self.rank :: self.world_size]])
        return own.copy()

    # A loader with these two methods counts as resumable for Lightning. The order is derived, so nothing is stored.
    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


def to_float(samples: Tensor) -> Tensor:
    """uint8 in 0 … 255 → float32 in [0, 1], with the bits of torchvision's ToTensor on every device; float32 as it is.

    The divisor is a tensor: CUDA multiplies by the reciprocal of a Python number, which rounds differently.
    """
    if samples.dtype != torch.uint8:
        return samples
    return samples.to(torch.float32).div_(_divisor(samples.device))


@cache
def _divisor(device: torch.device) -> Tensor:
    return torch.full((), 255.0, device=device)
