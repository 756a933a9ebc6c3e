"""The scores of one split over one epoch: counts are exact on any number of batches and ranks."""

from collections.abc import Callable

import torch
import torch.distributed as dist
from torch import Tensor
from torchmetrics import Metric

# Sums of floats depend on the order of addition, sums of integers do not. Loss and probability are added as multiples
# of 2⁻²⁴, so that ranks and batches may come in any order; a batch's mean loss itself is a float, rounded as such.
UNIT = 2**24
# A batch with a larger sum than this has diverged; the loss of its epoch is infinite.
LARGEST = 2.0**52
# So many batches are counted at once: a dozen small operations for each would be felt beside a small network's step.
TOGETHER = 32
SMALL = 2**18  # logits; of a batch with more, they would take memory


class Scores(Metric):
    """Loss, accuracy, macro F1 and likelihood. Only `add` runs in a step; it waits for no device.

    Accuracy is micro-averaged. F1 is the mean over the classes that occur among the labels or the predictions, as
    scikit-learn computes it. Likelihood is the mean probability that the true class was given.

    Args:
        num_classes: number of logits.
        share: tells from the targets of a batch what its mean loss was divided by, a scalar.
    """

    full_state_update = False
    confusion: Tensor
    likelihood_sum: Tensor
    loss_sum: Tensor
    shares: Tensor
    overflows: Tensor

    def __init__(self, num_classes: int, share: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.share = share
        self._taken: list[tuple[Tensor, ...]] = []
        counts = torch.zeros(num_classes, num_classes, dtype=torch.int64)  # [true, predicted]
        self.add_state("confusion", counts, dist_reduce_fx="sum")
        self.add_state("likelihood_sum", torch.zeros(num_classes, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("loss_sum", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("shares", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("overflows", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def add(self, logits: Tensor, labels: Tensor, loss: Tensor, targets: Tensor) -> None:
        """Takes a batch, to be counted together with others if it is small, which changes no bit.

        Args:
            logits: float `[N, num_classes]`
            labels: int64 `[N]`
            loss: their mean loss, a scalar.
            targets: what the loss was told of.
        """
        self._taken.append((logits, labels, loss, targets))
        if len(self._taken) == TOGETHER or logits.numel() > SMALL:
            self.count()

    def count(self) -> None:
        """Counts what `add` took; must come before `compute`."""
        if self._taken:
            logits, labels, loss, targets = zip(*self._taken, strict=True)
            self._taken.clear()
            shares = torch.stack([self.share(each) for each in targets])
            self.update(torch.cat(logits), torch.cat(labels), torch.stack(loss), shares)

    def update(self, logits: Tensor, labels: Tensor, loss: Tensor, share: Tensor) -> None:
        """Counts B batches of N samples in all.

        Args:
            logits: float `[N, num_classes]`
            labels: int64 `[N]`
            loss: the mean loss of each batch, `[B]`
            share: what that mean was divided by, `[B]`: the number of samples, or the sum of their weights.
        """
        probabilities = logits.float().softmax(1)
        likelihood = probabilities.gather(1, labels[:, None])[:, 0].nan_to_num(0.0)  # [N]
        cells = labels * self.num_classes + logits.argmax(1)
        self.confusion.view(-1).index_add_(0, cells, torch.ones_like(cells))
        self.likelihood_sum.index_add_(0, labels, (likelihood * UNIT).round().long())
        total = loss.float() * share * UNIT
        counts = total.abs() < LARGEST  # false for NaN too
        self.loss_sum += torch.where(counts, total, 0).round().long().sum()
        self.shares += (share * UNIT).round().long().sum()
        self.overflows += (~counts).sum()

    def merged_state(self) -> dict[str, Tensor]:
        """The sums over all ranks, on the CPU; every rank must call this at the same time."""
        self.count()
        state: dict[str, Tensor] = {name: getattr(self, name).clone() for name in self._defaults}
        if dist.is_initialized():
            for value in state.values():
                dist.all_reduce(value)
        return {name: value.cpu() for name, value in state.items()}

    def add_state_of(self, state: dict[str, Tensor]) -> None:
        """Adds what `merged_state` gave, on one rank alone."""
        for name, value in state.items():
            getattr(self, name).add_(value.to(self.device))
        self._update_count = 1

    def compute(self) -> dict[str, Tensor]:
        """`loss`, `acc`, `f1`, `likelihood`: float64 scalars; `likelihood_per_class`: float64 `[num_classes]`, NaN for
        a class without samples. All on the CPU."""
        confusion = self.confusion.cpu().double()
        true, predicted, hits = confusion.sum(1), confusion.sum(0), confusion.diagonal()
        occurs = true + predicted > 0
        likelihood = self.likelihood_sum.cpu().double() / UNIT
        return {
            "loss": self.loss_sum.cpu().double() / self.shares.cpu() if not self.overflows else torch.tensor(torch.inf),
            "acc": hits.sum() / true.sum(),
            "f1": (2 * hits / (true + predicted))[occurs].mean(),
            "likelihood": likelihood.sum() / true.sum(),
            "likelihood_per_class": likelihood / true,
        }
