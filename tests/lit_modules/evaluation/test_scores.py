"""Scores equal scikit-learn's for any batch size and number of ranks."""

import copy
import math
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, f1_score, log_loss
from torch import Tensor, nn
from torch.nn import functional as F

from lit_modules.evaluation.scores import FLUSH_EVERY, MAX_BUFFERED, Scores
from lit_modules.optim.losses import loss_denominator

CLASSES = 6
DENOMINATOR = partial(loss_denominator, nn.CrossEntropyLoss())
# Which classes occur among the labels, and which the logits can choose.
CASES = {
    "all classes": (range(6), range(6)),
    "one absent from the labels": ((0, 1, 2, 4, 5), range(6)),
    "one absent from both": ((0, 1, 2, 4, 5), (0, 1, 2, 4, 5)),
    "one never predicted": (range(6), (0, 1, 2, 4, 5)),
}


def predictions(labelled: object = range(6), predicted: object = range(6), count: int = 217) -> tuple[Tensor, Tensor]:
    """Random logits `[N, CLASSES]` that are right about half of the time, and labels."""
    generator = np.random.default_rng(0)
    labels = generator.choice(list(labelled), count)
    logits = generator.normal(size=(count, CLASSES)) + 1.5 * np.eye(CLASSES)[labels]
    logits[:, [c for c in range(CLASSES) if c not in predicted]] -= 20
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def score(logits: Tensor, labels: Tensor, sizes: list[int] | None = None) -> Scores:
    metric = Scores(CLASSES, DENOMINATOR)
    sizes = sizes or [len(labels)]
    for batch, targets in zip(logits.split(sizes), labels.split(sizes), strict=True):
        metric.update(batch, targets, F.cross_entropy(batch, targets), torch.tensor(float(len(batch))))
    return metric


def probabilities(logits: Tensor) -> np.ndarray:
    exponentials = np.exp(logits.double().numpy())
    return exponentials / exponentials.sum(1, keepdims=True)


@pytest.mark.parametrize("case", CASES)
def test_scores_equal_those_of_scikit_learn(case: str) -> None:
    logits, labels = predictions(*CASES[case])
    p, y = probabilities(logits), labels.numpy()

    scores = score(logits, labels, [100, 100, 17]).compute()

    assert scores["acc"].item() == pytest.approx(accuracy_score(y, p.argmax(1)), abs=1e-6)
    assert scores["f1"].item() == pytest.approx(f1_score(y, p.argmax(1), average="macro"), abs=1e-6)
    assert scores["loss"].item() == pytest.approx(log_loss(y, p, labels=range(CLASSES)), abs=1e-6)
    assert scores["likelihood"].item() == pytest.approx(p[np.arange(len(y)), y].mean(), abs=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_likelihood_per_class_is_the_mean_over_its_samples(case: str) -> None:
    logits, labels = predictions(*CASES[case])
    p, y = probabilities(logits), labels.numpy()
    expected = [p[y == c, c].mean() if (y == c).any() else math.nan for c in range(CLASSES)]

    likelihood = score(logits, labels).compute()["likelihood_per_class"]

    assert likelihood.numpy() == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("sizes", [[217], [1] * 217, [64, 64, 64, 25], [200, 1, 16]], ids=len)
def test_every_split_into_batches_gives_the_same_bits(sizes: list[int]) -> None:
    logits, labels = predictions()
    whole, split = score(logits, labels).compute(), score(logits, labels, sizes).compute()
    for name in ("acc", "f1", "likelihood", "likelihood_per_class"):
        assert torch.equal(split[name], whole[name]), name
    assert split["loss"].item() == pytest.approx(whole["loss"].item(), abs=1e-6)


@pytest.mark.parametrize("batches", [1, FLUSH_EVERY, 2 * FLUSH_EVERY + 5])
def test_buffer_and_update_give_the_same_bits(batches: int) -> None:
    logits, labels = predictions()
    buffered = Scores(CLASSES, DENOMINATOR)
    updated = Scores(CLASSES, DENOMINATOR)
    for number in range(batches):
        rows = slice(number, number + 3 + number % 7)
        part = (logits[rows], labels[rows], F.cross_entropy(logits[rows], labels[rows]))
        buffered.buffer(*part, labels[rows])
        updated.update(*part, torch.tensor(3.0 + number % 7))
    assert torch.equal(buffered.compute()["loss"], updated.compute()["loss"]), "compute includes buffered batches"
    for name, value in updated.metric_state.items():
        assert torch.equal(value, buffered.metric_state[name]), name  # type: ignore[arg-type]


def test_compute_includes_batches_buffered_since_the_last_one() -> None:
    logits, labels = predictions()
    metric = Scores(CLASSES, DENOMINATOR)
    for rows in (slice(100), slice(100, None)):
        metric.buffer(logits[rows], labels[rows], F.cross_entropy(logits[rows], labels[rows]), labels[rows])
        metric.compute()
    assert torch.equal(metric.compute()["likelihood"], score(logits, labels).compute()["likelihood"])


def test_copied_metric_computes_its_buffered_batches() -> None:
    logits, labels = predictions()
    metric = Scores(CLASSES, DENOMINATOR)
    metric.buffer(logits, labels, F.cross_entropy(logits, labels), labels)
    copied = copy.deepcopy(metric)
    assert torch.equal(copied.compute()["acc"], metric.compute()["acc"])


def test_large_batch_is_not_buffered() -> None:
    metric = Scores(CLASSES, DENOMINATOR)
    labels = torch.zeros(MAX_BUFFERED, dtype=torch.int64)
    metric.buffer(torch.zeros(MAX_BUFFERED, CLASSES), labels, torch.tensor(1.0), labels)
    assert metric.confusion.sum() == MAX_BUFFERED and not metric._pending


def test_saved_state_of_an_earlier_version_is_loaded() -> None:
    logits, labels = predictions()
    state = score(logits, labels).merged_state()
    state["shares"] = state.pop("denominators")
    metric = Scores(CLASSES, DENOMINATOR)
    metric.add_merged_state(state)
    assert torch.equal(metric.compute()["loss"], score(logits, labels).compute()["loss"])


def test_order_of_samples_does_not_matter() -> None:
    logits, labels = predictions()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    expected = score(logits, labels).metric_state
    shuffled = score(logits[order], labels[order]).metric_state
    for name in ("confusion", "likelihood_sum"):
        assert torch.equal(shuffled[name], expected[name]), name


def test_sum_of_two_ranks_equals_the_whole() -> None:
    logits, labels = predictions()
    first, second = score(logits[::2], labels[::2]), score(logits[1::2], labels[1::2])
    first.merge_state(second)
    whole = score(logits, labels).compute()
    for name, value in first.compute().items():
        assert torch.allclose(value, whole[name], rtol=1e-6, atol=0), name
        assert name == "loss" or torch.equal(value, whole[name]), name


def test_reset_clears_states_and_buffer() -> None:
    logits, labels = predictions()
    metric = score(logits, labels)
    metric.buffer(logits, labels, F.cross_entropy(logits, labels), labels)
    metric.reset()
    metric.update(logits[:50], labels[:50], F.cross_entropy(logits[:50], labels[:50]), torch.tensor(50.0))
    fresh = score(logits[:50], labels[:50]).compute()
    for name, value in metric.compute().items():
        assert torch.equal(value, fresh[name]), name


def test_half_precision_logits_are_scored_in_single_precision() -> None:
    logits, labels = predictions()
    half = logits.bfloat16()
    scores = score(half, labels).compute()
    expected = score(half.float(), labels).compute()
    assert torch.equal(scores["likelihood"], expected["likelihood"])


@pytest.mark.parametrize("loss", [math.nan, math.inf, 1e13])
def test_diverged_loss_never_looks_small(loss: float) -> None:
    logits, labels = predictions()
    metric = score(logits, labels)
    metric.update(logits, labels, torch.tensor(loss), torch.tensor(float(len(labels))))
    assert not metric.compute()["loss"].item() < 1e12


def test_likelihood_of_nan_logits_is_nan_or_low() -> None:
    labels = torch.tensor([0, 1])
    metric = Scores(CLASSES, DENOMINATOR)
    metric.update(torch.full((2, CLASSES), math.nan), labels, torch.tensor(math.nan), torch.tensor(2.0))
    likelihood = metric.compute()["likelihood"].item()
    assert math.isnan(likelihood) or 0 <= likelihood <= 1 / CLASSES
