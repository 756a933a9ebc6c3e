"""The user's mistakes are one line that names the key and the fix; our own bugs keep their traceback."""

import errno
import resource
import select
import sys
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest
import torch
import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn

import train
from conf import validation
from conf.error_messages import memory_is_full, one_line_errors
from conf.errors import UserError, nearest
from tests.conftest import configure, error_line

HEADER = "# @package _global_\n"
Command = Callable[..., CompletedProcess[str]]
Answer = Callable[[Callable[[], object]], str]


@pytest.fixture
def answer(capsys: pytest.CaptureFixture[str]) -> Answer:
    """Calls a function that fails, and returns the one line for it."""

    def answer(function: Callable[[], object]) -> str:
        with pytest.raises(SystemExit) as caught, one_line_errors():
            function()
        return error_line(caught.value.code, capsys.readouterr().err)

    return answer


def fail(error: BaseException) -> Callable[[], object]:
    """A function that raises an error."""

    def function() -> None:
        raise error

    return function


@pytest.fixture
def experiment(tmp_path: Path) -> Callable[[str], Path]:
    """Writes an experiment `mine`; returns the folder for hydra.searchpath."""

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
def test_wrong_experiment_file_is_answered_by_its_key_and_fix(
    answer: Answer, experiment: Callable[[str], Path], text: str, parts: tuple[str, ...]
) -> None:
    folder = experiment(text)
    line = answer(lambda: validation.check(configure("+experiment=mine", f"hydra.searchpath=[file://{folder}]")))
    for part in parts:
        assert part in line


@pytest.mark.parametrize(
    ("override", "line"),
    [("datamodule.image_size=[1,2,3]", "datamodule.image_size: "), ("~datamodule.batch_size", "datamodule: ")],
)
def test_value_that_a_constructor_refuses_is_answered_by_its_key(answer: Answer, override: str, line: str) -> None:
    datamodule = configure("datamodule=image_folder", "datamodule.root=x", override).datamodule
    assert answer(lambda: instantiate(datamodule, _convert_="all")).startswith(line)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("padding: is too large; try 1", "datamodule.augment.crop.padding: is too large; try 1"),
        ("a/b.png: is corrupt; remove it", "a/b.png: is corrupt; remove it"),
    ],
)
def test_parameter_in_a_constructors_error_gets_the_nodes_path(answer: Answer, line: str, expected: str) -> None:
    error = InstantiationException("Error in call to target 'a.B':\nfull_key: datamodule.augment.crop")
    error.__cause__ = UserError(line)
    assert answer(fail(error)) == expected


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (UserError("key: problem; fix"), "key: problem; fix"),
        (UserError("a\nb.png: is corrupt; remove it"), r"a\nb.png: is corrupt; remove it"),
        (
            OSError(errno.ENOSPC, "No space left on device", "a.csv"),
            "a.csv: No space left on device; free some ",
        ),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "output: Disk quota exceeded; free some space, "),
        (
            OSError(errno.ENAMETOOLONG, "File name too long", f"conf/callbacks/{'x' * 5000}"),
            f"command line: the name {'x' * 40}… of 5000 bytes is too long; ",
        ),
        (MemoryError("Unable to allocate 9 TiB"), "datamodule: Unable to allocate 9 TiB; reduce datamodule.image_size"),
        (MisconfigurationException("You set `max_epochs=-3`."), "trainer: You set `max_epochs=-3`; "),
        (RuntimeError("Could not determine home directory."), "command line: unknown user in '~user/…'; "),
    ],
)
def test_error_of_a_library_is_answered_in_one_line(answer: Answer, error: Exception, line: str) -> None:
    assert answer(fail(error)).startswith(line)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), RuntimeError("[...] can't allocate memory: 9")])
def test_full_memory_is_answered_with_remedies(answer: Answer, error: Exception) -> None:
    assert memory_is_full(error) and not memory_is_full(RuntimeError("CUDA error: illegal access"))
    line = answer(fail(error))
    assert line.startswith("datamodule.batch_size: ")
    assert "accumulate_grad_batches" in line and "bf16-mixed" in line


def test_wrong_yaml_is_answered_by_its_line(answer: Answer, tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("a: 1\nb: [")
    with open(tmp_path / "a.yaml") as file:
        assert answer(lambda: yaml.safe_load(file)).startswith(f"{tmp_path}/a.yaml, line 2: ")


def test_job_of_a_cluster_is_answered_by_its_own_line(answer: Answer) -> None:
    failed_job = type("FailedJobError", (Exception,), {})
    assert answer(fail(failed_job("Job failed:\nerror: seed: is wrong; choose 0\n"))) == "seed: is wrong; choose 0"
    with pytest.raises(failed_job), one_line_errors():
        raise failed_job("Job was killed")


@pytest.mark.parametrize("error", [RuntimeError("ours"), KeyError("ours"), AssertionError("ours"), ValueError("ours")])
def test_our_own_bug_keeps_its_traceback(error: Exception) -> None:
    with pytest.raises(type(error), match="ours"), one_line_errors():
        raise error


def test_package_that_a_constructor_lacks_is_named(answer: Answer) -> None:
    logger = {"_target_": "pytorch_lightning.loggers.MLFlowLogger"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pytorch_lightning.loggers.mlflow._MLFLOW_AVAILABLE", False)
        line = answer(lambda: instantiate({"logger": {"mlflow": logger}}))
    assert line.startswith("logger.mlflow: ") and "mlflow" in line and line.endswith("; install it")


def test_our_own_broken_import_is_no_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "lit_modules.runs.sweep", raising=False)
    monkeypatch.setitem(sys.modules, "lit_modules.runs.search_space", None)
    with pytest.raises(ModuleNotFoundError, match="search_space"), one_line_errors():
        train.sweep(configure("+sweep=cnn"))


def test_our_own_bug_in_a_constructor_keeps_its_traceback() -> None:
    with pytest.raises(InstantiationException), one_line_errors():
        try:
            raise RuntimeError("ours")
        except RuntimeError as error:
            raise InstantiationException("Error in call to target") from error


def test_block_without_errors_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with one_line_errors():
        validation.check(configure())
    assert capsys.readouterr().err == ""


def test_interrupt_exits_with_130() -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        raise KeyboardInterrupt
    assert caught.value.code == 130


def test_interrupt_that_lightning_catches_exits_with_130() -> None:
    with pytest.raises(SystemExit) as caught, one_line_errors():
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)
    assert caught.value.code == 130


def test_broken_pipe_is_no_bug_where_stdout_cannot_be_polled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(select, "poll")  # as on Windows
    with pytest.raises(BrokenPipeError), one_line_errors():
        raise BrokenPipeError


@pytest.mark.parametrize(
    ("word", "words", "hint"),
    [
        ("max_epoch", ["max_steps", "max_epochs"], "did you mean 'max_epochs'?"),
        ("zzz", ["b", "a"], "choose from a, b"),
    ],
)
def test_nearest_names_the_close_word_or_all(word: str, words: list[str], hint: str) -> None:
    assert nearest(word, words) == hint


def test_config_is_shown_in_a_second_without_torch(process: Command, tmp_path: Path) -> None:
    for name in ("torch", "pytorch_lightning", "torchvision", "torchmetrics", "sklearn"):
        (tmp_path / f"{name}.py").write_text(f"raise RuntimeError('{name} was imported')")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    shown = process("--cfg", "job", "+experiment=digits", PYTHONPATH=str(tmp_path))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert shown.returncode == 0, shown.stderr
    assert "\nname: digits\n" in shown.stdout and shown.stderr == ""
    # CPU time, so that other work on this machine cannot fail the test.
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1


@pytest.mark.parametrize("arguments", ["epoch=3", "+experiment=digit", "run=/not/there", "lit_module/net=x"])
def test_wrong_key_is_answered_without_torch_and_leaves_nothing(
    process: Command, tmp_path: Path, arguments: str
) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "torch.py").write_text("raise RuntimeError('torch was imported')")
    (tmp_path / "here").mkdir()
    refused = process(*arguments.split(), cwd=tmp_path / "here", PYTHONPATH=str(tmp_path / "stub"))
    error_line(refused.returncode, refused.stderr)
    assert refused.stdout == ""
    assert not list((tmp_path / "here").iterdir())


def test_misspelt_key_in_an_experiment_leaves_nothing(
    command: Command, tmp_path: Path, experiment: Callable[[str], Path]
) -> None:
    folder = experiment(HEADER + "trainer: {max_epoch: 3}")
    (tmp_path / "here").mkdir()
    refused = command("--config-dir", str(folder), "+experiment=mine", cwd=tmp_path / "here")
    line = error_line(refused.returncode, refused.stderr)
    assert line == "trainer.max_epoch: Trainer has no such parameter; did you mean 'max_epochs'?"
    assert not list((tmp_path / "here").iterdir())


def test_experiment_without_its_header_is_answered(command: Command, experiment: Callable[[str], Path]) -> None:
    refused = command("--config-dir", str(experiment("trainer: {max_epoch: 3}")), "+experiment=mine")
    assert "# @package _global_" in error_line(refused.returncode, refused.stderr)


@pytest.mark.parametrize(
    "place",
    [
        "lit_module: {loss: {_target_: %s, _args_: [%s]}}",
        "hydra: {callbacks: {x: {_target_: %s, _args_: [%s]}}}",
        "hydra: {job_logging: {version: 1, root: {handlers: [x]}, handlers: {x: {(): %s, path: %s}}}}",
    ],
)
def test_target_of_another_package_runs_nothing(
    command: Command, tmp_path: Path, experiment: Callable[[str], Path], place: str
) -> None:
    folder = experiment(HEADER + place % ("os.mkdir", tmp_path / "made"))
    (tmp_path / "here").mkdir()
    # If the target were not refused, the batch size would be, before training.
    refused = command("--config-dir", str(folder), "+experiment=mine", "epochs=0", cwd=tmp_path / "here")
    assert not (tmp_path / "made").exists()
    line = error_line(refused.returncode, refused.stderr)
    assert "os.mkdir" in line or line.startswith("experiment/mine.yaml: ")
    assert not list((tmp_path / "here").iterdir())


def test_batch_of_one_is_answered(answer: Answer) -> None:
    line = answer(lambda: nn.BatchNorm2d(2)(torch.zeros(1, 2, 1, 1)))
    assert line.startswith("datamodule.drop_last: batch normalisation needs more than one sample")
