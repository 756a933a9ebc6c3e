"""A config names classes of the packages that the user lists in the environment or in the project, and of no others."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conf import derived, project
from conf.errors import UserError
from conf.nodes import check_nodes
from tests.configs import configure

NET = """
from torch import nn

class Own(nn.Module):
    def __init__(self, input_shape, num_classes, width: int = 4):
        super().__init__()

def loose(input_shape, num_classes): ...
"""
NODE = {"lit_module": {"net": {"_target_": "ownlab.nets.Own", "_partial_": True, "width": 8}}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the package `ownlab`, which is the working directory."""
    (tmp_path / "ownlab").mkdir()
    (tmp_path / "ownlab" / "nets.py").write_text(NET)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "ownlab"]:
        del sys.modules[name]


def allow(folder: Path, packages: str = '["ownlab"]') -> None:
    (folder / "pyproject.toml").write_text(f"[tool.litmus]\npackages = {packages}\n")


def error_of(node: object) -> str:
    with pytest.raises(UserError) as caught:
        check_nodes(node)
    return str(caught.value)


def target(name: str, key: str = "net") -> object:
    return {"lit_module": {key: {"_target_": name, "_partial_": True}}}


def test_project_lists_packages_beside_it(folder: Path) -> None:
    assert "if you trust it, set LITMUS_PACKAGES=ownlab" in error_of(NODE)
    allow(folder)
    check_nodes(NODE)


def test_environment_lists_installed_packages_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITMUS_PACKAGES", "other,ownlab")
    assert "there is no package ownlab here" in error_of(NODE)  # the working directory may be anybody's
    monkeypatch.syspath_prepend(folder)
    check_nodes(NODE)


@pytest.mark.parametrize("name", project.RUN_FILES)
def test_run_folder_lists_none(folder: Path, name: str) -> None:
    allow(folder)
    (folder / "config.yaml").touch()
    (folder / name).mkdir()
    assert "LITMUS_PACKAGES=ownlab" in error_of(NODE)


@pytest.mark.parametrize("packages", ['["os"]', '["torch"]', '["own lab"]', "[1]", '"ownlab"', '["a..b"]'])
def test_malformed_or_unsafe_list_is_one_line(folder: Path, packages: str) -> None:
    allow(folder, packages)
    assert error_of(NODE).startswith("pyproject.toml: tool.litmus.packages: ")


def test_corrupt_project_is_one_line(folder: Path) -> None:
    (folder / "pyproject.toml").write_text("[tool")
    assert "correct the TOML" in error_of(NODE)


def test_places_take_own_classes_of_their_kind_alone(folder: Path) -> None:
    allow(folder)
    assert "is not a Optimizer" in error_of(target("ownlab.nets.Own", "optimizer"))
    assert "return annotation" in error_of(target("ownlab.nets.loose"))
    assert "not defined by an allowed package" in error_of(target("ownlab.nets.nn"))
    assert "there is no Missing in ownlab.nets" in error_of(target("ownlab.nets.Missing"))
    for name in ("ownlab.nets.loose", "lit_modules.runs.run_folder.claim"):  # functions may write files
        augment = {"datamodule": {"augment": {"x": {"_target_": name}}}}
        assert f"{name} is not anything that Litmus builds" in error_of(augment)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import ownlab_missing", "No module named 'ownlab_missing' ("),
        ("def f(:", "nets.py, line 1"),
        ("\n1 / 0", "division by zero ("),
    ],
)
def test_own_module_that_fails_names_the_line(folder: Path, code: str, words: str) -> None:
    allow(folder)
    (folder / "ownlab" / "nets.py").write_text(code)
    line = error_of(NODE)
    assert line.startswith("lit_module.net._target_: ownlab.nets.Own cannot be imported: ") and words in line


def test_replaced_class_keeps_only_what_it_takes(folder: Path) -> None:
    allow(folder)
    command = ("lit_module.net._target_=ownlab.nets.Own", "+lit_module.net.width=2")
    cfg = configure(*command)
    derived.leave_out_parameters(cfg, command)
    assert dict(cfg.lit_module.net) == {"_target_": "ownlab.nets.Own", "_partial_": True, "width": 2}


def test_typed_parameter_of_the_replaced_class_is_refused(folder: Path) -> None:
    allow(folder)
    command = ("lit_module.net._target_=ownlab.nets.Own", "lit_module.net.dropout=0.5")
    cfg = configure(*command)
    derived.leave_out_parameters(cfg, command)
    assert "Own has no such parameter" in error_of({"lit_module": {"net": dict(cfg.lit_module.net)}})
