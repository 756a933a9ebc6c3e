"""Flags of a command line: Hydra's, our --version, and a hint for all others."""

import dataclasses
import sys
from collections.abc import Sequence
from dataclasses import Field, fields
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from hydra import compose, initialize_config_module
from omegaconf import MISSING

from conf.command_line import PROGRAM
from conf.errors import UserError
from conf.schema import TASKS, VERSION_BASE, Fit
from conf.unknown_keys import unknown_key

HYDRAS = {
    "--cfg", "--config-dir", "--config-name", "--config-path", "--experimental-rerun", "--help", "--hydra-help",
    "--info", "--multirun", "--package", "--resolve", "--run", "--shell-completion",
    "-c", "-cd", "-cn", "-cp", "-h", "-i", "-m", "-p", "-r", "-sc",
}  # fmt: skip
# Of other programs, and the form of ours.
FORMS = {
    "e": "+experiment={}",
    "experiment": "+experiment={}",
    "resume": "run={}",
    "checkpoint": "run={}",
    "ckpt": "run={}",
    "load": "run={}",
    "predict": "task=predict run={}",
    "test": "task=test run={}",
    "export": "task=export run={}",
}
WORDS = {"None": "null", "True": "true", "False": "false"}  # in YAML
PACKAGES = ("litmus-train", "torch", "torchvision", "pytorch-lightning", "hydra-core")


def check(arguments: Sequence[str]) -> None:
    """Raises UserError for a flag that is not one of Hydra's, with the override to write instead."""
    for position, argument in enumerate(arguments):
        flag, _, value = argument.partition("=")
        if not flag.startswith("-") or flag in HYDRAS:
            continue
        following = arguments[position + 1 : position + 2]
        if not value and following and "=" not in following[0] and not following[0].startswith("-"):
            value = following[0]
        raise UserError(f"{flag}: there is no such flag; {_form(flag.lstrip('-').replace('-', '_'), value or '…')}")


def _form(name: str, value: str) -> str:
    """How a flag of that name is written as an override."""
    root = [field.name for field in fields(Fit)]
    if name in FORMS:
        return f"write {FORMS[name].format(value)}"
    if name in root:
        return f"write {name}={value}"
    with initialize_config_module("conf", **VERSION_BASE):
        line = unknown_key(name, root, compose("train"))
    return line.partition("; ")[2].replace("…", value) if "; write " in line else f"see {PROGRAM} --help"


def print_answer(arguments: Sequence[str]) -> bool:
    """Answer --version, and --help beside task=…; False for any other command."""
    tasks = [argument.partition("=")[2] for argument in arguments if argument.startswith("task=")]
    if "--version" in arguments:
        print_versions()
    elif {"--help", "-h"} & set(arguments) and tasks and tasks[-1] in TASKS:
        print_task(TASKS[tasks[-1]])
    else:
        return False
    return True


def print_task(schema: type[Fit]) -> None:
    """Print what a task does, and its keys; those of a training only for `task=fit`."""
    print(f"task={schema.task}: {schema.__doc__}\n")
    descriptions = {} if schema is Fit else {key.name: key.metadata.get("description") for key in fields(Fit)}
    for key in fields(schema):
        description = key.metadata.get("description")
        if description and description != descriptions.get(key.name):
            print(f"  {_with_default(key):24}  {description}")
    if schema is not Fit:
        print(f"\nThe keys of a training: {PROGRAM} task=fit --help")


def _with_default(key: Field[Any]) -> str:
    """`key=default`, `key=…` if it has to be set, or `key` if its default is a text of several parts."""
    value = "…" if key.default == MISSING else getattr(key.default, "name", key.default)
    if key.default_factory is not dataclasses.MISSING or str(value).startswith("${"):
        return key.name
    return f"{key.name}={WORDS.get(str(value), value)}"


def print_versions() -> None:
    """Print the versions of Litmus, of what it is built on, and of Python, without importing them."""
    for package in PACKAGES:
        try:
            print(package, version(package))
        except PackageNotFoundError:
            print(package, "is not installed")
    print("python", sys.version.split()[0])
