"""BatchLoader: batches read from a split, in an order that is a function of (seed, epoch) alone; ToTensor's scaling."""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.splits import balanced_order
from datamodules.storage.inputs import Split


class Batch(NamedTuple):
    """What passes from a data module to a network."""

    inputs: Tensor
    """uint8 (images before they are on the device) or float32 `[N, C, *spatial]`"""
    labels: Tensor
    """int64 `[N]`"""
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """int64 `[N]`: positions in the split, for file names and for randomness that belongs to a sample"""
    size: int
    """Samples in the whole batch, over all ranks; N is this rank's share of them."""
    targets: Tensor | None = None
    """float32 `[N, num_classes]`: the parts that classes have in mixed samples; None where each has one class"""


class BatchLoader:
    """This rank's share of each batch of a split.

    Batch b of an epoch is the same set of samples on any number of ranks: rank r takes every world_size-th of them,
    from the r-th on. So evaluation pads nothing and counts nothing twice. In training a last batch with fewer samples
    than ranks is left out, for no rank may be without a gradient; in evaluation such a rank gets an empty batch.

    Args:
        split: the samples.
        batch_size: of the whole batch, over all ranks.
        rank, world_size: this process among all.
        seed: of the order, if it is random: epoch e's comes from `numpy.random.default_rng((seed, e))`.
        balanced: in place of each sample once an epoch, `splits.balanced_order`.
        drop_last: leaves out a last batch that is not full.
        partners: whether each sample is followed by another one of the whole batch to be mixed with: the batch then
            has 2 N samples, the partners last.
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
        balanced: bool = False,
        drop_last: bool = False,
        partners: bool = False,
        position: Callable[[], tuple[int, int]] = lambda: (0, 0),
    ) -> None:
        self.split = split
        self.batch_size = batch_size
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.balanced = balanced
        self.partners = partners
        self.position = position
        self.smallest = batch_size if drop_last else 1 if seed is None else world_size

    def __len__(self) -> int:
        full, rest = divmod(len(self.split.labels), self.batch_size)
        return full + (rest >= self.smallest)

    def __iter__(self) -> Iterator[Batch]:
        epoch, done = self.position()
        order = self.order(epoch)
        # Looked up at once: between two steps of a network each lookup takes many times as long, for caches are cold.
        shares = [self._share(order, batch) for batch in range(done, len(self))]
        indices = [torch.from_numpy(share) for share, _ in shares]
        labels = [self.split.labels.index_select(0, index) for index in indices]
        inputs = self.split.read([share for share, _ in shares])
        for samples, label, index, (_, size) in zip(inputs, labels, indices, shares, strict=True):
            yield Batch(samples, label, index, size)

    def order(self, epoch: int) -> np.ndarray:
        """The positions of an epoch's samples, int64."""
        samples = len(self.split.labels)
        if self.seed is None:
            return np.arange(samples)
        generator = np.random.default_rng((self.seed, epoch))
        if self.balanced:
            return balanced_order(self.split.labels.numpy(), generator)
        return generator.permutation(samples)

    def _share(self, order: np.ndarray, batch: int) -> tuple[np.ndarray, int]:
        """This rank's positions of a batch, and the size of the whole."""
        whole = order[batch * self.batch_size : (batch + 1) * self.batch_size]
        own = whole[self.rank :: self.world_size]
        if self.partners:
            return np.concatenate([own, np.roll(whole, -1)[self.rank :: self.world_size]]), len(whole)
        return own.copy(), len(whole)

    # Lightning takes a loader that has these two for one that can start in the middle of an epoch. There is nothing
    # to store: the order is derived.
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
