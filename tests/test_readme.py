"""Every command of the README works as written, with fewer epochs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import uvicorn

from conf import validation
from tests import browser
from tests.conftest import DRAWN, ROOT, TINY, UNDRAWN, Command, configure, write_images

README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
LINES = [re.sub(r"\s+#.*", "", line) for block in BLOCKS for line in block.splitlines()]
TRAINING = [line for line in LINES if line.startswith("python train.py")]
# Commands that one composed config cannot express: several runs, several processes, or Hydra's own flags.
OWN_PROCESS = [line for line in TRAINING if {"-m", "--cfg", "devices=ddp", "+sweep=cnn"} & set(line.split())]

QUICK = (*UNDRAWN, "trainer.limit_train_batches=2", "trainer.limit_val_batches=2")


def arguments_of(line: str, run_folder: Path, images: Path) -> list[str]:
    places = {
        "run=DIR": f"run={run_folder}",
        "datamodule.root=DIR": f"datamodule.root={images}",
        "datamodule.root=OTHER": f"datamodule.root={images}",
        "datamodule.root=TABLE": f"datamodule.root={images / 'table.csv'}",
        "datamodule.root=ARRAYS": f"datamodule.root={images / 'arrays.npz'}",
        "datamodule.root=FILES": f"datamodule.root={images.parent / 'files'}",
        "trials=20": "trials=1",
        "input=IMAGES": f"input={images}",
        "coverage=0.9": "coverage=0.8",  # as 6 validation samples allow
        "unknown=0.05": "unknown=0.2",
        "runs=logs/digits/*": f"runs={run_folder}*",
    }
    return [places.get(word, word) for word in shlex.split(line)[2:]]


def test_every_block_is_covered() -> None:
    others = [line for line in LINES if line not in TRAINING]
    installing = ["pip install -e . && python train.py +experiment=digits", 'pip install -e ".[test]" && pytest']
    assert others == [*installing, "tensorboard --logdir logs"]  # .ci/run runs the first two
    assert len(TRAINING) >= 10


class Trained(NamedTuple):
    run: Path
    images: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, shared_run: Callable[..., Path]) -> Trained:
    """Labelled images, a table and arrays in their folder, a folder of arrays beside it, and a run on the images."""
    images = tmp_path_factory.mktemp("readme") / "images"
    write_images(images / "dark", 40, level=60)
    write_images(images / "light", 30, level=190, suffix="jpg")
    for i in range(8):
        (images / "dark" / f"{i:03d}.png").rename(images / "light" / f"dark{i}.png")
    files = sorted(path for path in images.rglob("*") if path.is_file())
    rows = [f"{path.relative_to(images)},{path.parent.name}" for path in files]
    (images / "table.csv").write_text("\n".join(["path,label", *rows]))
    np.savez(images / "arrays.npz", inputs=np.random.rand(60, 3, 20), labels=np.arange(60) % 3)
    for i in range(20):
        folder = images.parent / "files" / ("high" if i % 2 else "low")
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / f"{i}.npy", np.random.rand(3, 16, 16))
    small = (*DRAWN, "++callbacks.dashboard=null", "lit_module.net.pool=2")
    return Trained(shared_run("+experiment=from_scratch", f"datamodule.root={images}", *small), images)


@pytest.mark.parametrize("line", [line for line in TRAINING if line not in OWN_PROCESS])
def test_command_runs(
    run: Callable[..., Path], trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    monkeypatch.setattr(uvicorn.Server, "run", lambda *_, **__: None)  # test_serve.py serves
    browser.write_runtime(Path(os.environ["LITMUS_CACHE"]))
    folder = shutil.copytree(trained.run, tmp_path / "earlier", symlinks=True)
    arguments = arguments_of(line, folder, trained.images)
    if "task=" not in line:
        arguments.append(f"trainer.max_epochs={2 if 'epochs=60' in line else 1}")
        arguments += QUICK
    if "task=serve" in line:
        arguments.append("port=0")
    if "task=tune" in line:
        arguments.append("num_steps=20")
    if "task=inspect" in line or "task=tune" in line:
        arguments.append(f"output={tmp_path / 'run' / 'output'}")
    outputs = {
        "task=predict": "predictions/now/contact_sheet.png",
        "task=export": "export/model.onnx",
        "task=report": "report.html",
        "task=inspect": "output/inspection.json",
        "task=tune": "output/tuning.png",
    }
    written = run(*arguments)
    expected = next((outputs[word] for word in line.split() if word in outputs), "summary.json")
    assert "task=compare" in line or (written / expected).is_file(), [str(path) for path in written.rglob("*")]


@pytest.mark.parametrize("line", [line for line in OWN_PROCESS if "devices=ddp" in line])
def test_command_of_several_processes_is_valid(line: str) -> None:
    validation.check(configure(*shlex.split(line)[2:]))  # test_ranks.py runs these overrides


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, marks=pytest.mark.slow) if {"devices=ddp", "+sweep=cnn"} & set(line.split()) else line
        for line in OWN_PROCESS
    ],
)
def test_command_of_several_runs_or_processes_runs(
    command: Command, process: Command, tmp_path: Path, line: str
) -> None:
    execute = process if "devices=ddp" in line else command
    result = execute("trainer.max_epochs=1", f"logs_dir={tmp_path}", *QUICK, *arguments_of(line, tmp_path, tmp_path))
    assert result.returncode == 0, result.stderr
    if "--cfg" not in line:
        assert len(list(tmp_path.rglob("summary.json"))) == (3 if "-m" in line else 1)


def test_dashboard_serves_the_scores(run: Callable[..., Path], tmp_path: Path) -> None:
    run(*TINY)
    tensorboard = [sys.executable, "-m", "tensorboard.main", "--load_fast=false", "--port=0"]
    server = subprocess.Popen([*tensorboard, f"--logdir={tmp_path}"], stderr=subprocess.PIPE, text=True)
    try:
        assert server.stderr is not None
        address = next(match[0] for line in server.stderr if (match := re.search(r"http://\S+:\d+/", line)))
        with urllib.request.urlopen(f"{address}data/plugin/scalars/tags") as answer:
            tags = answer.read().decode()
    finally:
        server.kill()
        server.communicate()
    assert all(f'"{split}/{score}"' in tags for split in ("train", "val", "test") for score in ("loss", "acc", "f1"))
