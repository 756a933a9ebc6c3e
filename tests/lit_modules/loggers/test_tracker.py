"""Loggers of trackers: the name of a run, and what is said where the package is missing."""

import sys
from pathlib import Path

import pytest

from lit_modules.loggers.tracker import run_name
from tests.conftest import Command, error_line


@pytest.mark.parametrize(
    ("run_dir", "name"),
    [("logs/digits/now", "digits/now"), ("logs/study/trials/3", "study/trials/3"), ("logs/../logs/a/b/", "a/b")],
)
def test_name_is_the_folder_within_that_of_all_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run_dir: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_name(run_dir, "logs") == run_name(str(tmp_path / run_dir), "logs") == name


def test_name_of_a_folder_elsewhere_is_its_path(tmp_path: Path) -> None:
    assert run_name(str(tmp_path / "x"), str(tmp_path / "logs")) == str(tmp_path / "x")


@pytest.mark.parametrize("package", ["mlflow", "wandb"])
def test_missing_package_is_one_line(
    tmp_path: Path, command: Command, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, f"lit_modules.loggers.{package}", raising=False)
    result = command(f"logger=[default,{package}]", cwd=tmp_path)
    line = error_line(result.returncode, result.stderr)
    assert line == f'logger.{package}: {package} is not installed; pip install -e ".[{package}]"'
    assert not list(tmp_path.iterdir())


def test_csv_is_no_logger_of_its_own(tmp_path: Path, command: Command) -> None:
    result = command("logger=[default,csv]", cwd=tmp_path)
    assert "logger=csv: no such file in conf/logger; " in error_line(result.returncode, result.stderr)
