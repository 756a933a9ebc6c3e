"""LitClassifier trains as a hand-written PyTorch loop does."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.image_datamodule import ImageDataModule
from lit_modules.classifier import LitClassifier
from tests.conftest import inputs_of
from tests.fits import STEPS, Steps, build, copy_of, fit

SGD = ("lit_module/optimizer=sgd", "lit_module/scheduler=constant")


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert not [name for name in actual if not torch.equal(actual[name], expected[name])]


class Modes(Callback):
    """Records what a fit does, with modes, statistics of batch normalisation, and whether dropout zeroes anything."""

    def __init__(self) -> None:
        self.events: list[tuple[str, set[bool]]] = []
        self.dropped: dict[str, list[bool]] = {"train": [], "val": []}
        self.losses: dict[str, list[Tensor]] = {"train": [], "val": []}
        self.gradients: dict[str, list[bool]] = {"train": [], "val": []}
        self.statistics: dict[str, list[dict[str, Tensor]]] = {"before": [], "after": []}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def split() -> str:
            return "train" if trainer.training else "val"

        def record_dropout(_module: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
            self.dropped[split()].append(not torch.equal(inputs[0], output))

        def record_loss(_module: nn.Module, _inputs: Any, output: Tensor) -> None:
            self.losses[split()].append(output)
            self.gradients[split()].append(torch.is_grad_enabled())

        for layer in pl_module.modules():
            if isinstance(layer, nn.Dropout2d):
                layer.register_forward_hook(record_dropout)
        pl_module.loss.register_forward_hook(record_loss)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.record("train", pl_module)

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.record("val", pl_module)

    def record(self, event: str, module: LightningModule) -> None:
        self.events.append(
            (event, {part.training for part in (module, *module.normalize.modules(), *module.net.modules())})
        )

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.statistics["before"].append(copy_of(pl_module))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.statistics["after"].append(copy_of(pl_module))


@pytest.fixture(scope="module")
def modes() -> Modes:
    """A fit of two epochs with batch normalisation and dropout."""
    modes = Modes()
    fit("trainer.max_epochs=2", "lit_module.net.norm=batch", "lit_module.net.dropout=0.5", spies=(modes,))
    return modes


def test_every_epoch_trains_and_then_validates(modes: Modes) -> None:
    assert [event for event, _ in modes.events] == [*["train"] * STEPS, "val", "val"] * 2


def test_training_mode_is_restored_after_validation(modes: Modes) -> None:
    assert all(trains == {event == "train"} for event, trains in modes.events)


def test_dropout_is_active_in_training_only(modes: Modes) -> None:
    assert len(modes.dropped["train"]) == 2 * 2 * STEPS and all(modes.dropped["train"])
    assert len(modes.dropped["val"]) == 2 * 2 * 2 and not any(modes.dropped["val"])


def test_validation_changes_no_weights_or_statistics(modes: Modes) -> None:
    for before, after in zip(modes.statistics["before"], modes.statistics["after"], strict=True):
        assert_equal(before, after)
    first, second = modes.statistics["before"]
    running = [name for name in first if "running_" in name]
    assert len(running) == 4 and not any(torch.equal(first[name], second[name]) for name in running)


def test_validation_loss_has_no_graph(modes: Modes) -> None:
    assert all(loss.requires_grad and loss.grad_fn is not None for loss in modes.losses["train"])
    assert len(modes.losses["val"]) == 4
    assert not any(loss.requires_grad or loss.grad_fn is not None for loss in modes.losses["val"])
    assert all(modes.gradients["train"]) and not any(modes.gradients["val"])


def hand_written_fit(
    datamodule: ImageDataModule, module: LitClassifier, accumulate: int, clip: float | None
) -> list[float]:
    """Two epochs in plain PyTorch; the loss of every batch."""
    split = datamodule.split("train")
    inputs = inputs_of(datamodule, "train").to(torch.float32) / 255
    parameters = list(module.net.parameters())
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.0005)
    losses = []
    module.train()
    for epoch in range(2):
        order = torch.from_numpy(np.random.default_rng((0, epoch)).permutation(len(inputs)))
        for step, index in enumerate(order.split(64)[:STEPS], start=1):
            logits = module.net((inputs[index] - module.normalize.mean) / module.normalize.std)
            loss = F.cross_entropy(logits, split.labels[index])
            losses.append(loss.item())
            (loss / accumulate).backward()
            if step % accumulate == 0 or step == STEPS:
                if clip is not None:
                    nn.utils.clip_grad_norm_(parameters, clip)
                optimizer.step()
                optimizer.zero_grad()
    return losses


@pytest.mark.parametrize(("accumulate", "clip"), [(1, None), (1, 0.1), (2, None), (3, 0.1)])
def test_fit_equals_a_hand_written_loop_bit_for_bit(accumulate: int, clip: float | None) -> None:
    choices = (*SGD, f"trainer.accumulate_grad_batches={accumulate}", f"trainer.gradient_clip_val={clip or 'null'}")
    datamodule, expected_module, _ = build(*choices)
    expected_losses = hand_written_fit(datamodule, expected_module, accumulate, clip)
    steps = Steps()
    _, module, _ = fit(*choices, "trainer.max_epochs=2", spies=(steps,))
    assert steps.losses == expected_losses
    assert_equal(copy_of(module.net), copy_of(expected_module.net))


@pytest.mark.parametrize("name", ["adam", "adamw"])
def test_fused_optimizer_takes_the_steps_of_a_plain_one(name: str) -> None:
    choices = (f"lit_module/optimizer={name}", "trainer.max_epochs=2")
    _, fused, trainer = fit(*choices, "lit_module.optimizer.fused=true")
    _, plain, _ = fit(*choices, "lit_module.optimizer.fused=null")
    assert trainer.optimizers[0].defaults["fused"]
    for key, value in plain.net.state_dict().items():
        torch.testing.assert_close(fused.net.state_dict()[key], value, rtol=1e-5, atol=1e-7)


def test_gradients_are_clipped_under_amp() -> None:
    clipped, free = (
        fit("trainer.precision=bf16-mixed", "trainer.max_epochs=1", f"trainer.gradient_clip_val={value}")[1]
        for value in ("0.001", "null")
    )
    assert not torch.equal(clipped.net.state_dict()["head.0.weight"], free.net.state_dict()["head.0.weight"])


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    """The weights after a fit with dropout."""
    return copy_of(fit("lit_module.net.dropout=0.3")[1])


def test_same_seed_gives_the_same_bits(reference: dict[str, Tensor]) -> None:
    torch.rand(7)  # what the process drew before does not matter
    assert_equal(copy_of(fit("lit_module.net.dropout=0.3")[1]), reference)


def test_another_seed_gives_other_weights(reference: dict[str, Tensor]) -> None:
    other = fit("lit_module.net.dropout=0.3", "seed=1")[1].state_dict()
    weights = [name for name in reference if name.endswith("weight")]
    assert weights and not any(torch.equal(other[name], reference[name]) for name in weights)


def test_number_of_workers_does_not_change_weights(reference: dict[str, Tensor]) -> None:
    assert_equal(copy_of(fit("lit_module.net.dropout=0.3", "datamodule.num_workers=3")[1]), reference)


def dropout_masks(seed: int) -> list[Tensor]:
    """Which channels of which samples the first dropout layer zeroes, in each step of two epochs."""
    datamodule, module, trainer = build(
        "trainer.max_epochs=2",
        "lit_module.net.dropout=0.5",
        "lit_module.net.activation=Sigmoid",
        f"lit_module.seed={seed}",
    )
    masks: list[Tensor] = []

    def record(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        if layer.training:
            masks.append((output == 0).all(3).all(2))

    module.net.blocks[0].dropout.register_forward_hook(record)
    trainer.fit(module, datamodule)
    return masks


def test_dropout_differs_in_every_step_epoch_and_seed() -> None:
    masks = [*dropout_masks(seed=0), *dropout_masks(seed=1)]
    assert len(masks) == 2 * 2 * STEPS
    assert not [pair for pair in combinations(masks, 2) if torch.equal(*pair)]
