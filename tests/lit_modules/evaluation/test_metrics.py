"""Metrics equal scikit-learn's, whatever the batches, and are tried before anything is trained."""

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, matthews_corrcoef, roc_auc_score, top_k_accuracy_score
from torch import Tensor
from torchmetrics import Metric, classification
from torchmetrics.image import StructuralSimilarityIndexMeasure

from conf.errors import UserError
from datamodules.loader import Batch
from lit_modules.evaluation.curve_metrics import AP, AUC, ECE
from lit_modules.evaluation.evaluation import Evaluation
from lit_modules.evaluation.metrics import Metrics
from lit_modules.evaluation.predictions import Collector
from tests.fits import classifier

CLASSES = 6
SHIPPED: dict[str, Any] = {
    "mcc": classification.MulticlassMatthewsCorrCoef,
    "top5": partial(classification.MulticlassAccuracy, top_k=5, average="micro"),
    "auroc": partial(classification.MulticlassAUROC, average="macro"),
    "ece": ECE,
    "auc": AUC,
    "ap": AP,
}


class FloatSum(Metric):
    """Its bits depend on the order and the grouping of what it adds up."""

    total: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("total", torch.tensor(0.0), dist_reduce_fx="sum")

    def update(self, probabilities: Tensor, labels: Tensor) -> None:
        self.total += probabilities[:, 0].sum() / 3

    def compute(self) -> Tensor:
        return self.total


class Several(FloatSum):
    def compute(self) -> Any:
        return {"a": self.total}


class Broken(FloatSum):
    def compute(self) -> Tensor:
        raise KeyError("nothing")


def predictions(count: int = 217, classes: int = CLASSES) -> tuple[Tensor, Tensor]:
    """Random logits that are right about half of the time, and labels."""
    generator = np.random.default_rng(0)
    labels = generator.integers(classes, size=count)
    logits = generator.normal(size=(count, classes)) + 1.5 * np.eye(classes)[labels]
    return torch.tensor(logits, dtype=torch.float32), torch.tensor(labels)


def batches(logits: Tensor, labels: Tensor, size: int) -> list[tuple[Batch, Tensor]]:
    parts = zip(logits.split(size), labels.split(size), torch.arange(len(labels)).split(size), strict=True)
    return [(Batch(part, label, index, len(label)), part) for part, label, index in parts]


def score(constructors: dict[str, Any], logits: Tensor, labels: Tensor, size: int = 64) -> dict[str, float]:
    metrics = Metrics(constructors, logits.shape[1])
    for batch, part in batches(logits, labels, size):
        metrics.add(batch, part)
    return metrics.compute()


def test_shipped_metrics_equal_those_of_scikit_learn() -> None:
    logits, labels = predictions()
    p, y = logits.double().softmax(1).numpy(), labels.numpy()
    auc = roc_auc_score(y, p, multi_class="ovr")
    expected = {
        "mcc": matthews_corrcoef(y, p.argmax(1)),
        "top5": top_k_accuracy_score(y, p, k=5),
        "auroc": auc,
        "auc": auc,
        "ap": np.mean([average_precision_score(y == label, p[:, label]) for label in range(CLASSES)]),
    }
    values = score(SHIPPED, logits, labels)
    assert {name: values[name] for name in expected} == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("classes", [2, CLASSES])
def test_ece_auc_and_ap_are_those_of_the_report(classes: int) -> None:
    logits, labels = predictions(classes=classes)
    labels[labels == classes - 1] = 0 if classes > 2 else 1  # of many classes, one is absent
    collector = Collector()
    for batch, part in batches(logits, labels, 50):
        collector.add(batch, part)
    found = collector.gather()
    assert found is not None
    evaluation = Evaluation([str(i) for i in range(classes)], [""] * len(labels), found, np.zeros(0))
    assert score({"ece": ECE, "auc": AUC, "ap": AP}, logits, labels) == evaluation.scores


@pytest.mark.parametrize("size", [1, 7, 217])
def test_batches_do_not_change_the_bits(size: int) -> None:
    logits, labels = predictions()
    constructors = SHIPPED | {"sum": FloatSum}
    assert score(constructors, logits, labels, size) == score(constructors, logits, labels)


def test_each_pass_begins_anew() -> None:
    logits, labels = predictions()
    metrics = Metrics(SHIPPED | {"sum": FloatSum}, CLASSES)
    first, second = ([metrics.add(*pair) for pair in batches(logits, labels, 50)] and metrics.compute() for _ in "ab")
    assert first == second


@pytest.mark.parametrize(
    ("name", "metric", "line"),
    [
        ("acc", classification.MulticlassAccuracy, "acc: acc is a score of every run; choose another name"),
        ("auc", classification.MulticlassAUROC, "auc: auc is the name of AUC in report.md; choose another name"),
        ("a/b", FloatSum, "a/b: a name may have letters, digits and _ only; choose another name"),
        ("x", partial(classification.MulticlassAccuracy, top_k=5), "x: Expected argument `top_k` to be smaller or"),
        ("x", partial(classification.MulticlassF1Score, num_classes=4), "x.num_classes: is that of the data; leave"),
        ("x", partial(classification.MulticlassF1Score, average=None), "x: .* several .*; set .*x.average=macro"),
        ("x", classification.MulticlassConfusionMatrix, "x: MulticlassConfusionMatrix gives several values .*; choose"),
        ("x", classification.MulticlassROC, "x: MulticlassROC gives several values .*; choose another metric"),
        ("x", classification.BinaryAUROC, r"x: BinaryAUROC fails on probabilities \[32, 3\] and labels \[32\]: .*;"),
        ("x", StructuralSimilarityIndexMeasure, "x: StructuralSimilarityIndexMeasure fails on probabilities"),
        ("x", partial(FloatSum, wrong=1), "x: .*unexpected keyword argument 'wrong'; correct it"),
        ("x", Several, "x: Several gives several values instead of one number; choose another metric"),
        ("x", Broken, "x: Broken fails on probabilities .*: 'nothing'; correct it, or choose another metric"),
    ],
)  # fmt: skip
def test_metric_that_gives_no_number_is_refused(name: str, metric: Any, line: str) -> None:
    with pytest.raises(UserError, match=rf"^lit_module\.metrics\.{line}"):
        classifier(metrics={name: metric})


def test_many_classes_are_tried_on_few_samples() -> None:
    assert Metrics(SHIPPED, 500).names == tuple(SHIPPED)


def test_metrics_are_no_part_of_a_checkpoint() -> None:
    assert classifier(metrics=SHIPPED | {"top5": FloatSum}).state_dict().keys() == classifier().state_dict().keys()
