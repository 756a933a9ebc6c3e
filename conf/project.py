"""Packages beside those of Litmus whose classes a config may name: the user lists them, never a run's folder."""

import os
import re
import sys
import tomllib
import traceback
from pathlib import Path

from conf.errors import UserError

VARIABLE = "LITMUS_PACKAGES"  # separated by commas
PROJECT = "pyproject.toml"
# What a run or a study has beside its config.yaml.
RUN_FILES = ("checkpoints", "metrics.csv", "study.db", "trials")


def names() -> list[str]:
    """The packages in LITMUS_PACKAGES, and those in `[tool.litmus] packages` of pyproject.toml in this folder.

    Modules beside such a pyproject.toml can be imported, as from a script there.

    Raises:
        UserError: one of them is malformed, or is Python's own or torch.
    """
    listed = [name.strip() for name in os.environ.get(VARIABLE, "").split(",") if name.strip()]
    for name in listed:
        _check(VARIABLE, name)
    in_project = _listed_in_project()
    folder = str(Path.cwd())
    if in_project and folder not in sys.path:
        sys.path.append(folder)
    return listed + in_project


def how_to_allow(package: str) -> str:
    """What to do about a class of a package that is not allowed."""
    return f'if you trust it, set {VARIABLE}={package}, or packages = ["{package}"] in [tool.litmus] of {PROJECT}'


def place_of(error: BaseException) -> str:
    """Where own code raised an error, or called what did, as ` (file, line 3)`; empty for other code."""
    place = ""
    for frame, line in traceback.walk_tb(error.__traceback__):
        if f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{name}." for name in names())):
            place = f" ({frame.f_code.co_filename}, line {line})"
    return place


def _listed_in_project() -> list[str]:
    folder = Path.cwd()
    is_run = (folder / "config.yaml").exists() and any((folder / name).exists() for name in RUN_FILES)
    if is_run or not (folder / PROJECT).is_file():
        return []
    try:
        project = tomllib.loads((folder / PROJECT).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / PROJECT}: {error}; correct the TOML") from error
    tool = project.get("tool", {})
    packages = tool.get("litmus", {}).get("packages", []) if isinstance(tool, dict) else []
    key = f"{PROJECT}: tool.litmus.packages"
    if not isinstance(packages, list):
        raise UserError(f'{key}: is no list; write packages = ["mylab"]')
    for name in packages:
        _check(key, name)
    return packages


def _check(key: str, name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name):
        raise UserError(f"{key}: {name} is no name of a package; write one such as mylab or mylab.nets")
    root = name.partition(".")[0]
    if root in sys.stdlib_module_names or name == "torch":  # they hold functions that run or load anything
        raise UserError(f"{key}: {name} is not a package of your own; leave it out")
