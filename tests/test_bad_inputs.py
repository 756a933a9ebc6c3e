"""Whatever is wrong with data, settings, checkpoints or the machine: one line, exit code 2, nothing lost or left."""

import hashlib
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import train
from conf import schema, validation
from conf.error_messages import one_line_errors
from tests.conftest import TINY, configure, write_images

FIT = ("+experiment=image_folder", *TINY, "lit_module.net.pool=2")
Break = Callable[[Path, Path], object]  # what is done to the images and to a sound run before the command


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of two classes and a run that learned them, below one folder."""
    folder = tmp_path_factory.mktemp("sound")
    for name, level in (("dark", 60), ("light", 190)):
        write_images(folder / "images" / name, 20, level=level)
    schema.register()
    os.environ["LITMUS_STAMP"] = "now"
    cfg = configure(*FIT, f"datamodule.root={folder / 'images'}", f"run_dir={folder / 'run'}")
    train.fit(cfg)
    return folder


def nothing(images: Path, run: Path) -> None:
    pass


def checkpoint(content: object) -> Break:
    """Every checkpoint of the run, and its weights alone, become this."""

    def change(images: Path, run: Path) -> None:
        for path in [*run.glob("checkpoints/*.ckpt"), run / "model.pt"]:
            path.unlink(missing_ok=True)
            if isinstance(content, bytes):
                path.write_bytes(content)
            else:
                torch.save(content, path)

    return change


def altered(**changes: object) -> Break:
    """The run's checkpoints say something else."""

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


# name: (what is broken, the command, the beginning of the line, more of it)
ROWS: dict[str, tuple[Break, str, str, str]] = {
    # Data
    "no data": (nothing, "FIT datamodule.root=/not/there", "datamodule.root: /not/there does not exist", ""),
    "a file as data": (nothing, "FIT datamodule.root=RUN/config.yaml", "datamodule.root: ", "is not a folder"),
    "one class": (lambda p, r: shutil.rmtree(p / "light"), "FIT ROOT", "datamodule.root: ", "1 class folder"),
    "a class in Latin-1": (
        lambda p, r: (p / "dark").rename(p / os.fsdecode(b"caf\xe9")), "FIT ROOT", "class 'caf\\udce9': ", "rename it"
    ),
    "no classes": (lambda p, r: [shutil.rmtree(each) for each in p.iterdir()], "FIT ROOT", "datamodule.root: ", "0"),
    "an empty class": (lambda p, r: (p / "new").mkdir(), "FIT ROOT", "IMAGES/new: holds no image", ""),
    "an empty file": (lambda p, r: (p / "dark/000.png").write_bytes(b""), "FIT ROOT", "dark/000.png (the file is", ""),
    "a web page": (lambda p, r: (p / "dark/1.jpg").write_text("<html>"), "FIT ROOT", "dark/1.jpg (not an image", ""),
    "half an image": (lambda p, r: os.truncate(p / "dark/000.png", 150), "FIT ROOT", "dark/000.png (", "on_error=skip"),
    "a broken link": (lambda p, r: (p / "dark/a.png").symlink_to("x"), "FIT ROOT", "dark/a.png (no such file", ""),
    "a class too small": (lambda p, r: write_images(p / "new", 1, level=9), "FIT ROOT", "class new: too few", ""),
    "splits without train": (lambda p, r: write_images(p / "val/a", 1, level=9), "FIT ROOT", "datamodule.root: ", ""),
    "an unknown class": (nothing, "FIT ROOT datamodule.classes=[dark,lihgt]", "datamodule.classes: ", "'light'"),
    "a batch too large": (
        nothing, "FIT ROOT datamodule.batch_size=99 datamodule.drop_last=true", "datamodule.batch_size: ", "use less"
    ),
    "a size too small": (nothing, "FIT ROOT datamodule.image_size=1", "lit_module.net", ""),
    "no size": (nothing, "FIT ROOT datamodule.image_size=[1,2,3]", "datamodule.image_size: ", "[height, width]"),
    # Settings
    "an unknown key": (nothing, "FIT ROOT lit_module.optimizer.lrr=1", "lit_module.optimizer.lrr: ", "'lr'"),
    "an unknown key, added": (nothing, "FIT ROOT +unknown=1", "unknown: ", ""),
    "an unknown key, deep": (nothing, "FIT ROOT +trainer.max_epoch=1", "trainer.max_epoch: ", "'max_epochs'"),
    "a value for a section": (nothing, "FIT ROOT trainer=5", "command line: ", "trainer.max_epochs=5"),
    "a word for a number": (nothing, "FIT ROOT trainer.max_epochs=ten", "trainer.max_epochs: ", "int"),
    "an unknown monitor": (nothing, "FIT ROOT monitor=val/accuracy", "monitor: ", "'val/acc'"),
    "a monitor of the test": (nothing, "FIT ROOT monitor=test/acc", "monitor: ", "chooses nothing"),
    "the wrong mode": (nothing, "FIT ROOT monitor=val/loss mode=max", "mode: ", "min"),
    "a negative rate": (nothing, "FIT ROOT lit_module.optimizer.lr=-1", "lit_module.optimizer", ""),
    "a rate of nan": (nothing, "FIT ROOT lit_module.optimizer.lr=.nan", "", ""),
    "a dropout of two": (nothing, "FIT ROOT lit_module.net.dropout=2", "lit_module.net.dropout: ", ""),
    "a test of nothing": (
        nothing, "FIT ROOT trainer.limit_test_batches=0", "trainer.limit_test_batches: ", "test=false"
    ),
    "flips of series": (nothing, "+experiment=series datamodule/augment=[flip]", "datamodule.augment: ", "images"),
    "no batch": (nothing, "FIT ROOT datamodule.batch_size=0", "datamodule.batch_size: ", "try 64"),
    "a share of all": (nothing, "FIT ROOT datamodule.val_fraction=1", "datamodule.val_fraction: ", "try 0.1"),
    "an unknown loss": (nothing, "FIT ROOT lit_module.loss._target_=torch.nn.L9", "lit_module.loss._target_: ", ""),
    "a loss on no logits": (nothing, "FIT ROOT lit_module.loss._target_=torch.nn.NLLLoss", "lit_module.loss", ""),
    "foreign code": (nothing, "FIT ROOT lit_module.loss._target_=os.system", "lit_module.loss._target_: ", "torch.nn"),
    "torch.load": (nothing, "FIT ROOT lit_module.net._target_=torch.load", "lit_module.net._target_: ", ""),
    "no negative seed": (nothing, "FIT ROOT seed=-1", "seed: ", "seed=0"),
    "an unknown pattern": (nothing, "FIT ROOT lit_module.freeze=[bloks.*]", "lit_module.freeze: ", ""),
    "weights for others": (nothing, "FIT ROOT lit_module.class_weights=[1,2,3]", "lit_module.class_weights: ", "2"),
    "an unknown experiment": (nothing, "+experiment=image_foldr", "experiment=image_foldr: ", "'image_folder'"),
    "no epoch": (nothing, "FIT ROOT trainer.max_epochs=0", "epochs: ", "try 1"),
    "no validated epoch": (
        nothing, "FIT ROOT trainer.check_val_every_n_epoch=5", "trainer.check_val_every_n_epoch: ", "lower it"
    ),
    "no epoch kept": (
        nothing, "FIT ROOT callbacks.checkpoint.every_n_epochs=0", "callbacks.checkpoint.every_n_epochs: ", "1 or more"
    ),
    "no batch of many": (
        nothing, "FIT ROOT trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: ", "1 or more"
    ),
    "no training": (nothing, "FIT ROOT trainer.limit_train_batches=0", "trainer.limit_train_batches: ", "on nothing"),
    "less than a batch": (nothing, "FIT ROOT trainer.limit_train_batches=0.0001", "trainer: ", ""),
    "Lightning's own trial": (nothing, "FIT ROOT +trainer.fast_dev_run=true", "trainer.fast_dev_run: ", "debug"),
    "rare validation": (nothing, "FIT ROOT +trainer.val_check_interval=999", "trainer.val_check_interval: ", "lower"),
    "half precision": (nothing, "FIT ROOT trainer.precision=bf16-true", "trainer.precision: ", "bf16-mixed"),
    "images too large": (nothing, "FIT ROOT datamodule.image_size=9999999", "datamodule: Unable to allocate ", ""),
    "all frozen": (nothing, "FIT ROOT lit_module.freeze=[*] lit_module.unfreeze_epoch=1", "lit_module.freeze: ", ""),
    "thawed before": (
        nothing, "FIT ROOT lit_module.freeze=[head.*] lit_module.unfreeze_epoch=0", "lit_module.unfreeze_epoch: ", ""
    ),
    "one beta": (nothing, "FIT ROOT +lit_module.optimizer.betas=[0.9]", "lit_module.optimizer: ", ""),
    "a group of nothing": (nothing, "FIT ROOT +lit_module.param_groups.a=3", "lit_module.param_groups.a: ", "pattern"),
    "a group that climbs": (
        nothing, "FIT ROOT +lit_module.param_groups.a={pattern:head.*,lr:-1}", "lit_module.param_groups.a.lr: ", "-1"
    ),
    "weights of 0": (nothing, "FIT ROOT lit_module.class_weights=[0,0]", "lit_module.class_weights: ", "everywhere"),
    "smoothed twice": (
        nothing, "FIT ROOT lit_module.loss.label_smoothing=2", "lit_module.loss: ", "must be between 0.0 and 1.0"
    ),
    # Checkpoints
    "first weights, resumed": (nothing, "run=RUN ROOT init_from=RUN/model.pt", "init_from: ", "keeps it"),
    "no run": (nothing, "run=/not/there", "run: ", "folder of a run"),
    "no checkpoint": (lambda p, r: shutil.rmtree(r / "checkpoints"), "run=RUN", "run: ", ""),
    "cut checkpoints": (cut, "run=RUN", "run: ", ""),
    "empty checkpoints": (checkpoint(b""), "run=RUN", "run: ", ""),
    "foreign checkpoints": (checkpoint({"weights": torch.zeros(3)}), "run=RUN", "run: ", ""),
    "malicious checkpoints": (checkpoint(pickle.dumps(Malicious())), "run=RUN", "run: ", ""),
    "a malicious file": (checkpoint(Malicious()), "FIT ROOT init_from=RUN/model.pt", "init_from: ", "no weights"),
    "other classes": (
        lambda p, r: (p / "dark").rename(p / "dusk"), "run=RUN ROOT trainer.max_epochs=2", "", "dusk"
    ),
    "a lost epoch": (
        lambda p, r: (r / "metrics.csv").write_text("epoch\n"), "run=RUN epochs=9", "", "csv: has no row of epoch 0; "
    ),
    "other network": (nothing, "run=RUN lit_module.net.channels=[5]", "lit_module.net.channels: ", "keeps it"),
    "other rate": (nothing, "run=RUN lit_module.optimizer.lr=0.5", "lit_module.optimizer.lr: ", "keeps it"),
    "other data": (nothing, "run=RUN datamodule.val_fraction=0.3", "datamodule.val_fraction: ", "keeps it"),
    "other optimizer": (nothing, "run=RUN lit_module/optimizer=sgd", "lit_module/optimizer: ", "saved run"),
    "a config of nothing": (lambda p, r: (r / "config.yaml").write_text("a: ["), "run=RUN", "", "config.yaml"),
    "weights of nothing": (nothing, "FIT ROOT init_from=/not/there.pt", "init_from: ", ""),
    "weights of another": (nothing, "FIT ROOT init_from=RUN/model.pt lit_module.net.channels=[5]", "init_from: ", ""),
    # The machine
    "no such device": (nothing, "FIT ROOT devices=gpu", "", ""),
    "a folder in use": (nothing, "FIT ROOT run_dir=RUN", "run_dir: ", "already contains a run"),
    "a file as folder": (nothing, "FIT ROOT run_dir=RUN/config.yaml/x", "run_dir: ", "choose another"),
    "no place for the store": (
        nothing, "FIT ROOT datamodule.cache=disk datamodule.cache_dir=RUN/config.yaml", "datamodule.cache_dir: ", ""
    ),
    "no place for an export": (
        nothing, "task=export format=safetensors run=RUN output=RUN/config.yaml/x", "output: ", ""
    ),
    "nobody's images": (nothing, "task=predict run=RUN input='~nosuchuser/x'", "command line: ", "after ~"),
    "nothing to predict": (nothing, "task=predict run=RUN input=/not/there", "input: /not/there names no image", ""),
    "an empty word to predict": (nothing, "task=predict run=RUN input=", "input: is empty", ""),
    "no batch to predict": (
        nothing, "task=predict run=RUN input=IMAGES datamodule.batch_size=0", "datamodule.batch_size: ", "try 64"
    ),
    "a negative batch to predict": (
        nothing, "task=predict run=RUN input=IMAGES datamodule.batch_size=-1", "datamodule.batch_size: ", "try 64"
    ),
    "nothing to compare": (nothing, "task=compare runs=/not/there/*", "runs: ", ""),
    "no number of a run": (nothing, "task=compare runs=5", "runs: 5 names no run", ""),
}  # fmt: skip


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): hashlib.blake2b(path.read_bytes()).digest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", ROWS)
def test_it_is_answered_in_one_line(
    sound: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    change, text, start, more = ROWS[name]
    shutil.copytree(sound, tmp_path / "here", symlinks=True)
    monkeypatch.chdir(tmp_path / "here")
    images, run = (tmp_path / "here" / each for each in ("images", "run"))
    change(images, run)
    before = contents(tmp_path)
    words = [word for part in text.split() for word in (FIT if part == "FIT" else (part,))]
    words = [f"datamodule.root={images}" if word == "ROOT" else word.replace("RUN", str(run)) for word in words]
    words = [word.replace("IMAGES", str(images)) for word in words]
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
