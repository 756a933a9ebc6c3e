"""Every mistake of the user's is one line that names the key and the fix; every mistake of ours is a traceback."""

import resource
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

from conf import validation
from conf.error_messages import one_line_errors
from conf.errors import UserError, nearest
from tests.conftest import configure

HEADER = "# @package _global_\n"
Command = Callable[..., CompletedProcess[str]]


def answer(capsys: pytest.CaptureFixture[str], *overrides: str) -> str:
    """The one line for a wrong command, without `error: `."""
    with pytest.raises(SystemExit) as caught, one_line_errors():
        validation.check(configure(*overrides), overrides)
    return one_line(caught.value.code, capsys.readouterr().err)


def one_line(code: object, stderr: str) -> str:
    assert code == 2
    assert stderr.startswith("error: ") and stderr.count("\n") == 1 and stderr.endswith("\n"), stderr
    line = stderr.removeprefix("error: ").removesuffix("\n")
    assert not line.endswith(("choose from ", "; ", ": ")), "there is a fix"
    return line


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        # A key that does not exist.
        ("trainer.max_epoch=3", "trainer.max_epoch: ", "did you mean 'max_epochs'?"),
        ("+trainer.max_epoch=3", "trainer.max_epoch: ", "did you mean 'max_epochs'?"),
        ("trainr.max_epochs=3", "trainr: ", "did you mean 'trainer'?"),
        ("lit_module.optimizer.lrr=1", "lit_module.optimizer.lrr: ", "did you mean 'lr'?"),
        ("+lit_module.optimizer.weight_dekay=1", "lit_module.optimizer.weight_dekay: ", "'weight_decay'"),
        ("sead=1", "sead: ", "did you mean 'seed'?"),
        ("+sead=1", "sead: ", "did you mean 'seed'?"),
        ("callbacks=[default,ema] callbacks.ema.decai=1", "callbacks.ema.decai: ", "did you mean 'decay'?"),
        ("datamodule.augment.crop.padding=1", "datamodule.augment.crop: ", "datamodule/augment=[…,crop]"),
        ("logs_dir=", "logs_dir: ", "give it a value"),
        # One that would change nothing.
        ("datamodule/augment=[crop,flip] datamodule.augment={}", "datamodule.augment: ", "~datamodule.augment.crop"),
        ("lit_module.scheduler={}", "lit_module.scheduler: ", "lit_module.scheduler=null"),
        # A value of many where one is meant.
        ("lit_module.net.kernel_size={a:1}", "lit_module.net.kernel_size: ", "give int"),
        ("datamodule.batch_size={a:1}", "datamodule.batch_size: ", "give int"),
        # A file of a group that does not exist.
        ("lit_module/optimizer=adamx", "lit_module/optimizer=adamx: ", "did you mean 'adam'?"),
        ("lit_module/scheduler=cosin", "lit_module/scheduler=cosin: ", "did you mean 'cosine'?"),
        ("datamodule=digit", "datamodule=digit: ", "did you mean 'digits'?"),
        ("datamodule=folder", "datamodule=folder: ", "image_folder"),
        ("trainer=debg", "trainer=debg: ", "did you mean 'debug'?"),
        ("task=fitt", "task=fitt: ", "did you mean 'fit'?"),
        ("+experiment=digit", "experiment=digit: ", "did you mean 'digits'?"),
        ("callbacks=[defaul]", "callbacks=defaul: ", "did you mean 'default'?"),
        ("datamodule/augment=[crp]", "datamodule/augment=crp: ", "did you mean 'crop'?"),
        ("lit_module/optimiser=adam", "lit_module/optimiser: ", "optimizer"),
        # A value that cannot be.
        ("seed=abc", "seed: ", "give it a value of its type"),
        ("task=export format=onxx", "format: ", "onnx, safetensors"),
        ("seed=-1", "seed: ", "choose seed=0"),
        ("seed=4294967296", "seed: ", "4294967295"),
        ("trainer.max_epochs=abc", "trainer.max_epochs: ", "give int or null"),
        ("trainer.max_epochs=", "trainer.max_epochs: ", "give int or null"),
        ("datamodule.channels=2", "datamodule.channels: ", "give auto or 1 or 3"),
        ("datamodule.resize=padd", "datamodule.resize: ", "give pad or crop or stretch"),
        ("monitor=val/accuracy", "monitor: ", "did you mean 'val/acc'?"),
        ("monitor=test/f1", "monitor: ", "test split chooses nothing"),
        ("mode=min", "mode: ", "set mode=max"),
        ("name=../x", "name: ", "set run_dir"),
        ("name=/x", "name: ", "set run_dir"),
        ("trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: ", "0 or more"),
        ("+trainer.val_check_interval=0", "trainer.val_check_interval: ", "leave it out"),
        ("+trainer.val_check_interval='00:00:00:05'", "trainer.val_check_interval: ", "leave it out"),
        ("+trainer.val_check_interval={seconds:5}", "trainer.val_check_interval: ", "leave it out"),
        # A value that is missing.
        ("datamodule=image_folder", "datamodule.root: ", "add datamodule.root=…"),
        ("datamodule=torchvision", "datamodule.dataset: ", "add datamodule.dataset=…"),
        ("task=test", "run: ", "add run=…"),
        ("task=predict run=/not/there input=x", "run: ", "give the folder of a run"),
        ("task=export", "run: ", "add run=…"),
        ("task=compare", "runs: ", "add runs=…"),
        ("name=???", "name: ", "add name=…"),
        ("lit_module.monitor=${nothing}", "lit_module.monitor: ", "name a key that exists"),
        ("name=${oc.env:NOT_SET_ANYWHERE}", "name: ", "NOT_SET_ANYWHERE"),
        ("run=/not/there", "run: ", "give the folder of a run"),
        # A command that is none.
        ("experiment=digits", "command line: ", "write +experiment=…"),
        ("+trainer.max_epochs=3", "trainer.max_epochs: ", "without +"),
        ("trainer.max_epochs", "command line: ", "see python train.py --help"),
        ("name=[a", "command line: ", "quote a value"),
        ("trainer=5", "command line: ", "trainer.max_epochs=5"),
        # Code that must not run.
        ("lit_module.loss._target_=os.system", "lit_module.loss._target_: ", "torch.nn"),
        ("lit_module.loss._target_=torch.nn.CrossEntropyLos", "lit_module.loss._target_: ", "'CrossEntropyLoss'"),
    ],
)
def test_a_wrong_command_is_answered_by_its_key_and_the_fix(
    capsys: pytest.CaptureFixture[str], overrides: str, key: str, fix: str
) -> None:
    line = answer(capsys, *overrides.split())
    assert line.startswith(key)
    assert fix in line.removeprefix(key)


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[str], Path]:
    """Writes an experiment file `mine` and returns the folder to search it from."""

    def write(text: str) -> Path:
        (tmp_path / "conf" / "experiment").mkdir(parents=True)
        (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(text)
        return tmp_path / "conf"

    return write


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (HEADER + "trainer: {max_epoch: 3}", ("trainer.max_epoch: ", "did you mean 'max_epochs'?")),
        (HEADER + "lit_module: {optimizer: {lrr: 3}}", ("lit_module.optimizer.lrr: ", "did you mean 'lr'?")),
        (HEADER + "sead: 3", ("experiment/mine", "sead", "'seed'")),
        (HEADER + "defaults: [override /datamodule: digit]", ("datamodule=digit", "did you mean 'digits'?")),
        (HEADER + "defaults: [override /lit_module/optimiser: sgd]", ("experiment/mine", "lit_module/optimiser")),
        (HEADER + "seed: [1, 2", ("experiment/mine", "line 2")),
        (HEADER + "trainer:\n\tmax_epochs: 3", ("experiment/mine", "line 3")),
        ("trainer: {max_epochs: 3}", ("experiment/mine", "# @package _global_")),
        ("trainer: {max_epoch: 3}", ("experiment/mine", "# @package _global_")),
        (HEADER + "lit_module: {loss: {_target_: os.system}}", ("lit_module.loss._target_: ", "os.system")),
    ],
)
def test_a_wrong_experiment_file_is_answered_by_its_key_and_the_fix(
    capsys: pytest.CaptureFixture[str], experiment: Callable[[str], Path], text: str, parts: tuple[str, ...]
) -> None:
    line = answer(capsys, "+experiment=mine", f"hydra.searchpath=[file://{experiment(text)}]")
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ("datamodule/augment=[crop] datamodule.augment.crop.padding=0", "datamodule.augment.crop.padding: must be"),
        ("datamodule/augment=[flip] datamodule.augment.flip.p=2", "datamodule.augment.flip.p: must be between 0 and 1"),
        ("datamodule.batch_size=0", "datamodule.batch_size: must be 1 or more, not 0"),
        ("~datamodule.batch_size", "datamodule: "),
    ],
)
def test_a_value_that_a_constructor_refuses_is_answered_by_its_key(
    capsys: pytest.CaptureFixture[str], overrides: str, line: str
) -> None:
    cfg = configure(*overrides.split())
    with pytest.raises(SystemExit) as caught, one_line_errors():
        instantiate(cfg.datamodule, _convert_="all")
    assert one_line(caught.value.code, capsys.readouterr().err).startswith(line)


def test_lightnings_refusal_of_a_setting_is_the_users_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise MisconfigurationException("You set `max_epochs=-3`.")
    assert one_line(caught.value.code, capsys.readouterr().err).startswith("trainer: You set `max_epochs=-3`; ")


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyError("ours"), AssertionError("ours"), ValueError("ours")])
def test_our_own_mistakes_keep_their_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="ours"), one_line_errors():
        raise error


def test_our_own_mistake_inside_a_constructor_keeps_its_traceback() -> None:
    with pytest.raises(InstantiationException), one_line_errors():
        try:
            raise RuntimeError("ours")
        except RuntimeError as error:
            raise InstantiationException("Error in call to target") from error


def test_a_block_without_mistakes_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with one_line_errors():
        validation.check(configure())
    assert capsys.readouterr().err == ""


def test_an_interrupt_ends_without_a_traceback() -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130


def test_an_interrupt_that_lightning_answers_ends_as_any_other() -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    assert caught.value.code == 130


def test_a_user_error_is_its_own_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise UserError("key: problem; fix")
    assert one_line(caught.value.code, capsys.readouterr().err) == "key: problem; fix"


@pytest.mark.parametrize(
    ("word", "words", "hint"),
    [
        ("max_epoch", ["max_steps", "max_epochs"], "did you mean 'max_epochs'?"),
        ("zzz", ["b", "a"], "choose from a, b"),
    ],
)
def test_nearest_names_the_close_word_or_all(word: str, words: list[str], hint: str) -> None:
    assert nearest(word, words) == hint


def test_the_config_is_shown_at_once_and_without_torch(process: Command, tmp_path: Path) -> None:
    for name in ("torch", "pytorch_lightning", "torchvision", "torchmetrics", "sklearn"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = process("--cfg", "job", "+experiment=digits", PYTHONPATH=str(tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0, shown.stderr
    assert "\nname: digits\n" in shown.stdout and shown.stderr == ""
    # Time on the processor, not on the clock: other work on this machine must not fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("arguments", ["epoch=3", "+experiment=digit", "run=/not/there", "lit_module/net=x"])
def test_a_wrong_key_is_answered_without_torch_and_leaves_nothing(
    process: Command, tmp_path: Path, arguments: str
) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch.py").write_text("raise RuntimeError('torch was imported')")
    (tmp_path / "here").mkdir()
    refused = process(*arguments.split(), cwd=tmp_path / "here", PYTHONPATH=str(tmp_path / "stub"))
    one_line(refused.returncode, refused.stderr)
    assert refused.stdout == ""
    assert not list((tmp_path / "here").iterdir())


def test_a_misspelt_key_in_an_experiment_is_answered_in_one_line(
    command: Command, tmp_path: Path, experiment: Callable[[str], Path]
) -> None:
    folder = experiment(HEADER + "trainer: {max_epoch: 3}")
    (tmp_path / "here").mkdir()
    refused = command("--config-dir", str(folder), "+experiment=mine", cwd=tmp_path / "here")
    line = one_line(refused.returncode, refused.stderr)
    assert line == "trainer.max_epoch: Trainer has no such parameter; did you mean 'max_epochs'?"
    assert not list((tmp_path / "here").iterdir())


def test_an_experiment_without_its_header_is_answered_in_one_line(
    command: Command, experiment: Callable[[str], Path]
) -> None:
    refused = command("--config-dir", str(experiment("trainer: {max_epoch: 3}")), "+experiment=mine")
    assert "# @package _global_" in one_line(refused.returncode, refused.stderr)


@pytest.mark.parametrize(
    "place",
    [
        "lit_module: {loss: {_target_: %s, _args_: [%s]}}",
        "hydra: {callbacks: {x: {_target_: %s, _args_: [%s]}}}",
        "hydra: {job_logging: {version: 1, root: {handlers: [x]}, handlers: {x: {(): %s, path: %s}}}}",
    ],
)
def test_a_target_of_another_package_runs_nothing(
    command: Command, tmp_path: Path, experiment: Callable[[str], Path], place: str
) -> None:
    folder = experiment(HEADER + place % ("os.mkdir", tmp_path / "made"))
    (tmp_path / "here").mkdir()
    # Were the target not refused, the size of the batch would be, before anything is trained.
    refused = command("--config-dir", str(folder), "+experiment=mine", "datamodule.batch_size=0", cwd=tmp_path / "here")
    assert not (tmp_path / "made").exists()
    line = one_line(refused.returncode, refused.stderr)
    assert "os.mkdir" in line or line.startswith("experiment/mine.yaml: ")
    assert not list((tmp_path / "here").iterdir())


def test_a_name_of_two_lines_is_answered_in_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise UserError("a\nb.png: is damaged; remove it")
    assert one_line(caught.value.code, capsys.readouterr().err) == r"a\nb.png: is damaged; remove it"


def test_full_device_memory_is_answered_with_remedies(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise torch.OutOfMemoryError("CUDA out of memory")
    line = one_line(caught.value.code, capsys.readouterr().err)
    assert line.startswith("datamodule.batch_size: ")
    assert "accumulate_grad_batches" in line and "bf16-mixed" in line


def test_a_batch_of_one_is_answered(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit), one_line_errors():
        nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1))
    assert capsys.readouterr().err.startswith("error: datamodule.drop_last: batch normalisation needs more than one")
