"""litmus.load_run: what it answers equals the command line's, and it is as careful with a stranger's folder."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image
from sklearn.metrics import confusion_matrix

from litmus import Run, UserError, load_run
from tests.conftest import ROOT, write_images

SMALL = ("devices=cpu", "lit_module.net.channels=[4,8]", "trainer.max_epochs=2", "++callbacks.dashboard=null")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    write_images(folder / "dark", 40, level=60)
    write_images(folder / "light", 30, level=190, suffix="jpg")
    return folder


@pytest.fixture(scope="module")
def folder(images: Path, shared_run: Callable[..., Path]) -> Path:
    """A run on images, whose scores are drawn."""
    return shared_run("+experiment=from_scratch", f"datamodule.root={images}", "lit_module.net.pool=2", *SMALL)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Run:
    return load_run(folder, device="cpu")


def test_predictions_are_those_of_the_command_line(
    run: Callable[..., Path], folder: Path, images: Path, loaded: Run, tmp_path: Path
) -> None:
    run(f"run={folder}", "task=predict", f"input={images}", f"output={tmp_path}", "datamodule.batch_size=64")
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    files = [row["file"] for row in rows]
    assert loaded.predict(files) == [row["probabilities"] for row in rows]
    opened = [Image.open(file) for file in files]
    assert loaded.predict(opened) == [row["probabilities"] for row in rows]
    opened[0].load()  # still open
    pixels = [np.asarray(image) for image in opened]
    assert loaded.predict(pixels) == [row["probabilities"] for row in rows]


def test_one_source_gives_one_dict_and_a_list_a_list(loaded: Run, images: Path) -> None:
    file = images / "dark" / "000.png"
    one = loaded.predict(file)
    assert one.keys() == {"dark", "light"} and sum(one.values()) == pytest.approx(1)
    assert loaded.predict([file]) == [one] and loaded.predict([]) == []


def test_samples_of_the_data_module_are_inputs(loaded: Run) -> None:
    samples, floats = next(iter(loaded.datamodule().batches("test")))
    assert tuple(samples.shape[1:]) == loaded.input_shape
    expected = loaded.module(floats[:3]).softmax(1)
    for inputs in (samples, floats):
        predicted = loaded.predict(list(inputs[:3].numpy()))
        actual = torch.tensor([list(row.values()) for row in predicted])
        torch.testing.assert_close(actual, expected.detach(), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere.png", "nowhere.png: "),
        (np.zeros((3, 5, 7), np.float32), "an array (3, 5, 7) of float32"),
        (np.full((3, 12, 12), 255.0), "are in [0, 1]; divide them by 255"),
        (np.full((3, 12, 12), np.nan), "are in [0, 1]"),
        (7, "an array () of int64"),
        (None, "an array () of object"),
        (b"bytes", "an array () of |S5"),
    ],
)
def test_wrong_source_is_one_line(loaded: Run, source: Any, words: str) -> None:
    with pytest.raises(UserError) as caught:
        loaded.predict(source)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_threads_predict_the_same(loaded: Run, images: Path) -> None:
    file = images / "light" / "000.jpg"
    with ThreadPoolExecutor(4) as pool:
        predictions = list(pool.map(loaded.predict, [file] * 20))
    assert all(prediction == predictions[0] for prediction in predictions)


def test_scores_are_those_of_the_run(loaded: Run, folder: Path) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    assert [row["epoch"] for row in loaded.metrics] == [0, 1]
    for split in ("val", "test"):
        evaluation = loaded.evaluations[split]
        true, predicted = evaluation.predictions.true, evaluation.predictions.predicted
        assert np.array_equal(evaluation.confusion, confusion_matrix(true, predicted, labels=[0, 1]))
        assert evaluation.confusion.trace() / len(true) == pytest.approx(summary[f"{split}/acc"])
        assert evaluation.scores["auc"] == pytest.approx(summary[f"{split}/auc"], nan_ok=True)


def test_folder_is_left_as_it_was(folder: Path, images: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    run = load_run(folder, device="cpu")
    run.predict(images / "dark" / "000.png")
    run.datamodule()
    assert run.module.class_names == ["dark", "light"] and run.evaluations and run.metrics
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_calibration_is_that_of_the_command_line(
    run: Callable[..., Path], folder: Path, loaded: Run, images: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(folder, tmp_path / "copy", symlinks=True)
    table = (copy / "predictions.csv").read_text().replace("dark,dark", "light,dark", 1)  # a mistake of validation
    (copy / "predictions.csv").write_text(table)
    file = images / "dark" / "001.png"
    run(f"run={copy}", "task=predict", f"input={file}", "calibrate=true", f"output={tmp_path / 'out'}")
    expected = json.loads((tmp_path / "out" / "predictions.jsonl").read_text())["probabilities"]
    assert load_run(copy, device="cpu", calibrate=True).predict(file) == expected != loaded.predict(file)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("lit_module: {net: {_target_: os.system}}", "not from an allowed package"),
        ("lit_module: {net: {_target_: mylab.Net, _partial_: true}}", "set LITMUS_PACKAGES=mylab"),
        ("callbacks: {x: {dirpath: /tmp/elsewhere}}", "a run's folder may not decide that"),
        ("hydra: {}", "which no run saves"),
    ],
)
def test_config_of_a_stranger_is_checked(folder: Path, tmp_path: Path, text: str, words: str) -> None:
    received = shutil.copytree(folder, tmp_path / "received", symlinks=True)
    config = OmegaConf.load(received / "config.yaml")
    OmegaConf.save(OmegaConf.merge(config, OmegaConf.create(text)), received / "config.yaml")
    with pytest.raises(UserError, match=words):
        load_run(received)


@pytest.mark.parametrize("name", ["config.yaml", "checkpoints/best.ckpt"])
def test_incomplete_run_is_one_line(folder: Path, tmp_path: Path, name: str) -> None:
    received = shutil.copytree(folder, tmp_path / "received", symlinks=True)
    (received / name).unlink()
    with pytest.raises(UserError, match=name.rpartition("/")[2]):
        load_run(received)


def test_another_package_called_conf_is_named(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "__init__.py").touch()
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT / 'conf' / 'package'}"}
    importing = [sys.executable, "-c", "import litmus"]
    result = subprocess.run(importing, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert f"ImportError: litmus: another package is called conf: ['{tmp_path}/conf']; rename it" in result.stderr


def test_lightnings_own_loader_names_load_run(folder: Path) -> None:
    from lit_modules.classifier import LitClassifier

    with pytest.raises(UserError, match=r"litmus.load_run\('.*'\).module"):
        LitClassifier.load_from_checkpoint(folder / "checkpoints" / "best.ckpt")
