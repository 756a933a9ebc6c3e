"""What the folder of a user's own project adds: packages whose classes a config may name, and config files.

    [tool.litmus]
    packages = ["mylab"]
    config_dir = "conf"

in its pyproject.toml. The folder is the working directory, and never that of a run.
"""

import os
import re
import sys
import tomllib
import traceback
from pathlib import Path
from typing import Any

from conf.errors import UserError, nearest

PACKAGES_VARIABLE = "LITMUS_PACKAGES"  # separated by commas
FILE = "pyproject.toml"
KEYS = ("packages", "config_dir")
OURS = ("conf", "datamodules", "lit_modules", "litmus", "tests", "train")
# What a run or a study has beside its config.yaml.
RUN_FILES = ("checkpoints", "metrics.csv", "study.db", "trials", "folds")


def packages() -> list[str]:
    """The packages that LITMUS_PACKAGES and the project list; modules in the project's folder can be imported then.

    Raises:
        UserError: one of them is malformed, or is Python's own or torch.
    """
    installed = [name.strip() for name in os.environ.get(PACKAGES_VARIABLE, "").split(",") if name.strip()]
    for name in installed:
        _check(PACKAGES_VARIABLE, name)
    key = f"{FILE}: tool.litmus.packages"
    listed = _settings().get("packages", [])
    if not isinstance(listed, list):
        raise UserError(f'{key}: is no list; write packages = ["mylab"]')
    for name in listed:
        _check(key, name)
    folder = str(Path.cwd())
    if listed and folder not in sys.path:
        sys.path.append(folder)
    return installed + listed


def config_dir(arguments: list[str]) -> list[str]:
    """Hydra's flag for further config files, as on a command line; otherwise for those of the project.

    Raises:
        UserError: they are in no folder.
    """
    for position, word in enumerate(arguments):
        if word in ("--config-dir", "-cd"):
            return arguments[position : position + 2]
        if word.startswith("--config-dir="):
            return [word]
    folder = _settings().get("config_dir")
    if folder is None:
        return []
    if not isinstance(folder, str) or not Path(folder).is_dir():
        raise UserError(f"{FILE}: tool.litmus.config_dir: there is no folder {folder}; correct it")
    return ["--config-dir", folder]


def how_to_allow(package: str) -> str:
    """What to do about a class of a package that is not allowed."""
    return f'if you trust it, set {PACKAGES_VARIABLE}={package}, or packages = ["{package}"] in [tool.litmus] of {FILE}'


def place_of(error: BaseException) -> str:
    """Where the user's own code raised an error, or called what did, as ` (file, line 3)`; empty for other code."""
    place = ""
    own = tuple(f"{name}." for name in packages())
    for frame, line in traceback.walk_tb(error.__traceback__):
        if f"{frame.f_globals.get('__name__')}.".startswith(own):
            place = f" ({frame.f_code.co_filename}, line {line})"
    return place


def _settings() -> dict[str, Any]:
    """The table `tool.litmus` of the working directory's pyproject.toml; none in the folder of a run."""
    folder = Path.cwd()
    is_run = (folder / "config.yaml").exists() and any((folder / name).exists() for name in RUN_FILES)
    if is_run or not (folder / FILE).is_file():
        return {}
    try:
        content = tomllib.loads((folder / FILE).read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{folder / FILE}: {error}; correct the TOML") from error
    tool = content.get("tool", {})
    settings = tool.get("litmus", {}) if isinstance(tool, dict) else {}
    if not isinstance(settings, dict):
        raise UserError(f"{FILE}: tool.litmus: is no table; write [tool.litmus]")
    for key in settings.keys() - set(KEYS):
        raise UserError(f"{FILE}: tool.litmus.{key}: there is no such key; {nearest(key, KEYS)}")
    return settings


def _check(key: str, name: object) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z]\w*(\.\w+)*", name):
        raise UserError(f"{key}: {name} is no name of a package; write one such as mylab or mylab.nets")
    root = name.partition(".")[0]
    if is_reserved(root) or name == "torch":
        raise UserError(f"{key}: {name} is not a package of your own; leave it out")


def is_reserved(package: str) -> bool:
    """Whether a package is Python's or of Litmus: they hold functions that run, read or write anything."""
    return package in sys.stdlib_module_names or package in OURS
