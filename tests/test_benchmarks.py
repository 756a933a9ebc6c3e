"""Each benchmark runs end to end on a few small images and prints JSON."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.benchmarks.exports import IMAGE, INT8
from tests.benchmarks.measuring import in_turn, multiple
from tests.conftest import ROOT, TINY, write_images

RECORD = """
import torch
data = torch.load("cifar10/test.pt")
assert data["images"].shape[1:] == (32, 32, 3) and len(data["images"]) == len(data["labels"])
for run in ["warmup", *range(200)]:
    print("|  %s  |  1     |  0.5000     |  0.5000  |           |   0.1000  |" % run)
    print("|        |  eval  |             |          |  0.6000   |   0.2000  |")
"""


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder of splits, each with two classes that are easy to tell apart."""
    for split, count, darker in (("train", 70, 0), ("test", 20, 5)):
        write_images(tmp_path / split / "dark", count, level=60 - darker, size=(32, 32))
        write_images(tmp_path / split / "light", count, level=190 - darker, size=(32, 32))
    return tmp_path


def measured(name: str, *options: str) -> list[dict[str, object]]:
    """The lines of JSON that a benchmark prints."""
    command = [sys.executable, "-m", f"tests.benchmarks.{name}", *options]
    result = subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stdout.splitlines() if line.startswith("{")]
    assert all({"processor", "cores", "torch", "measured"} <= line.keys() for line in lines)
    return lines


def test_sides_take_turns_and_are_compared_within_a_round() -> None:
    calls: list[tuple[str, int]] = []

    def side(name: str, scale: float) -> object:
        def call(number: int) -> dict[str, float]:
            calls.append((name, number))
            return {"seconds": scale * (1 + number)}  # the machine gets slower

        return call

    values = in_turn({"first": side("first", 1.0), "second": side("second", 4.0)}, rounds=3)  # type: ignore[dict-item]
    assert calls == [("first", 0), ("second", 0), ("second", 1), ("first", 1), ("first", 2), ("second", 2)]
    assert multiple(values, "second", "seconds") == 4


@pytest.mark.slow
@pytest.mark.parametrize("name", ["notes_loop", "plain_lightning"])
def test_race_is_run(classes: Path, name: str) -> None:
    choices = ["--classes", "dark", "light", "--epochs", "3", "--rounds", "2", "--workers", "0"]
    (line,) = measured(name, "--images", str(classes), *choices)
    for figures in line["measured"].values():  # type: ignore[attr-defined]
        assert set(figures) == {"an epoch, s", "whole process, s", "whole process, CPU s", "last val/acc"}
        assert all(len(values) == 2 and min(values) > 0 for values in figures.values())


@pytest.mark.slow
def test_bare_limit_is_measured(classes: Path) -> None:
    lines = measured("bare_limit", "--images", str(classes), "--classes", "dark", "light", "--epochs", "2")
    for line in lines:
        assert all(len(figures["ms a step"]) > 2 for figures in line["measured"].values())  # type: ignore[attr-defined]


@pytest.mark.slow
def test_loading_and_decoding_are_measured(classes: Path) -> None:
    choices = ["--classes", "dark", "light", "--rounds", "1", "--workers", "0"]
    assert [line["benchmark"] for line in measured("loading", "--images", str(classes), *choices)] == [
        "loading",
        "decoding",
    ]


@pytest.mark.slow
def test_table_is_measured() -> None:
    (line,) = measured("table", "10000")
    assert line["rows"] == 10000


@pytest.mark.slow
def test_scaling_is_measured() -> None:
    strong, weak = measured("scaling", "--processes", "1", "2", "--batch", "8", "--steps", "2")
    for line in (strong, weak):
        assert set(line["measured"]) == {"processes=1", "processes=2"}  # type: ignore[call-overload]


@pytest.mark.slow
def test_startup_is_measured() -> None:
    (line,) = measured("startup", "--rounds", "1")
    assert len(line["measured"]) == 3  # type: ignore[arg-type]


@pytest.mark.slow
def test_serving_is_measured(run: Callable[..., Path], classes: Path) -> None:
    folder = run("+experiment=from_scratch", f"datamodule.root={classes}", *TINY)
    choices = ["--images", str(classes), "--clients", "8", "--seconds", "2", "--rounds", "1"]
    (line,) = measured("serving", "--run", str(folder), *choices)
    service = line["measured"]["task=serve"]  # type: ignore[index]
    assert service["answered, %"] == [100] and min(service["images a second"]) > 0


@pytest.mark.slow
def test_time_to_accuracy_is_measured_beside_a_record(classes: Path, tmp_path: Path) -> None:
    script = tmp_path / "record.py"
    script.write_text(RECORD, encoding="utf-8")
    small = ["datamodule=image_folder", "~datamodule.dataset", f"datamodule.root={classes}", "datamodule.batch_size=40"]
    small += ["datamodule.val_fraction=0.2", "lit_module.net.channels=[8,8,8]", "epochs=2", "devices=cpu"]
    cache = f"datamodule.cache_dir={tmp_path / 'cache'}"
    choices = ["--record", str(script), "--runs", "2", "--rounds", "1"]
    (line,) = measured("time_to_accuracy", *choices, *small, cache)
    ours, record = line["measured"].values()  # type: ignore[attr-defined]
    assert set(ours) == {"span, s", "fit, s", "test accuracy"} and len(ours["span, s"]) == 2
    assert record == {"span, s": [0.2, 0.2], "test accuracy": [0.6, 0.6]}


@pytest.mark.slow
def test_exports_and_decoders_are_measured(run: Callable[..., Path], tmp_path: Path) -> None:
    for name, level in (("dark", 60), ("light", 190)):
        write_images(tmp_path / "images" / name, 12, level=level, size=(70, 55), suffix="jpg")
    choices = ("datamodule.image_size=16", "datamodule.resize=stretch", "lit_module.net.pool=2")
    folder = run("+experiment=from_scratch", f"datamodule.root={tmp_path / 'images'}", *TINY, *choices)
    common = (str(folder), "--images", str(tmp_path / "images"), "--count", "5")
    (line,) = measured("exports", *common, "--formats", "torch_export", "onnx", "--rounds", "1")
    assert set(line["measured"]) == {"PyTorch", "torch_export", "onnx", IMAGE, INT8}  # type: ignore[call-overload]
    assert all(line["differences"][name] < 1e-5 for name in ("torch_export", "onnx", IMAGE))  # type: ignore[index]
    pytest.importorskip("cv2")
    (line,) = measured("decoders", *common)
    assert line["files"] == 5 and len(line["measured"]) == 7  # type: ignore[arg-type]
