"""Predictions: what the network said of every sample of a split, collected from all batches and ranks."""

from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

# So many of the worst mistakes are kept with their inputs.
MISTAKES = 24


class Predictions(NamedTuple):
    """A split's samples in the order of their index, each once."""

    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    """int64 `[N]`: positions in the split"""
    true: np.ndarray
    """int64 `[N]`"""
    predicted: np.ndarray
    """int64 `[N]`: the class of the highest logit"""
    probabilities: np.ndarray
    """float32 `[N, num_classes]`"""
    mistakes: np.ndarray
    """int64 `[M]`, M ≤ 24: rows of the wrong predictions with the highest probability, the worst first"""
    mistaken_inputs: np.ndarray
    """float32 `[M, C, *spatial]`: their inputs as the network got them"""


class Collector:
    """Takes batches of one pass over a split. What it keeps stays on the device, and no batch waits for it."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, ...]] = []
        self._worst: tuple[Tensor, ...] = ()

    def add(self, batch: Any, logits: Tensor) -> None:
        """Adds a batch `(inputs, labels, index, …)`, which may be empty, and its logits `[N, num_classes]`."""
        logits = logits.detach().float()
        probabilities = logits.softmax(1)
        predicted = logits.argmax(1)
        self._rows.append((batch.index, batch.labels, predicted, probabilities))
        # Of a right prediction -1: so the worst are kept without asking the device whether there are any.
        wrongness = torch.where(predicted == batch.labels, -1.0, probabilities.amax(1))
        worst = _highest((wrongness, batch.index, batch.inputs.float()))
        if self._worst:
            worst = _highest(tuple(torch.cat(parts) for parts in zip(self._worst, worst, strict=True)))
        self._worst = worst

    def gather(self) -> Predictions | None:
        """All ranks' predictions, on the first rank; None on the others. Every rank must call this."""
        rows = _gather(tuple(torch.cat(parts) for parts in zip(*self._rows, strict=True)))
        worst = _gather(self._worst)
        if rows is None or worst is None:
            return None
        index, true, predicted, probabilities = rows
        order = index.argsort()
        wrongness, mistakes, inputs = worst
        kept = np.lexsort((mistakes, -wrongness))  # of equal ones the first of the split
        kept = kept[wrongness[kept] >= 0][:MISTAKES]
        return Predictions(
            index[order],
            true[order],
            predicted[order],
            probabilities[order],
            np.searchsorted(index[order], mistakes[kept]),
            inputs[kept],
        )


def evenly_spaced(wanted: int, batch_idx: int, batch_size: int, num_batches: int) -> slice:
    """Which rows of a batch to keep, so that about `wanted` of all come from all over a split, whose samples may be
    in the order of their classes."""
    stride = max(1, num_batches * batch_size // wanted)
    return slice(-batch_idx * batch_size % stride, None, stride)


def _highest(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The rows in which the first part is highest, at most 24."""
    kept = parts[0].topk(min(MISTAKES, len(parts[0]))).indices
    return tuple(part[kept] for part in parts)


def _gather(parts: tuple[Tensor, ...]) -> list[np.ndarray] | None:
    """The rows of all ranks, one rank after another, on the first rank. Each may have another number of them."""
    if not dist.is_initialized():
        return [part.cpu().numpy() for part in parts]
    counts = [torch.zeros((), dtype=torch.int64, device=parts[0].device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor(len(parts[0]), device=parts[0].device))
    gathered = []
    for part in parts:
        padded = part.new_zeros(max(map(int, counts)), *part.shape[1:])
        padded[: len(part)] = part
        received = [torch.empty_like(padded) for _ in counts] if dist.get_rank() == 0 else None
        dist.gather(padded, received)
        if received is not None:
            whole = torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])
            gathered.append(whole.cpu().numpy())
    return gathered or None
