"""TensorBoard shows what the network gets and what it is made of, as often as asked and no more."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pytorch_lightning import LightningDataModule, Trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader

import train
from lit_modules.callbacks import dashboard
from lit_modules.callbacks.dashboard import Dashboard
from lit_modules.callbacks.predictions import CollectPredictions
from lit_modules.callbacks.throughput import Throughput
from lit_modules.classifier import LitClassifier
from lit_modules.loggers.tensorboard import TensorBoard
from tests.conftest import DRAWN, UNDRAWN, configure
from tests.samples import SHAPES, network

ALWAYS = ("callbacks.dashboard.max_overhead=null", "callbacks.predictions.max_overhead=null")
FEW = ("trainer.limit_train_batches=3", "trainer.limit_val_batches=2", "trainer.limit_test_batches=2")
OF_A_SPLIT = ("confusion", "classes", "reliability", "roc", "precision_recall", "mistakes", "maps")
DRAWN_ELSEWHERE = ("grey", "colour")  # in the other tests here, and in test_hostile_names.py and test_file_names.py
OF_THE_NETWORK = ("inputs/train", "inputs/val", "network/filters", "network/feature_maps")


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0, "tensors": 0}).Reload()


def steps(events: EventAccumulator, kind: str, tag: str) -> list[int]:
    return [event.step for event in getattr(events, kind)(tag)]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that was killed when it had saved the first, and resumed."""
    folder = tmp_path_factory.mktemp("dashboard") / "run"
    train.fit(configure(*DRAWN, *FEW, *ALWAYS, "trainer.max_epochs=2", f"run_dir={folder}"))
    checkpoints = folder / "checkpoints"
    for name in ("epoch=001.ckpt", "last.ckpt"):
        (checkpoints / name).unlink()
    (checkpoints / "last.ckpt").symlink_to("epoch=000.ckpt")
    train.fit(configure(f"run={folder}"))
    return folder


@pytest.fixture(scope="module")
def events(resumed: Path) -> EventAccumulator:
    return read(resumed)


@pytest.mark.parametrize("tag", [*OF_THE_NETWORK, *(f"val/{name}" for name in OF_A_SPLIT)])
def test_image_is_logged_once_per_epoch(events: EventAccumulator, tag: str) -> None:
    assert steps(events, "Images", tag) == [0, 1]
    for event in events.Images(tag):
        assert event.encoded_image_string.startswith(b"\x89PNG") and event.width >= 300


@pytest.mark.parametrize("name", OF_A_SPLIT)
def test_image_of_the_test_split_is_logged_once(events: EventAccumulator, name: str) -> None:
    assert steps(events, "Images", f"test/{name}") == [2]


def test_no_other_images_are_logged(events: EventAccumulator) -> None:
    expected = {*OF_THE_NETWORK, *(f"{split}/{name}" for split in ("val", "test") for name in OF_A_SPLIT)}
    assert set(events.Tags()["images"]) == expected


@pytest.mark.parametrize("group", ["weights", "gradients"])
def test_every_parameter_has_a_histogram_per_epoch(events: EventAccumulator, resumed: Path, group: str) -> None:
    weights = torch.load(resumed / "model.pt", weights_only=True)
    names = {tag.removeprefix(f"{group}/") for tag in events.Tags()["histograms"] if tag.startswith(f"{group}/")}
    parameters = {name for name in weights if name.endswith(("weight", "bias"))}
    assert names == parameters
    for name in names:
        assert steps(events, "Histograms", f"{group}/{name}") == [0, 1]


@pytest.mark.parametrize("tag", ["gradient_norm", "images_per_second", "data_wait", "val/ece", "val/auc", "val/ap"])
def test_scalar_has_one_point_per_epoch(events: EventAccumulator, tag: str) -> None:
    points = events.Scalars(tag)
    assert [point.step for point in points] == [0, 1]
    assert all(point.value >= 0 for point in points)


def test_data_wait_is_a_fraction(events: EventAccumulator) -> None:
    assert all(0 < point.value < 1 for point in events.Scalars("data_wait"))


@pytest.mark.parametrize("tag", ["test/ece", "test/auc", "test/ap"])
def test_scalar_of_the_test_split_is_logged_once(events: EventAccumulator, tag: str) -> None:
    assert steps(events, "Scalars", tag) == [2]


def test_network_and_config_are_logged_once(events: EventAccumulator, resumed: Path) -> None:
    texts = {tag: events.Tensors(f"{tag}/text_summary") for tag in ("run/network", "run/config")}
    assert [len(found) for found in texts.values()] == [1, 1]
    network, config = (found[0].tensor_proto.string_val[0].decode() for found in texts.values())
    assert "| net.blocks.0.conv | Conv2d | 4×8×8 | 36 |" in network
    assert "    seed: 0" in config.splitlines()


def test_logged_inputs_are_those_of_the_network(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    got: dict[bool, list[Tensor]] = {True: [], False: []}
    drawn: dict[str, Any] = {}

    def forward(module: LitClassifier, inputs: Tensor) -> Tensor:
        if len(inputs) > 1:  # not ModelSummary's zeros, nor the sample of the feature maps
            got[module.training].append(inputs.clone())
        return module.net(module.normalize(inputs))

    def keep(samples: list[np.ndarray], captions: list[str], title: str, **options: Any) -> Any:
        if title.startswith("Network inputs"):
            drawn.setdefault(title, (np.stack(samples), captions))
        return original(samples, captions, title, **options)

    original = dashboard.grid
    monkeypatch.setattr(dashboard, "grid", keep)
    monkeypatch.setattr(LitClassifier, "forward", forward)
    run(DRAWN[0], DRAWN[2], *FEW, "+experiment=digits", ALWAYS[0], UNDRAWN[0])
    augmented, captions = drawn["Network inputs in training"]
    np.testing.assert_array_equal(augmented, got[True][0][:32].numpy())
    assert len(captions) == 32 and set(captions) <= set("0123456789")
    plain, _ = drawn["Network inputs in validation"]
    np.testing.assert_array_equal(plain, torch.cat(got[False][:2])[::4][:32].numpy())  # 128 samples in two batches
    assert np.abs(np.rint(augmented * 255) - augmented * 255).max() > 0.01, "affine gives values between those of files"
    assert np.abs(np.rint(plain * 255) - plain * 255).max() < 1e-4


def test_gradients_are_those_of_the_last_step(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []

    def record(module: LitClassifier, optimizer: torch.optim.Optimizer) -> None:
        squares = [parameter.grad.double().square().sum() for parameter in module.parameters()]
        norms.append(float(torch.stack(squares).sum().sqrt()))

    monkeypatch.setattr(LitClassifier, "on_before_optimizer_step", record)
    events = read(run(*DRAWN, *FEW, "trainer.gradient_clip_val=0.001", UNDRAWN[0]))
    assert len(norms) == 3
    assert events.Scalars("gradient_norm")[0].value == pytest.approx(norms[-1], rel=1e-5)


@pytest.mark.slow
def test_other_epochs_are_not_drawn(run: Callable[..., Path]) -> None:
    every = ("callbacks.dashboard.every_n_epochs=2", "callbacks.predictions.every_n_epochs=3")
    events = read(run(*DRAWN, *FEW, *ALWAYS, *every, "trainer.max_epochs=5"))
    assert steps(events, "Images", "inputs/train") == [1, 3, 4]
    assert steps(events, "Images", "val/confusion") == [2, 4]


@pytest.mark.slow
def test_epoch_resumed_within_it_is_drawn_once(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def keep(trainer: Trainer, path: Path) -> None:
        Trainer.save_checkpoint_(trainer, path)
        if trainer.global_step == 5:  # of six in two epochs
            shutil.copy(path, Path(path).with_name("kept.ckpt"))

    monkeypatch.setattr(Trainer, "save_checkpoint_", Trainer.save_checkpoint, raising=False)
    monkeypatch.setattr(Trainer, "save_checkpoint", lambda trainer, path, *_: keep(trainer, path))
    folder = run(*DRAWN, *FEW, *ALWAYS, "callbacks.mid_epoch_checkpoint.every_n_steps=1", "trainer.max_epochs=2")
    monkeypatch.undo()
    monkeypatch.setenv("LITMUS_STAMP", "now")
    (folder / "checkpoints" / "last.ckpt").unlink()
    (folder / "checkpoints" / "kept.ckpt").rename(folder / "checkpoints" / "last.ckpt")
    run(f"run={folder}", "trainer.max_epochs=3")
    events = read(folder)
    for tag in ("inputs/train", "inputs/val", "network/filters"):
        assert steps(events, "Images", tag) == [0, 1, 2], tag
    assert steps(events, "Scalars", "images_per_second") == [0, 1, 2]


def test_nothing_runs_without_the_callbacks(run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*arguments: Any, **options: Any) -> None:
        raise AssertionError

    for callback in (Dashboard, CollectPredictions, Throughput):
        monkeypatch.setattr(callback, "on_train_start", never)
        monkeypatch.setattr(callback, "on_test_epoch_start", never, raising=False)
    monkeypatch.setattr(Trainer, "validate", never)
    monkeypatch.setattr("lit_modules.evaluation.figures.png", never)
    folder = run(*DRAWN, *FEW, "callbacks=[checkpoint]")
    events = read(folder)
    assert events.Tags()["images"] == events.Tags()["histograms"] == []
    assert not [path.name for path in folder.iterdir() if path.name.startswith(("report", "predictions", "confusion"))]


def test_run_without_tensorboard_has_its_files(run: Callable[..., Path]) -> None:
    folder = run(*DRAWN, *FEW, "logger=[epoch_csv]")
    assert not list(folder.glob("events*"))
    assert (folder / "report.md").is_file() and (folder / "predictions.csv").is_file()


def test_run_without_validation_is_reported_too(run: Callable[..., Path]) -> None:
    folder = run(*DRAWN, *FEW[:1], FEW[2], "trainer.limit_val_batches=0", "monitor=train/f1")
    assert "| test |" in (folder / "report.md").read_text()
    assert "inputs/val" not in read(folder).Tags()["images"]


class Batch(NamedTuple):
    inputs: Tensor
    labels: Tensor
    index: Tensor  # type: ignore[assignment]
    size: int
    features: bool = False
    targets: Tensor | None = None


class OneBatch(LightningDataModule):
    """The same batch for training, validation and test."""

    def __init__(self, batch: Batch) -> None:
        super().__init__()
        self.batch = batch

    def files(self, split: str) -> list[str]:
        return [f"{split}/{i}" for i in range(len(self.batch.labels))]

    def samples(self, split: str, index: Tensor) -> Tensor:
        return self.batch.inputs[index]

    def train_dataloader(self) -> DataLoader[Batch]:
        return DataLoader([self.batch], batch_size=None)  # type: ignore[arg-type]

    val_dataloader = test_dataloader = train_dataloader


@pytest.mark.parametrize(
    "shape",
    [
        pytest.param(shape, id=name, marks=[pytest.mark.slow] * (name in DRAWN_ELSEWHERE))
        for name, shape in SHAPES.items()
    ],
)
def test_series_images_and_volumes_are_all_supported(tmp_path: Path, shape: tuple[int, ...]) -> None:
    count = 8
    batch = Batch(torch.rand(count, *shape), torch.arange(count) % 4, torch.arange(count), count)
    module = LitClassifier(
        input_shape=shape, class_names=["a", "b", "c", "d"], class_counts=[2] * 4, mean=[0.5] * shape[0],
        std=[0.25] * shape[0], net=lambda input_shape, num_classes: network(input_shape), init=None,
        loss=nn.CrossEntropyLoss, class_weights=None, optimizer=lambda groups: torch.optim.SGD(groups, 0.1),
        param_groups={}, freeze=[], layer_decay=1.0, unfreeze_epoch=None, scheduler=None, interval="step",
        monitor="val/f1", metrics={}, seed=0, gradient_checkpointing=False,
    )  # fmt: skip
    (tmp_path / "config.yaml").write_text("seed: 0\n")
    trainer = Trainer(
        accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, logger=TensorBoard(str(tmp_path)),
        callbacks=[Dashboard(1, None), CollectPredictions(1, None), Throughput()], enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, num_sanity_val_steps=0, log_every_n_steps=1,
    )  # fmt: skip
    trainer.fit(module, OneBatch(batch))
    trainer.test(module, OneBatch(batch), verbose=False)
    tags = read(tmp_path).Tags()["images"]
    assert {*OF_THE_NETWORK, "test/mistakes", "test/maps"} <= set(tags)
