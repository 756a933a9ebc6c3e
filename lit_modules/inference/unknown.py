"""Unknown inputs: those whose features are unlike the features of all validation samples.

Source: Sun et al., "Out-of-distribution detection with deep nearest neighbors", arXiv:2204.06507. Validation samples
replace the training samples of the paper: no further pass over the data is needed, and a network's features of what it
was trained on are unlike its features of new samples. For trained networks on digits and photographs this told unknown
inputs apart at least as well as the energy of the logits (arXiv:2010.03759), the maximum logit and the maximum
probability; for a network of 42% accuracy none of them did. Figures are in tests/benchmarks/README.md.
"""

import threading
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from torch import Tensor, nn

from conf.errors import UserError
from conf.files import write_durably
from lit_modules.inference.conformal import lower_quantile
from lit_modules.networks.head import head_of
from lit_modules.runs import checkpoints

FILE = "validation_features.npz"
NEIGHBOUR = 5  # the similarity to the fifth nearest validation sample counts: one mislabelled or odd one does not
MAX_VALUES = 2**22  # of the saved features, 16 MiB
FALSE_ALARM_RATE = 0.05  # in summary.json and report.md


class KnownInputs:
    """Tells whether inputs are known, by the features of a forward pass.

    Args:
        net: whose head receives the features; several threads may call it.
        reference: unit vectors of the features of validation samples, float `[M, D]`.
        false_alarm_rate: fraction of inputs like the validation samples that are called unknown.

    Raises:
        UserError: M < 1 / `false_alarm_rate` - 1.
    """

    def __init__(self, net: nn.Module, reference: Tensor, false_alarm_rate: float) -> None:
        self._reference = reference
        self._last = threading.local()
        self.threshold = familiarity_threshold(reference, false_alarm_rate)
        self._hook = head_of(net).register_forward_pre_hook(self._receive)

    def __enter__(self) -> "KnownInputs":
        return self

    def __exit__(self, *_: object) -> None:
        self._hook.remove()

    def _receive(self, _head: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        self._last.features = arguments[0]

    def of_last_batch(self) -> list[bool]:
        """Whether each input of this thread's last forward pass is known."""
        known: list[bool] = (familiarity(self._last.features, self._reference) >= self.threshold).tolist()
        return known


def familiarity(features: Tensor, reference: Tensor) -> Tensor:
    """Cosine similarity to the fifth most similar validation sample, `[N]`.

    Args:
        features: `[N, …]`.
        reference: unit vectors, float `[M, D]`.
    """
    similarity = unit_vectors(features) @ reference.to(features.device).T
    return similarity.topk(min(NEIGHBOUR, len(reference)), dim=1).values[:, -1]


def familiarity_threshold(reference: Tensor, false_alarm_rate: float) -> float:
    """The familiarity below which an input is unknown, from that of each validation sample with the others.

    Raises:
        UserError: there are too few of them for the rate.
    """
    count = len(reference)
    similarity = reference @ reference.T
    similarity.fill_diagonal_(-torch.inf)
    scores = similarity.topk(max(1, min(NEIGHBOUR, count - 1)), dim=1).values[:, -1]
    return lower_quantile(scores.double().cpu().numpy(), false_alarm_rate, "unknown", false_alarm_rate)


def unit_vectors(features: Tensor) -> Tensor:
    """`[N, …]` → float32 `[N, D]` of length 1"""
    return nn.functional.normalize(features.flatten(1).float(), dim=1)


def save_features(folder: Path, epoch: int, val: Tensor, test: Tensor) -> dict[str, Any]:
    """Saves the features of validation samples to a run's folder, and measures false alarms on the test split.

    Args:
        folder: of the run.
        epoch: of the weights.
        val, test: features `[N, D]`; N = 0 if the network has none.

    Returns:
        For summary.json: the fraction of test samples that are called unknown; nothing if samples are too few.
    """
    (folder / FILE).unlink(missing_ok=True)  # of another epoch
    if not len(val):
        return {}
    vectors = unit_vectors(val)
    stride = -(-vectors.numel() // MAX_VALUES)
    reference = vectors[::stride]
    content = reference.cpu().numpy()
    write_durably(folder / FILE, lambda file: np.savez(file, features=content, epoch=np.array(epoch)))
    if len(reference) + 1 < 1 / FALSE_ALARM_RATE or not len(test):
        return {}
    alarms = familiarity(test, reference) < familiarity_threshold(reference, FALSE_ALARM_RATE)
    return {f"unknown/{FALSE_ALARM_RATE}/false_alarm_rate": float(alarms.double().mean())}


def known_inputs(folder: Path, net: nn.Module, false_alarm_rate: float) -> KnownInputs:
    """For the best epoch of a run, whose network is `net`.

    Raises:
        UserError: the run has no or too few features of validation samples, or those of another epoch.
    """
    path = folder / FILE
    try:
        with np.load(path, allow_pickle=False) as content:
            features, epoch = content["features"], int(content["epoch"])
        if features.ndim != 2 or features.dtype != np.float32 or epoch != checkpoints.best(folder)["epoch"]:
            raise ValueError("these are not the features of the best epoch")
    except (OSError, ValueError, KeyError, TypeError, EOFError, BadZipFile) as error:
        fix = f"finish the training with run={folder}, or leave unknown out"
        raise UserError(f"unknown: {path} holds no features of the best epoch; {fix}") from error
    reference = torch.from_numpy(features).to(next(net.parameters()).device)
    return KnownInputs(net, reference, false_alarm_rate)
