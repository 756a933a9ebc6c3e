"""LitClassifier trains as a hand-written PyTorch loop does, and validation leaves no trace."""

import json
import math
import shutil
from collections.abc import Callable
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F

import train
from conf import schema, validation
from conf.errors import UserError
from conf.files import read_rows
from datamodules.image_datamodule import ImageDataModule
from datamodules.loader import Batch
from lit_modules.classifier import LitClassifier
from lit_modules.networks.cnn import CNN
from lit_modules.networks.normalize import Normalize
from tests.conftest import TINY, configure, inputs_of, write_images

STEPS = 5
SHORT = (*TINY, f"trainer.limit_train_batches={STEPS}", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2")
BARE = (
    *SHORT,
    "callbacks=[]",
    "logger=[]",
    "+trainer.enable_checkpointing=false",
    "+trainer.enable_progress_bar=false",
)
SGD = ("lit_module/optimizer=sgd", "lit_module/scheduler=constant")

Fit = tuple[ImageDataModule, LitClassifier, Trainer]


def build(*overrides: str, spies: tuple[Callback, ...] = ()) -> Fit:
    schema.register()
    cfg = configure(*BARE, "run_dir=nowhere", *overrides)
    validation.check(cfg)
    datamodule, module, trainer = train.build(cfg)
    trainer.callbacks[:0] = spies
    return datamodule, module, trainer


def fit(*overrides: str, spies: tuple[Callback, ...] = ()) -> Fit:
    datamodule, module, trainer = build(*overrides, spies=spies)
    trainer.fit(module, datamodule)
    return datamodule, module, trainer


def classifier(**choices: Any) -> LitClassifier:
    """A classifier of 2×8×8 images into 3 classes, without a Trainer."""
    defaults: dict[str, Any] = {
        "input_shape": (2, 8, 8),
        "class_names": ["ant", "bee", "cat"],
        "class_counts": [10, 20, 30],
        "mean": [0.5, 0.25],
        "std": [0.25, 0.5],
        "net": lambda **shape: CNN(
            **shape, channels=[4], kernel_size=3, pool=2, pool_type="max", norm="batch", activation="ReLU", dropout=0.0,
            head_dropout=0.0,
            global_pool="none", hidden=[],
        ),
        "init": None,
        "loss": nn.CrossEntropyLoss,
        "class_weights": None,
        "optimizer": torch.optim.AdamW,
        "param_groups": {},
        "layer_decay": 1.0,
        "freeze": [],
        "unfreeze_epoch": None,
        "scheduler": None,
        "interval": "epoch",
        "monitor": "val/f1",
        "seed": 0,
    }  # fmt: skip
    return LitClassifier(**(defaults | choices))


def copy_of(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def assert_equal(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    assert not [name for name in actual if not torch.equal(actual[name], expected[name])]


class Steps(Callback):
    """Records the training loss of each batch and of each epoch, and the learning rate of each optimizer step."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.rates: list[float] = []
        self.epoch_losses: list[float] = []

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        def record(module: nn.Module, _inputs: Any, output: Tensor) -> None:
            if module.training:
                self.losses.append(output.item())

        pl_module.loss.register_forward_hook(record)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        self.rates.append(optimizer.param_groups[0]["lr"])

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.current_epoch > 0:
            self.epoch_losses.append(trainer.callback_metrics["train/loss"].item())


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


def plain_rates(scheduler: Callable[[Any], Any], interval: str, epochs: int, steps: int) -> list[float]:
    """The learning rate of every step of a run with a scheduler of torch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.001)
    stepper = scheduler(optimizer)
    rates = []
    for _ in range(epochs):
        for _ in range(steps):
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            if interval == "step":
                stepper.step()
        if interval == "epoch":
            stepper.step()
    return rates


def warmup_cosine(total: int) -> Callable[[Any], Any]:
    def factor(step: int) -> float:
        done = (step + 1) / (total + 1)
        return done / 0.2 if done < 0.2 else (1 + math.cos(math.pi * (done - 0.2) / 0.8)) / 2

    return lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@pytest.mark.parametrize("accumulate", [1, 2])
@pytest.mark.parametrize(
    "choice", ["warmup_cosine", "warmup_cosine by epoch", "one_cycle", "step", "cosine", "constant"]
)
def test_learning_rates_are_those_of_plain_torch(choice: str, accumulate: int) -> None:
    steps = math.ceil(STEPS / accumulate)
    schedulers = torch.optim.lr_scheduler
    interval, scheduler, *options = {
        "warmup_cosine": ("step", warmup_cosine(3 * steps)),
        "warmup_cosine by epoch": ("epoch", warmup_cosine(3), "lit_module.interval=epoch"),
        "one_cycle": ("step", lambda it: schedulers.OneCycleLR(it, max_lr=0.001, total_steps=3 * steps)),
        "step": ("epoch", lambda it: schedulers.StepLR(it, step_size=2, gamma=0.1), "lit_module.scheduler.step_size=2"),
        "cosine": ("epoch", lambda it: schedulers.CosineAnnealingLR(it, T_max=3)),
        "constant": ("epoch", lambda it: schedulers.ConstantLR(it, factor=1)),
    }[choice]
    spy = Steps()
    fit(
        f"lit_module/scheduler={choice.split()[0]}", *options, "trainer.max_epochs=3",
        f"trainer.accumulate_grad_batches={accumulate}", spies=(spy,),
    )  # fmt: skip
    assert spy.rates == pytest.approx(plain_rates(scheduler, interval, 3, steps), abs=1e-12)


def test_epoch_schedule_without_max_epochs_is_rejected() -> None:
    with pytest.raises(UserError, match=r"trainer\.max_epochs"):
        fit("trainer.max_epochs=-1", "trainer.max_steps=5", "lit_module.interval=epoch")


def test_plateau_uses_the_monitored_metric() -> None:
    spy = Steps()
    fit(
        "lit_module/scheduler=plateau", "lit_module.scheduler.patience=0", "monitor=train/loss", "mode=min",
        "trainer.max_epochs=6", "lit_module.optimizer.lr=1e-5", spies=(spy,),
    )  # fmt: skip
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-5)
    scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0)
    expected = [1e-5]
    for loss in spy.epoch_losses:
        scheduler.step(loss)
        expected.append(optimizer.param_groups[0]["lr"])
    assert spy.rates[::STEPS] == expected
    assert len(set(expected)) > 1  # it did reduce


def test_only_unfrozen_weights_change() -> None:
    datamodule, module, trainer = build("lit_module.freeze=[blocks.0.*,head.0.bias]")
    before = copy_of(module.net)
    trainer.fit(module, datamodule)
    parameters = dict(module.net.named_parameters())
    frozen = {name for name in parameters if name.startswith("blocks.0.") or name == "head.0.bias"}
    assert {name for name in parameters if torch.equal(before[name], parameters[name])} == frozen
    optimized = {parameter for group in trainer.optimizers[0].param_groups for parameter in group["params"]}
    assert optimized == {parameter for name, parameter in parameters.items() if name not in frozen}


def test_frozen_weights_are_counted(run: Callable[..., Path]) -> None:
    summary = json.loads((run(*SHORT, "lit_module.freeze=[blocks.*]") / "summary.json").read_text())
    # conv 1·4·9 + norm 2·4 + conv 4·8·9 + norm 2·8 frozen; the head's 8·2·2·10 + 10 are not
    assert (summary["params/total"], summary["params/trainable"]) == (678, 330)
    assert summary["params/shape/head.0.weight"] == [10, 32]


def test_parameter_groups_are_passed_to_the_optimizer() -> None:
    no_decay = "+lit_module.param_groups.no_decay={pattern:['*.bias','*norm*'],weight_decay:0.0}"
    still = "+lit_module.param_groups.still={pattern:head.*,lr:0.0}"
    datamodule, module, trainer = build(
        no_decay, still, "lit_module/scheduler=constant", "lit_module.optimizer.lr=0.01"
    )
    before = copy_of(module.net)
    trainer.fit(module, datamodule)
    settings = {
        name: (group["lr"], group["weight_decay"])
        for group in trainer.optimizers[0].param_groups
        for name, parameter in module.net.named_parameters()
        if any(parameter is other for other in group["params"])
    }
    assert settings == {
        name: (0.0, 0.01) if name == "head.0.weight" else (0.01, 0.0 if "norm" in name or "bias" in name else 0.01)
        for name, _ in module.net.named_parameters()
    }
    moved = {name for name, parameter in module.net.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == settings.keys() - {"head.0.weight"}


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


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"class_weights": [1.0, 2.0]}, r"lit_module\.class_weights: 2 weights for 3 classes; give one for each"),
        ({"class_weights": "auto", "loss": nn.MSELoss}, r"lit_module\.loss: .*lit_module\.class_weights=null"),
        ({"freeze": ["*"]}, r"lit_module\.freeze: leaves nothing to train"),
        ({"freeze": ["nothing"]}, r"lit_module\.freeze: 'nothing' matches no parameter"),
        ({"optimizer": lambda groups: torch.optim.SGD(groups, lr=-1)}, r"lit_module\.optimizer: Invalid learning rate"),
        ({"param_groups": {"a": {"pattern": "*", "weight_decai": 0.1}}}, r"lit_module\.param_groups\.a.*weight_decay"),
        ({"scheduler": torch.optim.lr_scheduler.StepLR}, r"lit_module\.scheduler: .*step_size"),
    ],
    ids=["weights", "loss without weights", "all frozen", "pattern", "rate", "option of a group", "scheduler"],
)
def test_invalid_argument_is_rejected(choices: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        classifier(**choices)


def test_normalization_is_the_first_layer() -> None:
    module = classifier(mean=[0.5, 0.25], std=[0.25, 0.0])
    seen: list[Tensor] = []
    module.net.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    mean = torch.tensor([0.5, 0.25]).view(1, 2, 1, 1).expand(3, 2, 8, 8)
    module(mean)
    module(mean + 0.5)
    assert not seen[0].any()
    assert torch.equal(seen[1][:, 0], torch.full((3, 8, 8), 2.0))
    assert torch.equal(seen[1][:, 1], torch.full((3, 8, 8), 0.5))  # a constant channel is only centred


@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_each_channel_has_its_own_mean_and_deviation(dimensions: int) -> None:
    inputs = torch.rand(5, 3, *[4] * dimensions) * torch.tensor([1.0, 2, 3]).view(-1, *[1] * dimensions)
    flat = inputs.transpose(0, 1).flatten(1)
    outputs = Normalize(flat.mean(1).tolist(), flat.std(1, correction=0).tolist(), dimensions)(inputs)
    flat = outputs.transpose(0, 1).flatten(1)
    assert torch.allclose(flat.mean(1), torch.zeros(3), atol=1e-5)
    assert torch.allclose(flat.std(1, correction=0), torch.ones(3), atol=1e-5)


def test_predictions_are_class_probabilities() -> None:
    module = classifier().eval()
    inputs, labels = torch.rand(6, 2, 8, 8), torch.zeros(6, dtype=torch.int64)
    with torch.no_grad():
        rows = module.predict_step(Batch(inputs, labels, labels, 6), 0)
        logits = module(inputs).numpy()
    assert rows.shape == (6, 3) and (rows >= 0).all()
    assert torch.allclose(rows.sum(1), torch.ones(6))
    assert rows.numpy() == pytest.approx(np.exp(logits) / np.exp(logits).sum(1, keepdims=True), abs=1e-6)


def test_mixed_precision_computes_logits_in_bfloat16() -> None:
    seen: dict[str, set[torch.dtype]] = {"train": set(), "val": set(), "loss": set()}
    datamodule, module, trainer = build("trainer.precision=bf16-mixed")

    def record(layer: nn.Module, _inputs: Any, output: Tensor) -> None:
        seen["train" if layer.training else "val"].add(output.dtype)

    module.net.register_forward_hook(record)
    module.loss.register_forward_hook(lambda _module, _inputs, output: seen["loss"].add(output.dtype))
    trainer.fit(module, datamodule)
    assert seen == {"train": {torch.bfloat16}, "val": {torch.bfloat16}, "loss": {torch.float32}}
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}


@pytest.fixture(scope="module")
def one_cycle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one epoch whose schedule has a fixed length."""
    schema.register()
    folder = tmp_path_factory.mktemp("one_cycle") / "run"
    train.fit(configure(*SHORT, "lit_module/scheduler=one_cycle", f"run_dir={folder}"))
    return folder


def resume(folder: Path, *overrides: str) -> None:
    datamodule, module, trainer = build("lit_module/scheduler=one_cycle", *overrides)
    trainer.fit(module, datamodule, ckpt_path=folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_checkpoint_of_another_shape_is_rejected(one_cycle: Path) -> None:
    with pytest.raises(UserError, match=r"input_shape are \[1, 8, 8\], .*\[1, 9, 9\]; use the same data"):
        resume(one_cycle, "datamodule.image_size=9")


def test_checkpoint_of_other_classes_is_rejected(one_cycle: Path, tmp_path: Path) -> None:
    for name, level in (("dark", 60), ("light", 190)):
        write_images(tmp_path / name, 10, level=level, size=(8, 8))
    with pytest.raises(UserError, match=r"class_names are \['0', '1', .*\['dark', 'light'\]; use the same data"):
        resume(one_cycle, "datamodule=image_folder", f"datamodule.root={tmp_path}")


def test_one_cycle_is_not_resumed_with_another_length(one_cycle: Path, run: Callable[..., Path]) -> None:
    folder = shutil.copytree(one_cycle, one_cycle.with_name("longer"), symlinks=True)
    with pytest.raises(UserError, match=r"lit_module\.scheduler: the OneCycleLR of this run has 5 steps, not 10"):
        run(f"run={folder}", "trainer.max_epochs=2")
    # Nor is its config changed, by which it goes on as it was.
    assert (folder / "config.yaml").read_text() == (one_cycle / "config.yaml").read_text()


def test_cosine_is_not_resumed_with_another_length(run: Callable[..., Path]) -> None:
    folder = run(*SHORT, "lit_module/scheduler=cosine")
    with pytest.raises(UserError, match=r"lit_module\.scheduler: the CosineAnnealingLR of this run has 1"):
        run(f"run={folder}", "trainer.max_epochs=2")


class Weights(Callback):
    """Records the weights after every optimizer step."""

    def __init__(self) -> None:
        self.seen: list[dict[str, Tensor]] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.seen.append(copy_of(pl_module.net))


EMA = (*SHORT, "callbacks=[default,ema]", "callbacks.ema.decay=0.8")


def test_checkpoints_contain_averaged_weights(tmp_path: Path) -> None:
    spy = Weights()
    datamodule, module, trainer = train.build(configure(*EMA, f"run_dir={tmp_path}"))
    trainer.callbacks.insert(0, spy)
    trainer.fit(module, datamodule)
    best = torch.load(tmp_path / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
    model = torch.load(tmp_path / "model.pt", weights_only=True)
    assert len(spy.seen) == STEPS
    for name in (name for name, value in spy.seen[0].items() if value.is_floating_point()):
        average = spy.seen[0][name]
        for step in spy.seen[1:]:
            average = 0.8 * average + 0.2 * step[name]
        assert torch.allclose(best[f"net.{name}"], average, rtol=1e-4, atol=1e-6), name
        assert torch.equal(model[f"net.{name}"], best[f"net.{name}"]), name
        assert not torch.equal(model[f"net.{name}"], spy.seen[-1][name]), name


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, float]:
    """A run with a moving average of the weights, and the test loss of its model.pt."""
    schema.register()
    folder = tmp_path_factory.mktemp("averaged") / "run"
    train.fit(configure(*EMA, f"run_dir={folder}"))
    datamodule, module, _ = build()
    module.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=False)
    inputs, labels = inputs_of(datamodule, "test")[: 2 * 64], datamodule.split("test").labels[: 2 * 64]
    with torch.no_grad():
        return folder, F.cross_entropy(module.eval()(inputs / 255), labels).item()


def test_test_metrics_are_those_of_averaged_weights(averaged: tuple[Path, float]) -> None:
    folder, expected = averaged
    assert json.loads((folder / "summary.json").read_text())["test/loss"] == pytest.approx(expected, rel=1e-5)


def test_averaged_run_can_be_tested_later(
    averaged: tuple[Path, float], run: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, expected = averaged
    run(f"run={folder}", "task=test")
    assert f"test  {expected:.4f}  " in capsys.readouterr().out
