"""Flags of other programs are answered with the override to write; --version needs no torch."""

from collections.abc import Callable
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from conf import flags
from conf.schema import TASKS, Fit
from tests.conftest import error_line

Command = Callable[..., CompletedProcess[str]]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--experiment digits", "--experiment: there is no such flag; write +experiment=digits"),
        ("--experiment=digits", "--experiment: there is no such flag; write +experiment=digits"),
        ("-e digits", "-e: there is no such flag; write +experiment=digits"),
        ("--resume logs/a", "--resume: there is no such flag; write run=logs/a"),
        ("--lr 0.1", "--lr: there is no such flag; write lit_module.optimizer.lr=0.1"),
        ("--batch-size 32", "--batch-size: there is no such flag; write datamodule.batch_size=32"),
        ("--epochs=3", "--epochs: there is no such flag; write epochs=3"),
        ("--epochs seed=1", "--epochs: there is no such flag; write epochs=…"),
        ("+experiment=digits -m --gpus 2", "--gpus: there is no such flag; write trainer.devices=2"),
        ("--nothing", "--nothing: there is no such flag; see python train.py --help"),
    ],
)
def test_unknown_flag_is_answered_with_the_override(
    command: Command, tmp_path: Path, arguments: str, line: str
) -> None:
    refused = command(*arguments.split(), cwd=tmp_path)
    assert error_line(refused.returncode, refused.stderr) == line
    assert not list(tmp_path.iterdir())


def test_flags_of_hydra_and_negative_values_are_accepted() -> None:
    flags.check(["-m", "--cfg", "job", "-cd", "folder", "seed=-1", "+experiment=digits"])


def test_version_is_that_of_litmus_and_torch_not_imported(process: Command, tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise RuntimeError('torch was imported')")
    shown = process("--version", PYTHONPATH=str(tmp_path))
    assert shown.returncode == 0 and shown.stderr == ""
    assert f"litmus-train {version('litmus-train')}\n" in shown.stdout
    assert f"pytorch-lightning {version('pytorch-lightning')}\n" in shown.stdout and "\npython 3." in shown.stdout
    assert f"\ntorch {version('torch')}\n" in shown.stdout


@pytest.mark.parametrize("task", TASKS)
def test_help_of_a_task_describes_each_of_its_keys(capsys: pytest.CaptureFixture[str], task: str) -> None:
    assert flags.print_answer([f"task={task}", "--help"])
    shown = capsys.readouterr().out
    assert shown.startswith(f"task={task}: ")
    own = {key.name for key in fields(TASKS[task])} - {"task"}
    own -= set() if task == "fit" else {key.name for key in fields(Fit)} - {"run"}
    described = [line.split()[0].partition("=")[0] for line in shown.splitlines() if line.startswith("  ")]
    assert task == "fit" or "seed" not in described  # the keys of a training have a page
    assert own - {"run"} <= set(described) and len(described) == len(set(described))


@pytest.mark.parametrize("arguments", [["--help"], ["task=predict"], ["task=nope", "--help"]])
def test_other_commands_are_left_to_hydra(arguments: list[str]) -> None:
    assert not flags.print_answer(arguments)


def test_help_names_tasks_keys_and_groups_on_a_page(command: Command) -> None:
    shown = command("--help")
    assert shown.returncode == 0 and shown.stderr == ""
    for words in ("task=predict", "datamodule.root=DIR", "lit_module.optimizer.lr", "lit_module/net: ", "--version"):
        assert words in shown.stdout
    assert len(shown.stdout.splitlines()) < 60


def test_bash_completes_options_and_keys(process: Command) -> None:
    for typed, completed in (("+experiment=dig", "+experiment=digits"), ("trainer.max_ep", "trainer.max_epochs=")):
        line = f"train.py {typed}"
        shown = process("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
        assert shown.stdout.split() == [completed] and shown.stderr == ""
