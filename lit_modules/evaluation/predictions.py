"""Predictions for every sample of a split, gathered from all batches and ranks."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from lit_modules.evaluation.significance import all_right

# Number of the worst mistakes that are kept.
MAX_MISTAKES = 24
# Of several labels, those of at least this probability are predicted.
THRESHOLD = 0.5


class Predictions(NamedTuple):
    """The samples of a split sorted by index, each once."""

    index: np.ndarray  # type: ignore[assignment]  # hides tuple.index, which is unused
    """int64 `[N]`: positions in the split"""
    true: np.ndarray
    """int64 `[N]`, or 0/1 `[N, num_classes]` where a sample may have several labels"""
    predicted: np.ndarray
    """The same: argmax of the logits, or whether a probability is at least `THRESHOLD`"""
    probabilities: np.ndarray
    """float32 `[N, num_classes]`"""
    mistakes: np.ndarray
    """int64 `[M]`, M ≤ 24: rows of the most confident wrong predictions, worst first"""

    @property
    def correct(self) -> np.ndarray:
        """See `all_right`."""
        return all_right(self.true, self.predicted)


def names_of(label: Any, class_names: Sequence[str]) -> list[str]:
    """The name of a label, or those of a row of a 0/1 matrix."""
    label = np.asarray(label)
    return [class_names[position] for position in (np.flatnonzero(label).tolist() if label.ndim else [int(label)])]


def probabilities_of(logits: Tensor, multi_label: bool) -> Tensor:
    """Logits → probabilities, both `[N, num_classes]`: of one class, or with `multi_label` of each by itself."""
    return logits.sigmoid() if multi_label else logits.softmax(1)


def error_confidence(true: Tensor, predicted: Tensor, probabilities: Tensor) -> Tensor:
    """How confident each mistake is, `[N]`; of several labels the most confident one. -1 marks correct predictions:
    filtering them would synchronize with the device. Arguments as in `Predictions`."""
    if true.ndim == 1:
        return torch.where(predicted == true, -1.0, probabilities.amax(1))
    return torch.where(predicted == true, -1.0, torch.maximum(probabilities, 1 - probabilities)).amax(1)


class Collector:
    """Accumulates the batches of one pass over a split, on the device and without synchronizing."""

    def __init__(self) -> None:
        self._rows: list[tuple[Tensor, ...]] = []
        self._worst: tuple[Tensor, ...] = ()

    def add(self, batch: Any, logits: Tensor) -> None:
        """Adds a batch `(inputs, labels, index, …)`, possibly empty, and its logits `[N, num_classes]`."""
        logits = logits.detach().float()
        is_multi_label = batch.labels.ndim == 2
        probabilities = probabilities_of(logits, is_multi_label)
        predicted = (probabilities >= THRESHOLD).long() if is_multi_label else logits.argmax(1)
        self._rows.append((batch.index, batch.labels, predicted, probabilities))
        worst = _highest((error_confidence(batch.labels, predicted, probabilities), batch.index))
        if self._worst:
            worst = _highest(tuple(torch.cat(parts) for parts in zip(self._worst, worst, strict=True)))
        self._worst = worst

    def gather(self) -> Predictions | None:
        """Gathers the predictions of all ranks on rank 0; returns None on the others. A collective call."""
        rows = gather_rows(tuple(torch.cat(parts) for parts in zip(*self._rows, strict=True)))
        worst = gather_rows(self._worst)
        if rows is None or worst is None:
            return None
        index, true, predicted, probabilities = rows
        order = index.argsort()
        confidence, mistakes = worst
        kept = np.lexsort((mistakes, -confidence))  # ties: the lowest index first
        kept = kept[confidence[kept] >= 0][:MAX_MISTAKES]
        return Predictions(
            index[order],
            true[order],
            predicted[order],
            probabilities[order],
            np.searchsorted(index[order], mistakes[kept]),
        )


def evenly_spaced(wanted: int, batch_idx: int, batch_size: int, num_batches: int) -> slice:
    """Rows of a batch to keep, so that about `wanted` samples are evenly spaced over the split.

    The split may be sorted by class.
    """
    stride = max(1, num_batches * batch_size // wanted)
    return slice(-batch_idx * batch_size % stride, None, stride)


def _highest(parts: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """The at most 24 rows with the largest values in the first tensor."""
    kept = parts[0].topk(min(MAX_MISTAKES, len(parts[0]))).indices
    return tuple(part[kept] for part in parts)


def gather_rows(parts: tuple[Tensor, ...]) -> list[np.ndarray] | None:
    """The rows of all ranks on rank 0, None on the others; their number may differ by rank. A collective call."""
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
            merged = torch.cat([rows[:count] for rows, count in zip(received, counts, strict=True)])
            gathered.append(merged.cpu().numpy())
    return gathered or None
