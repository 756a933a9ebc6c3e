"""Losses, class weights and targets of LitClassifier."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from conf.errors import UserError
from conf.files import read_rows
from datamodules.loader import Batch
from tests.conftest import inputs_of
from tests.fits import SHORT, build, classifier, fit


def loss_of(target: str, **options: str) -> list[str]:
    """The overrides that choose a loss of torch.nn."""
    chosen = [f"lit_module.loss._target_=torch.nn.{target}", "~lit_module.loss.label_smoothing"]
    return [*chosen, *(f"+lit_module.loss.{key}={value}" for key, value in options.items())]


def digits_weights() -> Tensor:
    counts = build()[0].class_counts
    return torch.tensor([sum(counts) / (10 * count) for count in counts])


LOSSES: dict[str, tuple[list[str], Callable[[Tensor, Tensor], Tensor]]] = {
    "cross entropy": ([], F.cross_entropy),
    "label smoothing": (
        ["lit_module.loss.label_smoothing=0.2"],
        lambda logits, labels: F.cross_entropy(logits, labels, label_smoothing=0.2),
    ),
    "class weights": (
        ["lit_module.class_weights=[1,2,3,4,5,6,7,8,9,10]"],
        lambda logits, labels: F.cross_entropy(logits, labels, weight=torch.arange(1.0, 11)),
    ),
    "automatic class weights": (
        ["lit_module.class_weights=auto"],
        lambda logits, labels: F.cross_entropy(logits, labels, weight=digits_weights()),
    ),
    "margin": (loss_of("MultiMarginLoss", p="2"), lambda logits, labels: F.multi_margin_loss(logits, labels, p=2)),
    "squares": (loss_of("MSELoss"), lambda logits, labels: ((logits - torch.eye(10)[labels]) ** 2).mean()),
    "binary cross entropy": (
        loss_of("BCEWithLogitsLoss"),
        lambda logits, labels: F.binary_cross_entropy(logits.sigmoid(), torch.eye(10)[labels]),
    ),
}


class FirstBatch(Callback):
    """Records the first batch with its logits and its loss."""

    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Batch, batch_idx: int) -> None:
        if batch_idx == 0:
            hook = pl_module.net.register_forward_hook(
                lambda _module, _inputs, output: self.seen.append(output.detach())
            )
            self.hook = hook

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        if batch_idx == 0:
            self.hook.remove()
            self.seen += [batch.labels, outputs["loss"]]


@pytest.mark.parametrize("name", LOSSES)
def test_loss_equals_that_of_torch(name: str) -> None:
    choices, expected = LOSSES[name]
    spy = FirstBatch()
    fit(*choices, spies=(spy,))
    logits, labels, loss = spy.seen
    assert loss.item() == pytest.approx(expected(logits, labels).item(), rel=1e-5)


@pytest.mark.parametrize("loss", [nn.NLLLoss, nn.CTCLoss, nn.KLDivLoss, nn.BCELoss, nn.CosineEmbeddingLoss])
def test_loss_that_takes_no_logits_is_rejected(loss: type[nn.Module]) -> None:
    with pytest.raises(UserError, match=rf"lit_module\.loss: {loss.__name__} .*CrossEntropyLoss"):
        classifier(loss=loss)


def test_mixing_is_rejected_with_a_loss_on_labels_only() -> None:
    with pytest.raises(UserError, match=r"^datamodule\.mix: MultiMarginLoss accepts no class probabilities; "):
        fit(*loss_of("MultiMarginLoss"), "datamodule/mix=mixup")


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_loss_with_another_reduction_than_mean_is_rejected(reduction: str) -> None:
    with pytest.raises(UserError, match=r"lit_module\.loss"):
        classifier(loss=partial(nn.CrossEntropyLoss, reduction=reduction))


def test_weighted_validation_loss_is_over_the_whole_split(run: Callable[..., Path]) -> None:
    still = ("lit_module/optimizer=sgd", "lit_module.optimizer.lr=0", "lit_module.net.norm=none")
    weighted = ("lit_module.class_weights=[1,2,3,4,5,6,7,8,9,90]", "trainer.limit_val_batches=1.0")
    folder = run(*SHORT, *still, *weighted)
    datamodule, module, _ = build(*still)
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=False)
    inputs, labels = inputs_of(datamodule, "val"), datamodule.split("val").labels
    with torch.no_grad():
        logits = module.eval()(inputs / 255)
    expected = F.cross_entropy(logits, labels, weight=torch.tensor([*range(1, 10), 90.0])).item()
    assert float(read_rows(folder / "metrics.csv")[0]["val/loss"]) == pytest.approx(expected, rel=1e-5)


def test_auto_class_weights_are_inverse_to_the_counts() -> None:
    weights = classifier(class_weights="auto", class_counts=[10, 20, 30]).loss.weight
    assert weights.tolist() == pytest.approx([60 / (3 * 10), 60 / (3 * 20), 60 / (3 * 30)])
