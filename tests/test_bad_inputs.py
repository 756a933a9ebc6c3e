"""Wrong data, values, checkpoints and folders: one line, exit code 2, no file changed."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from conf import validation
from conf.error_messages import one_line_errors
from tests.conftest import TINY, configure, write_images

FIT = ("+experiment=from_scratch", *TINY, "lit_module.net.pool=2")
Break = Callable[[Path, Path], object]  # changes the images and the run before the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with images of two classes and a run that was trained on them."""
    folder = tmp_path_factory.mktemp("trained")
    for name, level in (("dark", 60), ("light", 190)):
        write_images(folder / "images" / name, 20, level=level)
    os.environ["LITMUS_STAMP"] = "now"
    cfg = configure(*FIT, f"datamodule.root={folder / 'images'}", f"run_dir={folder / 'run'}")
    train.fit(cfg)
    return folder


def nothing(images: Path, run: Path) -> None:
    pass


def checkpoint(content: object) -> Break:
    """Replaces every checkpoint of the run, and model.pt."""

    def change(images: Path, run: Path) -> None:
        for path in [*run.glob("checkpoints/*.ckpt"), run / "model.pt"]:
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                torch.save(content, path)

    return change


def altered(**changes: object) -> Break:
    """Changes entries of the run's checkpoints."""

    def change(images: Path, run: Path) -> None:
        for path in run.glob("checkpoints/epoch*.ckpt"):
            torch.save(torch.load(path, weights_only=True) | changes, path)

    return change


def cut(images: Path, run: Path) -> None:
    for path in [*run.glob("checkpoints/epoch*.ckpt"), run / "model.pt"]:
        os.truncate(path, path.stat().st_size // 2)


class Malicious:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("made-by-a-checkpoint",)


# name: (change, command, start of the line, more of it). FIT, ROOT, RUN and IMAGES are replaced.
ROWS: dict[str, tuple[Break, str, str, str]] = {
    # Data
    "no data": (nothing, "FIT datamodule.root=/not/there", "datamodule.root: /not/there does not exist", ""),
    "a file as data": (nothing, "FIT datamodule.root=RUN/config.yaml", "datamodule.root: ", "holds no labelled images"),
    "one class": (lambda p, r: shutil.rmtree(p / "light"), "FIT ROOT", "datamodule.root: ", "1 class folder"),
    "a class in Latin-1": (
        lambda p, r: (p / "dark").rename(p / os.fsdecode(b"caf\xe9")), "FIT ROOT", "class 'caf\\udce9': ", "rename it"
    ),
    "no classes": (lambda p, r: [shutil.rmtree(path) for path in p.iterdir()], "FIT ROOT", "datamodule.root: ", "0"),
    "an empty class": (lambda p, r: (p / "new").mkdir(), "FIT ROOT", "IMAGES/new: contains no images", ""),
    "an empty file": (lambda p, r: (p / "dark/000.png").write_bytes(b""), "FIT ROOT", "dark/000.png (the file is", ""),
    "a web page": (lambda p, r: (p / "dark/1.jpg").write_text("<html>"), "FIT ROOT", "dark/1.jpg (not an image", ""),
    "half an image": (lambda p, r: os.truncate(p / "dark/000.png", 150), "FIT ROOT", "dark/000.png (", "on_error=skip"),
    "a broken link": (lambda p, r: (p / "dark/a.png").symlink_to("x"), "FIT ROOT", "dark/a.png (no such file", ""),
    "a class too small": (lambda p, r: write_images(p / "new", 1, level=9), "FIT ROOT", "class new (1): too few", ""),
    "splits without train": (lambda p, r: write_images(p / "val/a", 1, level=9), "FIT ROOT", "datamodule.root: ", ""),
    "an unknown class": (nothing, "FIT ROOT datamodule.classes=[dark,lihgt]", "datamodule.classes: ", "'light'"),
    "a batch too large": (
        nothing, "FIT ROOT datamodule.batch_size=99 datamodule.drop_last=true", "datamodule.batch_size: ", "use less"
    ),
    "a size too small": (nothing, "FIT ROOT datamodule.image_size=1", "lit_module.net", ""),
    "no size": (nothing, "FIT ROOT datamodule.image_size=[1,2,3]", "datamodule.image_size: ", "[height, width]"),
    # Settings
    "a negative rate": (nothing, "FIT ROOT lit_module.optimizer.lr=-1", "lit_module.optimizer", ""),
    "a dropout of two": (nothing, "FIT ROOT lit_module.net.dropout=2", "lit_module.net.dropout: ", ""),
    "flips of series": (nothing, "+experiment=series datamodule/augment=[flip]", "datamodule.augment: ", "images"),
    "no batch": (nothing, "FIT ROOT datamodule.batch_size=0", "datamodule.batch_size: must be ", "; "),
    "a fraction of all": (nothing, "FIT ROOT datamodule.val_fraction=1", "datamodule.val_fraction: must be ", "; "),
    "an unknown pattern": (nothing, "FIT ROOT lit_module.freeze=[bloks.*]", "lit_module.freeze: ", ""),
    "weights for others": (nothing, "FIT ROOT lit_module.class_weights=[1,2,3]", "lit_module.class_weights: ", "2"),
    "less than a batch": (nothing, "FIT ROOT trainer.limit_train_batches=0.0001", "trainer: ", ""),
    "rare validation": (nothing, "FIT ROOT +trainer.val_check_interval=999", "trainer.val_check_interval: ", "lower"),
    "images too large": (nothing, "FIT ROOT datamodule.image_size=65535", "datamodule.image_size: a batch", ""),
    "all frozen": (nothing, "FIT ROOT lit_module.freeze=[*] lit_module.unfreeze_epoch=1", "lit_module.freeze: ", ""),
    "unfrozen at once": (
        nothing, "FIT ROOT lit_module.freeze=[head.*] lit_module.unfreeze_epoch=0", "lit_module.unfreeze_epoch: ", ""
    ),
    "one beta": (nothing, "FIT ROOT +lit_module.optimizer.betas=[0.9]", "lit_module.optimizer: ", ""),
    "a group of nothing": (nothing, "FIT ROOT +lit_module.param_groups.a=3", "lit_module.param_groups: ", "dict"),
    "a group with a negative rate": (
        nothing, "FIT ROOT +lit_module.param_groups.a={pattern:head.*,lr:-1}", "lit_module.param_groups.a.lr: ", "-1"
    ),
    "weights of 0": (nothing, "FIT ROOT lit_module.class_weights=[0,0]", "lit_module.class_weights: ", "only zeros"),
    "smoothed twice": (
        nothing, "FIT ROOT lit_module.loss.label_smoothing=2", "lit_module.loss.label_smoothing: ", "at most 1"
    ),
    # Checkpoints
    "first weights, resumed": (nothing, "run=RUN ROOT init_from=RUN/model.pt", "init_from: ", "keeps it"),
    "no checkpoint": (lambda p, r: shutil.rmtree(r / "checkpoints"), "run=RUN", "run: ", ""),
    "cut checkpoints": (cut, "run=RUN", "run: ", ""),
    "empty checkpoints": (checkpoint(b""), "run=RUN", "run: ", ""),
    "foreign checkpoints": (checkpoint({"weights": torch.zeros(3)}), "run=RUN", "run: ", ""),
    "malicious checkpoints": (checkpoint(pickle.dumps(Malicious())), "run=RUN", "run: ", ""),
    "a malicious file": (checkpoint(Malicious()), "FIT ROOT init_from=RUN/model.pt", "init_from: ", "no readable"),
    "other classes": (
        lambda p, r: (p / "dark").rename(p / "dusk"), "run=RUN ROOT trainer.max_epochs=2", "", "dusk"
    ),
    "a lost epoch": (
        lambda p, r: (r / "metrics.csv").write_text("epoch\n"), "run=RUN epochs=9", "", "csv: has no row of epoch 0; "
    ),
    "other network": (nothing, "run=RUN lit_module.net.channels=[5]", "lit_module.net.channels: ", "keeps it"),
    "other rate": (nothing, "run=RUN lit_module.optimizer.lr=0.5", "lit_module.optimizer.lr: ", "keeps it"),
    "other data": (nothing, "run=RUN datamodule.val_fraction=0.3", "datamodule.val_fraction: ", "keeps it"),
    "other optimizer": (nothing, "run=RUN lit_module/optimizer=sgd", "lit_module.optimizer._target_: ", "keeps it"),
    "a config of nothing": (lambda p, r: (r / "config.yaml").write_text("a: ["), "run=RUN", "", "config.yaml"),
    "weights of nothing": (nothing, "FIT ROOT init_from=/not/there.pt", "init_from: ", ""),
    "weights of another": (nothing, "FIT ROOT init_from=RUN/model.pt lit_module.net.channels=[5]", "init_from: ", ""),
    # The machine
    "no such device": (nothing, "FIT ROOT devices=gpu", "", ""),
    "a folder in use": (nothing, "FIT ROOT run_dir=RUN", "run_dir: ", "already contains a run"),
    "a file as folder": (nothing, "FIT ROOT run_dir=RUN/config.yaml/x", "run_dir: ", "choose another"),
    "no place for the cache": (
        nothing, "FIT ROOT datamodule.cache=disk datamodule.cache_dir=RUN/config.yaml", "datamodule.cache_dir: ", ""
    ),
    "no place for an export": (
        nothing, "task=export format=safetensors run=RUN output=RUN/config.yaml/x", "output: ", ""
    ),
    "an unknown user": (nothing, "task=predict run=RUN input='~nosuchuser/x'", "command line: ", "unknown user"),
    "nothing to predict": (nothing, "task=predict run=RUN input=/not/there", "input: /not/there matches no images", ""),
    "an empty word to predict": (nothing, "task=predict run=RUN input=", "input: is empty", ""),
    "no batch to predict": (
        nothing, "task=predict run=RUN input=IMAGES datamodule.batch_size=0", "datamodule.batch_size: must be ", "; "
    ),
    "a negative batch to predict": (
        nothing, "task=predict run=RUN input=IMAGES datamodule.batch_size=-1", "datamodule.batch_size: must be ", "; "
    ),
    "nothing to compare": (nothing, "task=compare runs=/not/there/*", "runs: ", ""),
    "no number of a run": (nothing, "task=compare runs=5", "runs: 5 matches no run", ""),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ROWS)
def test_bad_input_is_answered_in_one_line(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, text, start, more = ROWS[name]
    shutil.copytree(trained, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    images, run = tmp_path / "here" / "images", tmp_path / "here" / "run"
    change(images, run)
    before = contents(tmp_path)
    text = text.replace("FIT", " ".join(FIT)).replace("ROOT", "datamodule.root=IMAGES")
    words = text.replace("RUN", str(run)).replace("IMAGES", str(images)).split()
    capsys.readouterr()
    with pytest.raises(SystemExit) as caught, one_line_errors():
        cfg = configure(*words)
        validation.check(cfg)
        train.TASKS[cfg.task](cfg)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert caught.value.code == 2 and len(lines) == 1, lines
    line = lines[0].removeprefix("error: ")
    assert line.startswith(start.replace("IMAGES", str(images))) and more in line, line
    assert ": " in line and "; " in line, line
    assert contents(tmp_path) == before
    assert not (tmp_path / "here" / "logs").exists() and not (tmp_path / "here" / "made-by-a-checkpoint").exists()
