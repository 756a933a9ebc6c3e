"""TensorBoard shows every score once an epoch, and compares runs by their hyperparameters."""

import math
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

import train
from conf.files import read_rows
from lit_modules.loggers.tensorboard import TensorBoard, flatten
from tests.conftest import TINY, configure

SHORT = (*TINY, "trainer.limit_train_batches=3", "trainer.limit_val_batches=2", "trainer.limit_test_batches=1")
SCORES = ("loss", "acc", "f1", "likelihood")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of two epochs that has been resumed for a third."""
    folder = tmp_path_factory.mktemp("tensorboard") / "run"
    train.fit(configure(*SHORT, "trainer.max_epochs=2", f"run_dir={folder}"))
    train.fit(configure(f"run={folder}", "trainer.max_epochs=3"))
    return folder


@pytest.fixture(scope="module")
def events(folder: Path) -> EventAccumulator:
    return read(folder)


def read(folder: Path) -> EventAccumulator:
    return EventAccumulator(str(folder), size_guidance={"images": 0, "histograms": 0}).Reload()


def hyperparameters(events: EventAccumulator) -> HParamsPluginData:
    (content,) = {
        tag: content
        for tag, content in events.summary_metadata.items()
        if content.plugin_data.plugin_name == "hparams" and "session_start_info" in tag
    }.values()
    return HParamsPluginData.FromString(content.plugin_data.content)


@pytest.mark.parametrize("tag", [*(f"{split}/{score}" for split in ("train", "val") for score in SCORES), "lr"])
def test_score_has_one_point_an_epoch(events: EventAccumulator, folder: Path, tag: str) -> None:
    points = events.Scalars(tag)
    assert [point.step for point in points] == [0, 1, 2]
    expected = [float(row[tag]) for row in read_rows(folder / "metrics.csv")]
    assert [point.value for point in points] == pytest.approx(expected, rel=1e-6)


def test_likelihood_of_each_class_has_points(events: EventAccumulator) -> None:
    for split in ("train", "val"):
        tags = [tag for tag in events.Tags()["scalars"] if tag.startswith(f"{split}_likelihood/")]
        assert tags == [f"{split}_likelihood/{digit}" for digit in range(10)]
        assert all(0 < point.value < 1 for tag in tags for point in events.Scalars(tag))


def test_test_scores_have_points(events: EventAccumulator) -> None:
    for score in SCORES:
        assert all(math.isfinite(point.value) for point in events.Scalars(f"test/{score}"))


def test_best_validation_scores_are_those_of_the_best_epoch(events: EventAccumulator, folder: Path) -> None:
    rows = read_rows(folder / "metrics.csv")
    for score in SCORES:
        point = events.Scalars(f"val_best/{score}")[-1]
        assert point.value == pytest.approx(float(rows[point.step][f"val/{score}"]), rel=1e-6)


def test_nothing_is_logged_by_step(events: EventAccumulator) -> None:
    assert max(point.step for tag in events.Tags()["scalars"] for point in events.Scalars(tag)) <= 3


def test_hyperparameters_are_listed_by_their_keys(events: EventAccumulator) -> None:
    chosen = hyperparameters(events).session_start_info.hparams
    assert chosen["lit_module.optimizer.lr"].number_value == 0.001
    assert chosen["lit_module.net"].string_value == "CNN"
    assert chosen["lit_module.net.channels"].string_value == "[4, 8]"
    assert chosen["seed"].number_value == 0
    assert chosen["datamodule.drop_last"].bool_value is False


def test_hparams_tab_names_tags_that_have_points(events: EventAccumulator) -> None:
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    names = {metric.name.tag for metric in HParamsPluginData.FromString(content).experiment.metric_infos}
    assert names == {f"{split}/{score}" for split in ("val_best", "test") for score in SCORES}
    assert names <= set(events.Tags()["scalars"])


def test_events_lie_in_the_folder_of_the_run(folder: Path) -> None:
    assert list(folder.glob("events.out.tfevents.*"))
    assert not list(folder.glob("*/events.out.tfevents.*"))
    assert not (folder / "hparams.yaml").exists()


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[TensorBoard]:
    logger = TensorBoard(str(tmp_path / "run"))
    yield logger
    logger.finalize("success")


def test_run_that_is_cut_off_is_listed_without_scores(logger: TensorBoard, tmp_path: Path) -> None:
    logger.log_hyperparams({"lr": 0.5})
    logger.save()
    events = read(tmp_path / "run")
    assert events.Tags()["scalars"] == []
    assert hyperparameters(events).session_start_info.hparams["lr"].number_value == 0.5


def test_another_logger_may_stand_beside(run: Callable[..., Path], tmp_path: Path) -> None:
    csv_logger = "+logger.csv._target_=pytorch_lightning.loggers.CSVLogger"
    run(*TINY, csv_logger, f"+logger.csv.save_dir={tmp_path / 'beside'}", f"run_dir={tmp_path / 'run'}", "test=false")
    (table,) = (tmp_path / "beside").rglob("metrics.csv")
    assert "train/loss" in table.read_text()


@pytest.mark.parametrize("kind", ["image", "histogram", "metrics"])
def test_first_write_of_a_resumed_run_drops_later_events(tmp_path: Path, kind: str) -> None:
    def write(logger: TensorBoard, step: int) -> None:
        png = b"\x89PNG" + bytes(12) + struct.pack(">II", 4, 3)
        values = {"image": png, "histogram": np.ones(3)}
        if kind == "metrics":
            logger.log_metrics({"tag": 1.0}, step)
        else:
            getattr(logger, f"log_{kind}")("tag", values[kind], step)

    for process, steps in enumerate(((0, 1, 2), (1, 2))):  # killed in its third epoch, and resumed in its second
        logger = TensorBoard(str(tmp_path / "new"))
        for step in steps:
            write(logger, step)
        logger.finalize("success")
        (file,) = (tmp_path / "new").iterdir()
        file.rename(tmp_path / f"events.out.tfevents.{process}")  # files are read by name, which holds the second alone
    events = read(tmp_path)
    kinds = {"image": "Images", "histogram": "Histograms", "metrics": "Scalars"}
    assert [event.step for event in getattr(events, kinds[kind])("tag")] == [0, 1, 2]


def test_nested_choices_become_dotted_keys() -> None:
    node = {
        "net": {"_target_": "lit_modules.networks.cnn.CNN", "_partial_": True, "pool": 2, "channels": [4, 8]},
        "scheduler": None,
        "deterministic": False,
    }
    expected = {
        "net": "CNN", "net.pool": 2, "net.channels": "[4, 8]", "scheduler": "None", "deterministic": False,
    }  # fmt: skip
    assert flatten(node) == expected


def test_epoch_that_a_killed_run_repeats_stands_once(run: Callable[..., Path]) -> None:
    folder = run(*TINY, "trainer.max_epochs=3")
    checkpoints = folder / "checkpoints"  # as it was when the run had just saved its first epoch
    for name in ("epoch=001.ckpt", "epoch=002.ckpt", "last.ckpt"):
        (checkpoints / name).unlink()
    (checkpoints / "last.ckpt").symlink_to("epoch=000.ckpt")
    run(f"run={folder}")
    events = EventAccumulator(str(folder))
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == [0, 1, 2]
