"""Features: what the frozen body of a network makes of the samples of a split, computed once."""

import math
import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from pytorch_lightning import Trainer
from torch import Tensor
from tqdm import tqdm

from conf.errors import UserError
from datamodules.augment.augmentation import Augmentation, PerSample
from datamodules.loader import to_float
from datamodules.storage.feature_store import FeatureStore
from datamodules.storage.inputs import InMemory, Split
from datamodules.storage.memory import free_memory
from datamodules.storage.worker_pool import progress

# Samples at once. The activations of 8 images of 224×224 fit the cache of a core: twice as fast as 32 of them.
CPU_CHUNK, GPU_CHUNK = 8, 128
MAX_MEMORY_FRACTION = 0.5  # of the free memory, for all views of a split
MEASURED_SECONDS = 1.0  # after which the rest is estimated
MIN_ANNOUNCED_SECONDS = 5.0

# Float samples `[N, C, *spatial]` in [0, 1] and their positions in the split, int64 `[N]` → augmented samples.
View = Callable[[Tensor, Tensor], Tensor]


def unchanged(samples: Tensor, index: Tensor) -> Tensor:
    """The view of evaluation."""
    return samples


def described(augmentations: Sequence[Augmentation]) -> str | None:
    """The classes and the parameters of augmentations; None if their text may not tell them apart."""
    text = " ".join(f"{type(each).__module__}.{type(each).__qualname__} {vars(each)}" for each in augmentations)
    if " at 0x" in text or any(isinstance(each, PerSample) for each in augmentations):
        return None
    return text


def features_of(
    split: Split,
    views: Sequence[View],
    body: Callable[[Tensor], Tensor],
    trainer: Trainer,
    store: FeatureStore | None = None,
) -> list[Split]:
    """The split with features float32 `[N, F]` in place of its samples, once for each view. A collective call.

    Args:
        split: N samples.
        views: applied to each sample on the device.
        body: float samples `[n, C, *spatial]` → `[n, F]`.
        trainer: of a fit that has begun.
        store: where they are looked for first, and saved.
    """
    features = store.load(len(views), len(split.labels)) if store else None
    if not trainer.strategy.reduce_boolean_decision(features is not None):
        features = _compute(split, views, body, trainer)
        if store and trainer.local_rank == 0:
            store.save(features)
    assert features is not None
    rows = np.arange(len(split.labels))
    return [split._replace(inputs=InMemory(view), rows=rows) for view in features]


def _compute(split: Split, views: Sequence[View], body: Callable[[Tensor], Tensor], trainer: Trainer) -> np.ndarray:
    """The features of all views, float32 `[views, N, F]`. Each rank computes a share of them.

    Samples are taken in the same chunks on any number of ranks.
    """
    device = trainer.strategy.root_device
    count, size = len(split.labels), CPU_CHUNK if device.type == "cpu" else GPU_CHUNK
    chunks = [np.arange(start, min(start + size, count)) for start in range(0, count, size)]
    chunks = chunks[trainer.global_rank :: trainer.world_size]
    shape = body(torch.zeros(1, *split.inputs.shape, device=device)).shape[1:]  # also warms up
    size_in_memory = 4 * len(views) * count * math.prod(shape)
    if not trainer.strategy.reduce_boolean_decision(size_in_memory < MAX_MEMORY_FRACTION * free_memory()):
        fix = "lower datamodule.views, or name the frozen parameters instead"
        raise UserError(f"lit_module.freeze: body: its outputs need {size_in_memory / 2**30:.1f} GiB; {fix}")
    features = torch.zeros(len(views), count, *shape)
    estimate = _Estimate(sum(map(len, chunks)), len(views))
    parts = zip(chunks, split.read(chunks), strict=True)
    for positions, samples in progress(parts, estimate.total, "frozen body", lambda part: len(part[0])):
        index = torch.from_numpy(positions)
        inputs = to_float(samples.to(device))
        for number, view in enumerate(views):
            features[number, index] = body(view(inputs, index.to(device))).float().cpu()
        if trainer.is_global_zero:
            estimate.add(len(positions))
    if trainer.world_size > 1:  # zeros for the shares of the other ranks
        for view in features:
            view.copy_(trainer.strategy.reduce(view.to(device), reduce_op="sum"))
    return features.numpy()


class _Estimate:
    """Prints an estimate of the time once, if it is long.

    Args:
        total: number of samples.
        views: number of views of each.
    """

    def __init__(self, total: int, views: int) -> None:
        self.total = total
        self._views = f" × {views} views" if views > 1 else ""
        self._done = 0
        self._began = time.perf_counter()
        self._announced = False

    def add(self, samples: int) -> None:
        self._done += samples
        seconds = time.perf_counter() - self._began
        if self._announced or seconds < MEASURED_SECONDS:
            return
        self._announced = True
        expected = seconds * self.total / self._done
        if expected > MIN_ANNOUNCED_SECONDS:
            tqdm.write(f"frozen body: once over {self.total:,} samples{self._views}, about {expected:.0f} s")
