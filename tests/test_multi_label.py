"""Scores, losses, thresholds and figures of several labels a sample."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.special import expit
from sklearn import metrics
from torch import nn
from torchmetrics.classification import MulticlassAccuracy, MultilabelRankingAveragePrecision
from torchvision.ops import sigmoid_focal_loss

from conf.errors import UserError
from lit_modules.evaluation.activation_maps import explained_labels
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.metrics import Metrics
from lit_modules.evaluation.predictions import Collector, Predictions
from lit_modules.evaluation.scores import MultiLabelScores
from lit_modules.evaluation.significance import bootstrap, macro_f1
from lit_modules.inference.label_thresholds import best_thresholds
from lit_modules.inference.temperature import fit_temperature, temperature_of
from lit_modules.optim.asymmetric_loss import AsymmetricLoss
from lit_modules.optim.distillation import Distillation
from lit_modules.optim.losses import build_loss, resolve_class_weights
from tests.fits import classifier

NAMES = ["ant", "bee", "cat", "dog"]


def samples(count: int = 211, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Logits and labels, both `[N, 4]`."""
    generator = np.random.default_rng(seed)
    labels = (generator.random((count, 4)) < [0.5, 0.3, 0.1, 0.6]).astype(np.int64)
    logits = generator.normal(size=(count, 4)) + 1.5 * (2 * labels - 1)
    return logits.astype(np.float32), labels


def evaluation_of(logits: np.ndarray, labels: np.ndarray) -> Evaluation:
    probabilities = expit(logits)
    predicted = (probabilities >= 0.5).astype(np.int64)
    predictions = Predictions(np.arange(len(labels)), labels, predicted, probabilities, np.zeros(0, np.int64))
    return Evaluation(
        NAMES[: labels.shape[1]], [f"{i}.png" for i in range(len(labels))], predictions, np.zeros((0, 0), np.float32)
    )


@pytest.mark.parametrize("absent", [False, True])
def test_scores_equal_those_of_scikit_learn(absent: bool) -> None:
    logits, labels = samples()
    if absent:  # a label that neither occurs nor is predicted
        logits[:, 1], labels[:, 1] = -5, 0
    p, predicted = expit(logits.astype(np.float64)), (logits >= 0).astype(int)
    scores = MultiLabelScores(4, lambda targets: torch.tensor(float(len(targets))))
    for x, y in zip(torch.tensor(logits).split(100), torch.tensor(labels).split(100), strict=True):
        loss = F.binary_cross_entropy_with_logits(x, y.float())
        scores.update(x, y, loss[None], torch.tensor([float(len(y))]))

    values = {name: value.numpy() for name, value in scores.compute().items()}

    assert values["acc"] == pytest.approx(metrics.accuracy_score(labels, predicted), abs=1e-6)
    f1 = metrics.f1_score(labels, predicted, average="macro", zero_division=np.nan)
    assert values["f1"] == pytest.approx(f1, abs=1e-6)
    log_losses = [metrics.log_loss(labels[:, i], p[:, i], labels=[0, 1]) for i in range(4)]
    assert values["loss"] == pytest.approx(np.mean(log_losses), abs=1e-6)
    likelihood = np.where(labels == 1, p, 1 - p).mean(0)
    np.testing.assert_allclose(values["likelihood_per_class"], likelihood, atol=1e-6)
    assert values["likelihood"] == pytest.approx(likelihood.mean(), abs=1e-6)


def test_an_evaluation_equals_scikit_learn() -> None:
    logits, labels = samples()
    evaluation = evaluation_of(logits, labels)
    p, predicted = expit(logits), (logits >= 0).astype(int)

    for name, value in {
        "precision": metrics.precision_score(labels, predicted, average=None),
        "recall": metrics.recall_score(labels, predicted, average=None),
        "f1": metrics.f1_score(labels, predicted, average=None),
        "auc": metrics.roc_auc_score(labels, p, average=None),
        "ap": metrics.average_precision_score(labels, p, average=None),
        "samples": labels.sum(0),
    }.items():
        np.testing.assert_allclose(evaluation.classes[name], value, atol=1e-6)
    assert evaluation.scores["ap"] == pytest.approx(metrics.average_precision_score(labels, p, average="macro"))
    assert evaluation.scores["auc"] == pytest.approx(metrics.roc_auc_score(labels, p, average="macro"))
    assert evaluation.scores["f1_micro"] == pytest.approx(metrics.f1_score(labels, predicted, average="micro"))
    assert evaluation.scores["hamming"] == pytest.approx(metrics.hamming_loss(labels, predicted))
    two = evaluation_of(logits[:, :2], labels[:, :2])  # labels, not classes against each other
    assert two.scores["auc"] == pytest.approx(metrics.roc_auc_score(labels[:, :2], p[:, :2], average="macro"))
    together = [[(labels[:, i] & labels[:, j]).sum() for j in range(4)] for i in range(4)]
    assert evaluation.co_occurrence.tolist() == together


def test_the_f1_of_a_resample_is_that_of_scikit_learn() -> None:
    _, labels = samples(40)
    predicted = samples(40, seed=1)[1]
    drawn = np.random.default_rng(0).integers(40, size=40)
    weights = np.bincount(drawn, minlength=40)[None]
    expected = metrics.f1_score(labels[drawn], predicted[drawn], average="macro", zero_division=np.nan)
    assert macro_f1(labels, predicted, weights)[0] == pytest.approx(expected)
    resampled = bootstrap(macro_f1, labels, predicted)
    assert resampled.std() > 0.01
    assert resampled.mean() == pytest.approx(metrics.f1_score(labels, predicted, average="macro"), abs=0.02)


def test_the_most_confident_wrong_label_makes_the_worst_mistake() -> None:
    labels = torch.tensor([[1, 0], [1, 0], [0, 0], [1, 1]])
    logits = torch.tensor([[2.0, -1.0], [-3.0, -1.0], [-1.0, 4.0], [0.5, -0.5]])
    collector = Collector()
    collector.add(SimpleNamespace(index=torch.arange(4), labels=labels), logits)
    predictions = collector.gather()
    assert predictions is not None
    assert predictions.mistakes.tolist() == [2, 1, 3]
    assert predictions.correct.tolist() == [True, False, False, False]


def test_maps_are_of_the_most_and_the_least_probable_true_label() -> None:
    probabilities = np.array([[0.9, 0.2, 0.6], [0.1, 0.8, 0.3]], np.float32)
    true = np.array([[0, 1, 1], [1, 1, 0]])
    predictions = Predictions(np.arange(2), true, (probabilities >= 0.5).astype(int), probabilities, np.arange(2))
    assert [explained_labels(predictions, row) for row in range(2)] == [(0, 1), (1, 0)]


def test_temperatures_and_thresholds_are_those_of_each_label(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = samples(400)
    labels[:, 3] = logits[:, 3] > 0  # which determines no temperature
    sharpened = logits * np.array([2.0, 0.5, 1.0, 1.0])
    predictions = evaluation_of(sharpened, labels).predictions
    monkeypatch.setattr("lit_modules.inference.temperature.validation_predictions", lambda *_: predictions)

    temperatures = temperature_of(Path())

    def loss(temperature: float, label: int) -> float:
        return metrics.log_loss(labels[:, label], expit(sharpened[:, label] / temperature))

    assert isinstance(temperatures, np.ndarray)
    for label in range(3):
        at = loss(temperatures[label], label)
        assert at < min(loss(temperatures[label] * 1.02, label), loss(temperatures[label] / 1.02, label))
    pairs = np.stack([1 - predictions.probabilities, predictions.probabilities], 2).reshape(-1, 2)
    assert temperatures[3] == pytest.approx(fit_temperature(pairs, labels.reshape(-1)))

    p = predictions.probabilities
    for label, threshold in enumerate(best_thresholds(p, labels)):
        scores = [metrics.f1_score(labels[:, label], p[:, label] >= at) for at in np.unique(p[:, label])]
        assert metrics.f1_score(labels[:, label], p[:, label] >= threshold) == pytest.approx(max(scores))
    assert best_thresholds(p, np.zeros_like(labels)).tolist() == [0.5] * 4


def test_losses_equal_second_implementations() -> None:
    logits, labels = map(torch.tensor, samples())
    y, x = labels.float(), logits
    plain = AsymmetricLoss(gamma_negative=0, gamma_positive=0, margin=0)
    torch.testing.assert_close(plain(x, y), F.binary_cross_entropy_with_logits(x, y))
    focal = AsymmetricLoss(gamma_negative=2, gamma_positive=2, margin=0)
    torch.testing.assert_close(focal(x, y), sigmoid_focal_loss(x, y, alpha=-1, gamma=2, reduction="mean"))
    asymmetric = AsymmetricLoss(gamma_negative=4, gamma_positive=1, margin=0.05)
    p = x.double().sigmoid()
    q = (p - 0.05).clamp(min=0)
    terms = torch.where(y == 1, -(1 - p) * p.log(), -(q**4) * (1 - q).log())
    torch.testing.assert_close(asymmetric(x, y).double(), terms.mean())
    odd = AsymmetricLoss(gamma_negative=0.5, gamma_positive=0.5, margin=0.05)
    extreme = torch.tensor([[200.0, -200.0]], requires_grad=True)
    odd(extreme, torch.tensor([[1.0, 0.0]])).backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()
    extreme = torch.tensor([[200.0, -200.0]], requires_grad=True)
    asymmetric(extreme, torch.tensor([[0.0, 1.0]])).backward()
    assert extreme.grad is not None and extreme.grad.isfinite().all()


@pytest.mark.parametrize("loss", [nn.CrossEntropyLoss, nn.MultiMarginLoss, Distillation])
def test_a_loss_of_one_label_is_refused(loss: Any) -> None:
    options = {"teacher": None, "teacher_weight": 0.5, "temperature": 2.0} if loss is Distillation else {}

    def build(**given: Any) -> nn.Module:
        return loss(**given, **options)

    if loss is Distillation:
        build = lambda class_names, input_shape: loss(class_names, input_shape, **options)  # noqa: E731
    with pytest.raises(UserError, match=r"is of one label a sample, these have several; use lit_module/loss=bce"):
        build_loss(build, None, NAMES, (1, 8, 8), multi_label=True)


def test_auto_weights_balance_each_label_with_its_absence() -> None:
    weights = resolve_class_weights("auto", [10, 50, 80], num_samples=100)
    assert weights is not None
    torch.testing.assert_close(weights, torch.tensor([9.0, 1.0, 0.25]))
    with pytest.raises(UserError, match="a label is in every sample; give the weights as numbers"):
        resolve_class_weights("auto", [10, 100], num_samples=100)
    loss, _ = build_loss(nn.BCEWithLogitsLoss, weights, ["a", "b", "c"], (1, 8, 8), multi_label=True)
    assert loss.pos_weight is weights


def test_metrics_of_labels_are_added_and_others_refused() -> None:
    logits, labels = samples()
    added = Metrics({"lrap": MultilabelRankingAveragePrecision}, 4, multi_label=True)
    added.add(SimpleNamespace(index=torch.arange(len(labels)), labels=torch.tensor(labels)), torch.tensor(logits))
    expected = metrics.label_ranking_average_precision_score(labels, expit(logits))
    assert added.compute()["lrap"] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(UserError, match="hamming is a score of runs with several labels"):
        Metrics({"hamming": MultilabelRankingAveragePrecision}, 4, multi_label=True)
    with pytest.raises(UserError, match=r"lit_module\.metrics\.top1: is of one label a sample"):
        Metrics({"top1": MulticlassAccuracy}, 4, multi_label=True)


def test_a_checkpoint_of_one_label_is_not_that_of_several() -> None:
    single = classifier(loss=nn.BCEWithLogitsLoss)
    several = classifier(loss=nn.BCEWithLogitsLoss, multi_label=True, num_samples=60)
    with pytest.raises(UserError, match="multi_label are False, those of the data True"):
        several.check_same_data({"class_names": single.class_names, "input_shape": list(single.input_shape)})
