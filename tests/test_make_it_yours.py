"""Every recipe of lit_modules/README.md works as written, in a folder of its own, with fewer epochs."""

import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT, UNDRAWN, Command

PAGE = (ROOT / "lit_modules" / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", PAGE, re.S)
LINES = [re.sub(r"\s+#.*", "", line) for kind, block in BLOCKS if kind == "bash" for line in block.splitlines()]
COMMANDS = [line for line in LINES if line.startswith("litmus") and "run_dir=" not in line and "run=" not in line]
QUICK = (*UNDRAWN, "devices=cpu", "trainer.limit_train_batches=2")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the files of the page."""
    folder = tmp_path_factory.mktemp("project")
    for kind, block in BLOCKS:
        name = re.search(r"^# ([\w/]+\.\w+)$", block, re.M)
        if kind != "bash" and name:
            (folder / name[1]).parent.mkdir(parents=True, exist_ok=True)
            (folder / name[1]).write_text(block, encoding="utf-8")
    path = [*sys.path]
    yield folder
    sys.path[:] = path
    for module in [module for module in sys.modules if module.partition(".")[0] == "mylab"]:
        del sys.modules[module]


def test_page_has_a_recipe_for_each_part(project: Path) -> None:
    written = {str(path.relative_to(project)) for path in project.rglob("*.*") if path.is_file()}
    parts = ("nets", "losses", "optim", "metrics", "trackers", "data", "transforms")
    assert {f"mylab/{part}.py" for part in parts} | {"pyproject.toml", "look.py"} <= written
    assert len(COMMANDS) >= 8


@pytest.mark.filterwarnings("ignore::DeprecationWarning:mlflow", "ignore:.*noload.*")
@pytest.mark.parametrize("line", COMMANDS)
def test_recipe_runs(command: Command, project: Path, tmp_path: Path, line: str) -> None:
    short = ("epochs=1",) if "epochs=" not in line else ()
    result = command(*short, *QUICK, f"logs_dir={tmp_path}", *shlex.split(line)[1:], cwd=project)
    assert result.returncode == 0, result.stderr
    assert len(list(tmp_path.rglob("summary.json"))) == (3 if "-m" in line else 1)
    if "metrics=" in line:
        assert "worst_recall" in result.stdout and "mcc" in result.stdout
    if "logger=" in line:
        assert list(tmp_path.rglob("mlflow.db" if "mlflow" in line else "scores.jsonl"))


def test_resumed_recipe_gives_the_same_bits(command: Command, project: Path, tmp_path: Path) -> None:
    constant = ("lit_module/scheduler=constant", *QUICK)
    for line in [line for line in LINES if "whole" in line or "halves" in line]:
        line = line.replace("whole", f"{tmp_path}/whole").replace("halves", f"{tmp_path}/halves")
        extra = () if "run=" in line else constant
        result = command(*shlex.split(line)[1:], *extra, cwd=project)
        assert result.returncode == 0, result.stderr
    whole, halves = (tmp_path / name / "model.pt" for name in ("whole", "halves"))
    assert whole.read_bytes() == halves.read_bytes()


def test_python_recipe_runs(
    command: Command, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    drawn = ("epochs=1", "devices=cpu", "++callbacks.dashboard=null", "lit_module/net=convnext")
    assert command("+experiment=digits", *drawn, f"run_dir={tmp_path / 'run'}", cwd=project).returncode == 0
    monkeypatch.chdir(project)
    monkeypatch.setattr(sys, "argv", ["look.py", str(tmp_path / "run")])
    runpy.run_path(str(project / "look.py"))
    shown = capfd.readouterr().out
    assert shown.startswith("['0', '1'") and "{'0': " in shown
