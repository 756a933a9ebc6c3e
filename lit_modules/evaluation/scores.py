"""Metrics of one split over one epoch, independent of batch size and number of ranks."""

import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

from lit_modules.evaluation.predictions import THRESHOLD

# Float sums depend on the order of addition, integer sums do not. Losses and probabilities are therefore accumulated as
# integer multiples of 2⁻²⁴, in any order of batches and ranks. Only the mean loss of each batch is a rounded float.
UNIT = 2**24
# A batch whose scaled loss sum exceeds this has diverged; the loss of the epoch is then infinite.
LARGEST = 2.0**52
# Batches per update: the dozen small kernels of an update are noticeable beside one step of a small network.
FLUSH_EVERY = 32
# Logits per batch; larger batches are not buffered, to limit memory.
MAX_BUFFERED = 2**18
NAMES = ("loss", "acc", "f1", "likelihood")
# Names of states in checkpoints of earlier versions.
OLD_STATE_NAMES = {"shares": "denominators"}


class BufferedScores(Metric):
    """The mean loss of a split, and scores that a subclass counts.

    `buffer` is meant for the training loop: it does not synchronize with the device, and `compute` includes all
    buffered batches. `update` counts batches immediately.

    Args:
        num_classes: number of logits.
        denominator: maps the targets of a batch to the divisor of its mean loss, a scalar.
    """

    full_state_update = False
    likelihood_sum: Tensor
    loss_sum: Tensor
    denominators: Tensor
    overflows: Tensor

    def __init__(self, num_classes: int, denominator: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.denominator = denominator
        self._pending: list[tuple[Tensor, ...]] = []
        self.add_count("likelihood_sum", num_classes)
        self.add_count("loss_sum")
        self.add_count("denominators")
        self.add_count("overflows")

    def add_count(self, name: str, *shape: int) -> None:
        """Adds a state of integers, which is summed over ranks."""
        self.add_state(name, torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def buffer(self, logits: Tensor, labels: Tensor, loss: Tensor, targets: Tensor) -> None:
        """Buffers a batch; the result equals that of `update` bit for bit.

        Args:
            logits: float `[N, num_classes]`
            labels: int64 `[N]`, or 0/1 `[N, num_classes]`
            loss: mean loss of the batch, a scalar.
            targets: targets passed to the loss.
        """
        self._pending.append((logits, labels, loss, targets))
        if len(self._pending) == FLUSH_EVERY or logits.numel() > MAX_BUFFERED:
            self.flush()

    def flush(self) -> None:
        """Updates the states with all buffered batches."""
        if not self._pending:
            return
        logits, labels, losses, targets = zip(*self._pending, strict=True)
        self._pending.clear()
        denominators = torch.stack([self.denominator(batch_targets) for batch_targets in targets])
        self.update(torch.cat(logits), torch.cat(labels), torch.stack(losses), denominators)

    def update(self, logits: Tensor, labels: Tensor, losses: Tensor, denominators: Tensor) -> None:
        """Counts B batches with N samples in total.

        Args:
            logits: float `[N, num_classes]`
            labels: int64 `[N]`, or 0/1 `[N, num_classes]`
            losses: mean loss of each batch, `[B]`
            denominators: divisor of each mean, `[B]`: the number of samples, or the sum of their class weights.
        """
        self.count(logits, labels)
        loss_sums = losses.float() * denominators * UNIT
        in_range = loss_sums.abs() < LARGEST  # False for NaN too
        self.loss_sum += torch.where(in_range, loss_sums, 0).round().long().sum()
        self.denominators += (denominators * UNIT).round().long().sum()
        self.overflows += (~in_range).sum()

    def count(self, logits: Tensor, labels: Tensor) -> None:
        """Adds samples to the states of a subclass."""
        raise NotImplementedError

    def merged_state(self) -> dict[str, Tensor]:
        """The states summed over all ranks, on the CPU. Collective: all ranks must call it."""
        self.flush()
        state: dict[str, Tensor] = {name: getattr(self, name).clone() for name in self._defaults}
        if dist.is_initialized():
            for value in state.values():
                dist.all_reduce(value)
        return {name: value.cpu() for name, value in state.items()}

    def add_merged_state(self, state: dict[str, Tensor]) -> None:
        """Adds the result of `merged_state`; to be called on one rank only."""
        for name, value in state.items():
            getattr(self, OLD_STATE_NAMES.get(name, name)).add_(value.to(self.device))
        self._update_count = 1

    def mean_loss(self) -> Tensor:
        """float64 scalar on the CPU; infinite after a batch that diverged."""
        loss = self.loss_sum.cpu().double() / self.denominators.cpu()
        return loss if not self.overflows else torch.tensor(torch.inf)

    def reset(self) -> None:
        self._pending.clear()
        super().reset()

    def _wrap_compute(self, compute: Callable[..., Any]) -> Callable[..., Any]:
        """Flushes before torchmetrics reduces the states over ranks and calls `compute`."""
        reduce_and_compute = super()._wrap_compute(compute)

        @functools.wraps(compute)
        def flush_and_compute(*args: Any, **kwargs: Any) -> Any:
            self.flush()
            return reduce_and_compute(*args, **kwargs)

        return flush_and_compute


class Scores(BufferedScores):
    """Loss, accuracy, macro F1 and mean likelihood.

    Accuracy is micro-averaged. F1 is averaged over the classes that occur among the labels or the predictions, as in
    scikit-learn. Likelihood is the mean predicted probability of the true class.
    """

    confusion: Tensor

    def __init__(self, num_classes: int, denominator: Callable[[Tensor], Tensor]) -> None:
        super().__init__(num_classes, denominator)
        self.add_count("confusion", num_classes, num_classes)  # [true, predicted]

    def count(self, logits: Tensor, labels: Tensor) -> None:
        probabilities = logits.float().softmax(1)
        likelihood = probabilities.gather(1, labels[:, None])[:, 0].nan_to_num(0.0)  # [N]
        cells = labels * self.num_classes + logits.argmax(1)
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))
        self.likelihood_sum.index_add_(0, labels, (likelihood * UNIT).round().long())

    def compute(self) -> dict[str, Tensor]:
        """The metrics, on the CPU: `loss`, `acc`, `f1` and `likelihood` are float64 scalars; `likelihood_per_class` is
        float64 `[num_classes]`, NaN for classes without samples."""
        confusion = self.confusion.cpu().double()
        true = confusion.sum(1)
        predicted = confusion.sum(0)
        hits = confusion.diagonal()
        occurs = true + predicted > 0
        likelihood = self.likelihood_sum.cpu().double() / UNIT
        return {
            "loss": self.mean_loss(),
            "acc": hits.sum() / true.sum(),
            "f1": (2 * hits / (true + predicted))[occurs].mean(),
            "likelihood": likelihood.sum() / true.sum(),
            "likelihood_per_class": likelihood / true,
        }


class MultiLabelScores(BufferedScores):
    """The same where a sample may have several labels.

    Accuracy is the fraction of samples whose labels are all right, as in scikit-learn. F1 is averaged over the labels
    that occur or are predicted. Likelihood is the mean probability of what is true: that a label is there, or is not.
    """

    num_true: Tensor
    num_predicted: Tensor
    hits: Tensor
    num_correct: Tensor
    num_samples: Tensor

    def __init__(self, num_classes: int, denominator: Callable[[Tensor], Tensor]) -> None:
        super().__init__(num_classes, denominator)
        for name in ("num_true", "num_predicted", "hits"):
            self.add_count(name, num_classes)
        self.add_count("num_correct")
        self.add_count("num_samples")

    def count(self, logits: Tensor, labels: Tensor) -> None:
        probabilities = logits.float().sigmoid()
        predicted = (probabilities >= THRESHOLD).long()
        self.num_true += labels.sum(0)
        self.num_predicted += predicted.sum(0)
        self.hits += (labels * predicted).sum(0)
        self.num_correct += (labels == predicted).all(1).sum()
        self.num_samples += len(labels)
        likelihood = torch.where(labels == 1, probabilities, 1 - probabilities).nan_to_num(0.0)
        self.likelihood_sum += (likelihood * UNIT).round().long().sum(0)

    def compute(self) -> dict[str, Tensor]:
        """As of `Scores`."""
        hits = self.hits.cpu().double()
        occurrences = (self.num_true + self.num_predicted).cpu()
        samples = self.num_samples.cpu().double()
        likelihood = self.likelihood_sum.cpu().double() / UNIT / samples
        return {
            "loss": self.mean_loss(),
            "acc": self.num_correct.cpu() / samples,
            "f1": (2 * hits / occurrences)[occurrences > 0].mean(),
            "likelihood": likelihood.mean(),
            "likelihood_per_class": likelihood,
        }
