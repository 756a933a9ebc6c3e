"""AsymmetricLoss: of several labels a sample, most of which are absent."""

from typing import Annotated

import torch.nn.functional as F
from annotated_types import Ge, Interval
from torch import Tensor, nn

EPSILON = 1e-8


class AsymmetricLoss(nn.Module):
    """Binary cross-entropy in which easy labels, above all absent ones, count less.

    With p the probability of a label and q = max(p - margin, 0): -(1 - p)^gamma_positive · log(p) for a label that is
    there, -q^gamma_negative · log(1 - q) for another; the mean over labels and samples. Two equal gammas and no margin
    make the focal loss of arXiv:1708.02002 without its alpha.

    Source: Ridnik et al., "Asymmetric loss for multi-label classification", arXiv:2009.14119, equations 4 and 7.

    Args:
        gamma_negative, gamma_positive: see above; 0 and 0 make binary cross-entropy.
        margin: probability below which an absent label does not count.
    """

    def __init__(
        self,
        *,
        gamma_negative: Annotated[float, Ge(0)],
        gamma_positive: Annotated[float, Ge(0)],
        margin: Annotated[float, Interval(ge=0, lt=1)],
    ) -> None:
        super().__init__()
        self.gamma_negative = gamma_negative
        self.gamma_positive = gamma_positive
        self.margin = margin

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Logits and targets in [0, 1], both float `[N, num_classes]` → the mean loss, a scalar."""
        if targets.shape != logits.shape:
            raise ValueError(f"targets have the shape {list(targets.shape)}, logits {list(logits.shape)}")
        logits = logits.float()
        log_present, log_absent = F.logsigmoid(logits), F.logsigmoid(-logits)
        if self.margin:
            log_absent = (log_absent.exp() + self.margin).clamp(max=1).log()
        # Powers below 1 have no finite gradient at 0.
        present = targets * (-logits).sigmoid().clamp(min=EPSILON) ** self.gamma_positive * log_present
        absent = (1 - targets) * (1 - log_absent.exp()).clamp(min=EPSILON) ** self.gamma_negative * log_absent
        return -(present + absent).mean()
