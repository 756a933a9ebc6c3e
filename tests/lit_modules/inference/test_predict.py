"""task=predict gives a row for every image that can be read, with the network's own probabilities."""

import csv
import json
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import train
from conf.errors import UserError
from datamodules.image_stream import find, read_in_batches
from datamodules.storage.decode import ImageSpec
from lit_modules.inference.device import autocast
from lit_modules.inference.predict import predict
from lit_modules.runs import restore
from tests.conftest import ROOT, TINY, Command, configure, write_images
from tests.fits import predictor_of
from tests.runs import NAMES, trained


@pytest.fixture(scope="module")
def trained_on_images(shared_run: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that learned from images that are no longer here."""
    images = tmp_path_factory.mktemp("predict") / "images"
    write_images(images / "dark", 40, level=60)
    write_images(images / "light", 30, level=190, suffix="jpg")
    folder = shared_run("+experiment=from_scratch", f"datamodule.root={images}", *TINY, "lit_module.net.pool=2")
    shutil.rmtree(images)
    return folder


@pytest.fixture
def trained_run(trained_on_images: Path, tmp_path: Path) -> Path:
    """A copy of it, to write in."""
    return shutil.copytree(trained_on_images, tmp_path / "run", symlinks=True)


def table(output: Path) -> dict[str, dict[str, str]]:
    """predictions.csv by the name of the file."""
    with open(output / "predictions.csv", newline="", encoding="utf-8") as file:
        return {Path(row["file"]).name: row for row in csv.DictReader(file)}


def probabilities_of(folder: Path, path: Path) -> list[float]:
    """By the LitClassifier itself, of one image of the right size."""
    module = restore.best_network(configure(f"run={folder}"))
    pixels = torch.tensor(np.asarray(Image.open(path).convert("RGB"))).permute(2, 0, 1)[None]
    with torch.inference_mode():
        return module(pixels / torch.tensor(255.0)).softmax(1)[0].tolist()


def test_every_image_gets_its_probabilities(run: Callable[..., Path], trained_run: Path, tmp_path: Path) -> None:
    write_images(tmp_path / "new" / "deep" / "down", 3, level=200)
    write_images(tmp_path / "new", 70, level=40, suffix="bmp")
    output = tmp_path / "out"
    run(f"run={trained_run}", "task=predict", f"input={tmp_path / 'new'}", f"output={output}")
    rows = table(output)
    assert len(rows) == 73
    for name in ("deep/down/001.png", "069.bmp"):
        row, expected = rows[Path(name).name], probabilities_of(trained_run, tmp_path / "new" / name)
        assert row["file"] == str(tmp_path / "new" / name)
        assert [float(row["p/dark"]), float(row["p/light"])] == pytest.approx(expected, abs=1e-6)
        assert row["predicted"] == ["dark", "light"][int(np.argmax(expected))]
        assert float(row["probability"]) == max(float(row["p/dark"]), float(row["p/light"]))
    lines = [json.loads(line) for line in (output / "predictions.jsonl").read_text().splitlines()]
    assert [line["file"] for line in lines] == [row["file"] for row in rows.values()]
    assert lines[0]["probabilities"] == {name: float(rows["000.bmp"][f"p/{name}"]) for name in ("dark", "light")}
    with Image.open(output / "contact_sheet.png") as sheet:
        assert sheet.width > 800 and sheet.height > 800, "eight rows of eight"
    assert sorted(path.name for path in output.iterdir()) == [
        "contact_sheet.png",
        "predictions.csv",
        "predictions.jsonl",
    ]


@pytest.mark.parametrize("kind", ["file", "folder", "archive", "table", "tabs", "glob"])
def test_images_are_named_in_six_ways(run: Callable[..., Path], trained_run: Path, tmp_path: Path, kind: str) -> None:
    write_images(tmp_path / "new", 3, level=200)
    (tmp_path / "new" / "notes.txt").write_text("no image")
    (tmp_path / "new" / "list.csv").write_text("id,file\n1,002.png\n2,000.png\n")
    (tmp_path / "new" / "list.tsv").write_text("File\tid\n001.png\t1\n\n")
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.write(tmp_path / "new" / "001.png", "deep/001.png")
    named = {
        "archive": ("new.zip", ["001.png"]),
        "file": ("new/001.png", ["001.png"]),
        "folder": ("new", ["000.png", "001.png", "002.png"]),
        "table": ("new/list.csv", ["002.png", "000.png"]),
        "tabs": ("new/list.tsv", ["001.png"]),
        "glob": ("new/00[12]*", ["001.png", "002.png"]),
    }
    source, expected = named[kind]
    run(f"run={trained_run}", "task=predict", f"input='{tmp_path / source}'")
    assert list(table(trained_run / "predictions" / "now")) == expected


def test_a_table_may_name_a_file_that_begins_with_a_tilde(tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text("file\n~$1.png\n")
    assert find(str(tmp_path / "list.csv"))[0] == [str(tmp_path / "~$1.png")]


def test_unreadable_files_are_named_and_passed_over(
    command: Callable[..., subprocess.CompletedProcess[str]], trained_run: Path, tmp_path: Path
) -> None:
    write_images(tmp_path / "new", 3, level=200)
    (tmp_path / "new" / "001.png").write_bytes(b"")
    result = command(f"run={trained_run}", "task=predict", f"input={tmp_path / 'new'}", f"output={tmp_path / 'out'}")
    assert result.returncode == 3, result.stderr
    assert f"skipped {tmp_path / 'new' / '001.png'}: the file is empty\n" in result.stderr
    assert "1 of 3 files were skipped" in result.stderr and "Traceback" not in result.stderr
    assert list(table(tmp_path / "out")) == ["000.png", "002.png"]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["input={}/nothing/*"], "^input: .* matches no images; "),
        (["input={}/new/list.csv"], "^input: .*list.csv has no column of files; "),
        (["input={}/new", "output={}/new/out"], "^output: .* is in the input folder"),
        (["input={}/new", "output={}/new/list.csv/out"], "^output: .* is in"),
        (["input={}/new/000.png", "output={}/new/list.csv/out"], "^output: cannot write to .*list.csv/out"),
        (["input={}/new", "lit_module.net.dropout=0.3"], "^lit_module.net.dropout: this run has "),
        (["input={}/new", "calibrate=true"], "^calibrate: .* has no readable validation samples"),
    ],
)
def test_a_wrong_use_is_one_line_and_writes_nothing(
    run: Callable[..., Path], trained_run: Path, tmp_path: Path, options: list[str], line: str
) -> None:
    write_images(tmp_path / "new", 2, level=200)
    (tmp_path / "new" / "list.csv").write_text("files\n000.png\n")
    (trained_run / "predictions.csv").unlink(missing_ok=True)
    with pytest.raises(UserError, match=line):
        run(f"run={trained_run}", "task=predict", *(option.format(tmp_path) for option in options))
    assert not (trained_run / "predictions").exists() and not (tmp_path / "new" / "out").exists()


def test_mirror_images_are_averaged(tmp_path: Path) -> None:
    predictor = predictor_of(trained((3, 12, 10)), 1.0)
    inputs = np.random.default_rng(0).integers(0, 256, (4, 3, 12, 10), dtype=np.uint8)
    files = [f"{i}.png" for i in range(4)]
    with torch.inference_mode():
        predict(predictor, [(files, inputs, [])], 4, NAMES, True, tmp_path)
        both = [predictor(torch.from_numpy(view.copy())) for view in (inputs, inputs[..., ::-1])]
    expected = (both[0].double() + both[1].double()) / 2
    found = [[float(row[f"p/{name}"]) for name in NAMES] for row in table(tmp_path).values()]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert (both[0] - both[1]).abs().max() > 1e-3


@pytest.mark.parametrize("channels", [1, 3])
def test_any_class_name_can_be_drawn(tmp_path: Path, channels: int) -> None:
    predictor = predictor_of(trained((channels, 12, 10)), 1.0)
    inputs = np.zeros((2, channels, 12, 10), np.uint8)
    predict(predictor, [(["a.png", "b $x.png"], inputs, [])], 2, ["올빼미 $x", *NAMES[1:]], False, tmp_path)
    assert (tmp_path / "contact_sheet.png").stat().st_size > 0


@pytest.mark.parametrize("workers", [0, 2])
def test_order_and_pixels_do_not_depend_on_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("datamodules.storage.worker_pool.MIN_FILES_FOR_PROCESSES", 1)
    write_images(tmp_path, 20, level=99, size=(7, 9))
    files = [str(tmp_path / f"{i:03d}.png") for i in [*reversed(range(20)), 3, 3, 99]]
    batches = list(read_in_batches(files, files, ImageSpec(3, (7, 9), "pad", True), 4, workers, "cpu"))
    assert [file for batch in batches for file in batch.files] == files[:-1]
    assert batches[-1].problems == [(files[-1], "no such file or directory")]
    expected = [np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files[:-1]]
    assert np.array_equal(np.concatenate([batch.inputs for batch in batches]), expected)


def test_memory_does_not_grow_with_the_number_of_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lit_modules.inference.predict.MAX_SHEET_IMAGES", 0)
    write_images(tmp_path, 1, level=99, size=(64, 64))
    predictor = predictor_of(trained((3, 64, 64)), 1.0)
    peaks = []
    for count in (100, 1000):
        files = [str(tmp_path / "000.png")] * count
        tracemalloc.start()
        with torch.inference_mode():
            predict(
                predictor,
                read_in_batches(files, files, ImageSpec(3, (64, 64), "pad", True), 20, 0, "cpu"),
                count,
                NAMES,
                False,
                tmp_path / "out",
            )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 900 * 64 * 64 * 3 / 10, "a tenth of the pixels; what is read ahead is less"


def test_test_images_get_what_the_test_gave_them(run: Callable[..., Path], tmp_path: Path) -> None:
    for split, count in (("train", 40), ("test", 50)):
        for name, level in (("dark", 60), ("light", 190)):
            write_images(tmp_path / "data" / split / name, count, level=level + count, size=(14, 12))
    choices = (*TINY, "lit_module.net.pool=2", "datamodule.image_size=[10,12]", "datamodule.resize=crop")
    folder = run("+experiment=from_scratch", f"datamodule.root={tmp_path / 'data'}", *choices)
    datamodule, module, trainer = train.build(configure(f"run={folder}", "task=test"))
    restore.load_best(module, folder)
    datamodule.trainer = trainer
    with torch.inference_mode():
        batches = [datamodule.on_after_batch_transfer(batch, 0) for batch in datamodule.test_dataloader()]
        expected = torch.cat([module.eval().predict_step(batch, 0) for batch in batches])
    run(f"run={folder}", "task=predict", f"input={tmp_path / 'data' / 'test'}", f"output={tmp_path / 'out'}")
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"].removeprefix(f"{tmp_path / 'data'}/") for row in rows] == list(datamodule.files("test"))
    found = torch.tensor([[float(row[f"p/{name}"]) for name in datamodule.class_names] for row in rows])
    assert torch.equal(found, expected)


def test_predictions_are_those_of_the_run(run: Callable[..., Path], images: Path, tmp_path: Path) -> None:
    choices = ("devices=cpu", "lit_module.net.channels=[4,8]", "lit_module.net.pool=2", "++callbacks.dashboard=null")
    folder = run("+experiment=from_scratch", *choices, "trainer.max_epochs=2", f"datamodule.root={images}")
    with open(folder / "predictions.csv", newline="") as file:
        expected = [row for row in csv.DictReader(file) if row["split"] == "test"]
    table = images / "test.csv"
    table.write_text("\n".join(["file", *(row["file"] for row in expected)]))
    run(f"run={folder}", "task=predict", f"input={table}", f"output={tmp_path / 'out'}")
    with open(tmp_path / "out" / "predictions.csv", newline="") as file:
        found = list(csv.DictReader(file))
    assert len(expected) == len(found) > 3
    for one, other in zip(expected, found, strict=True):
        assert one["predicted"] == other["predicted"] and other["file"] == str(images / one["file"])
        for name in ("p/dark", "p/light"):
            assert float(one[name]) == pytest.approx(float(other[name]), abs=1e-6)


@pytest.mark.parametrize(("device", "niceness"), [("cpu", 19), ("cuda", 0)])
def test_processes_leave_the_cores_to_a_network_that_needs_them(
    device: str, niceness: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    started = []
    monkeypatch.setattr(
        "datamodules.image_stream.Workers", lambda *_, niceness: started.append(niceness) or nullcontext()
    )
    read_in_batches([], [], ImageSpec(3, (7, 9), "pad", True), 4, 2, device)
    assert started == [niceness]


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """A new image."""
    write_images(tmp_path / "new", 1, level=200)
    return next((tmp_path / "new").iterdir())


def test_prediction_imports_no_lightning(trained_run: Path, new: Path, tmp_path: Path) -> None:
    arguments = ["train.py", f"run={trained_run}", "task=predict", f"input={new}", f"output={tmp_path / 'out'}"]
    code = f"import sys, train; sys.argv = {arguments}; train.start(); print(*sorted(sys.modules), sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(done.stdout.split())
    assert "torch" in modules and not {"pytorch_lightning", "torchvision", "torchmetrics", "scipy"} & modules


def test_few_answers_are_printed(
    run: Callable[..., Path], trained_run: Path, new: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    run(f"run={trained_run}", "task=predict", f"input={new}", f"output={tmp_path / 'out'}")
    row = table(tmp_path / "out")[new.name]
    assert capsys.readouterr().out.startswith(f"{new}: {row['predicted']} {float(row['probability']):.3f}\n")


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("trainer.accelerator=mps", "trainer.accelerator: mps is not available here; use devices=cpu"),
        ("trainer.precision=8", "trainer.precision: "),
        ("+trainer.presicion=32-true", "trainer.presicion: "),
    ],
)
def test_wrong_device_is_refused(command: Command, trained_run: Path, new: Path, override: str, line: str) -> None:
    result = command(f"run={trained_run}", "task=predict", f"input={new}", override)
    assert result.returncode == 2 and result.stderr.startswith(f"error: {line}")


@pytest.mark.parametrize(
    ("precision", "dtype"), [("16-mixed", torch.bfloat16), ("bf16-mixed", torch.bfloat16), ("32-true", torch.float32)]
)
def test_cpu_computes_mixed_precision_in_bfloat16(precision: str, dtype: torch.dtype) -> None:
    with autocast(torch.device("cpu"), precision):
        assert torch.nn.functional.linear(torch.ones(2, 2), torch.ones(2, 2)).dtype == dtype
