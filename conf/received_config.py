"""Checks of a saved config before it is composed: the folder of a run may come from a stranger.

Such a config chooses among the parts of Litmus and sets their parameters. It reads no other environment variable than
our own config files do, writes nowhere but into its folder, and names no file to read but the data. A key on the
command line is the user's own and may do all of this.
"""

import os
import re
import stat
import uuid
from collections.abc import Collection, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf

from conf.errors import UserError
from conf.schema import SECTIONS, TASKS

CONF = Path(__file__).parent
MAX_BYTES = 2**20
MAX_DEPTH = 30
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is fast, and some builds lack it
# A reference to another key, or a text of our own files, which read variables of the environment. No other resolver and
# no reference within a reference: `oc.decode` of a text that is put together could read any variable.
VARIABLES = (
    "${oc.env:LITMUS_STAMP}",
    "${oc.decode:${oc.env:LOCAL_WORLD_SIZE,${oc.env:SLURM_NTASKS_PER_NODE,auto}}}",
    "${oc.decode:${oc.env:GROUP_WORLD_SIZE,${oc.env:SLURM_NNODES,1}}}",
)
REFERENCE = re.compile(r"\$\{([a-z][\w.]*)\}")
INTERPOLATION = re.compile(rf"\$\{{[a-z][\w.]*\}}|{'|'.join(map(re.escape, VARIABLES))}")
# Not taken from a saved config, but from the command line or these defaults.
MACHINE = {
    "logs_dir": "logs",
    "datamodule.cache_dir": '${oc.env:LITMUS_CACHE,"~/.cache/litmus"}',
    "datamodule.download": False,
}
# Needed in training alone, and so not taken from a saved config by these tasks.
OF_TRAINING = {"lit_module.loss.teacher": None}
UNTRAINED = {"task=test", "task=predict", "task=serve", "task=export", "task=inspect", "task=audit", "task=report"}
# Keys whose text is no path, or a path that is read without harm.
FREE_TEXT = re.compile(r"name|run_dir|(.*\.)?monitor|datamodule\.(?!relabel$).*")
# Read only when a run starts, and a run with a checkpoint has started.
READ_AT_START = ("init_from", "lit_module.net.weights")
# Parameters that name a file, a folder or an address, by the end of their name.
PLACE = re.compile(r"(config|dir|directory|path|file|folder|root|teacher|uri|url|address|storage|endpoint|relabel)s?$")
PATH = re.compile(r"[/\\]|^~|\.\.")
LOCAL_LOGGERS = (
    "lit_modules.loggers.epoch_csv.",
    "lit_modules.loggers.tensorboard.",
    "pytorch_lightning.loggers.csv_logs.",
    "pytorch_lightning.loggers.CSVLogger",
)
LOCAL_LOGGER_OPTIONS = ("default", "epoch_csv", "tensorboard")  # of the config group
LOGGING_TASKS = ("fit", "sweep")
NOT_OF_A_TRIAL = {"task", "sweep", "folds", "repeats", "workers", "overrides", "run", "run_dir", "logs_dir", "hydra"}


def check_text(path: Path) -> None:
    """Check that a YAML file is small, flat and without aliases, which could expand to any size.

    Raises:
        UserError: it is not.
        yaml.YAMLError, UnicodeDecodeError, OSError: it cannot be read.
    """
    problem = f"is larger than {MAX_BYTES:,} bytes" if path.stat().st_size > MAX_BYTES else ""
    depth = 0
    for event in yaml.parse(path.read_text(encoding="utf-8"), Loader=LOADER) if not problem else ():
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if isinstance(event, yaml.AliasEvent) or depth > MAX_DEPTH:
            problem = f"has aliases, or more than {MAX_DEPTH} levels"
            break
    if problem:
        raise UserError(f"{path}: {problem}, which no run saves; take it from a copy of the run")


def check_folder(folder: Path) -> None:
    """Check that a run's folder holds files and folders, and no link by which a file elsewhere would be written.

    Raises:
        UserError: it holds something else.
    """
    for parent, folders, files in os.walk(folder):
        for path in (Path(parent, name) for name in (*folders, *files)):
            status = path.lstat()
            mode = status.st_mode
            is_sibling = stat.S_ISLNK(mode) and path.readlink().name == str(path.readlink()) != ".."  # best.ckpt
            is_file = stat.S_ISREG(mode) and status.st_nlink == 1  # writing to a hard link changes the other file too
            if not (is_sibling or is_file or stat.S_ISDIR(mode)):
                kind = "a link that leaves its folder" if stat.S_ISLNK(mode) else "neither a file nor a folder"
                if stat.S_ISREG(mode):
                    kind = "a hard link"
                raise UserError(f"{path}: is {kind}; replace it by what it stands for, in a copy of the run")


def check(folder: Path, saved: dict[str, Any], command_line: Collection[str]) -> None:
    """Check a saved config, and replace what it may not decide.

    Args:
        folder: of the run or study.
        saved: content of its config.yaml; changed in place.
        command_line: the overrides that the user typed.

    Raises:
        UserError: it holds what no run saves, or what the user has to type.
    """
    path = folder / "config.yaml"
    trusted = {text.lstrip("+~").partition("=")[0].replace("/", ".") for text in command_line} | MACHINE.keys()
    task = "sweep" if saved.get("task") == "sweep" else "fit"
    if foreign := sorted(map(str, saved.keys() - {field.name for field in fields(TASKS[task])})):
        # A `hydra` section could run code, and a `defaults` list could read any file.
        raise UserError(f"{path}: holds {foreign[0]}, which no run saves; take it from a copy of the run")
    for section, kind in {**dict.fromkeys(SECTIONS, dict), "space": dict, "overrides": list}.items():
        if section in saved and not isinstance(saved[section], kind):
            raise UserError(
                f"{path}: {section} is {saved[section]}, which no run saves; take it from a copy of the run"
            )
    _replace(saved, MACHINE)
    if UNTRAINED & set(command_line):
        _replace(saved, OF_TRAINING)
    if _uses_other_loggers(command_line):
        saved["logger"] = {name: node for name, node in saved.get("logger", {}).items() if not _is_tracker(node)}
    for key, value in _leaves(saved):
        section, defaults, _ = f".{key}.".partition(".defaults.")
        if defaults:  # Hydra would obey them
            raise UserError(f"{path}: holds {section[1:]}.defaults, which no run saves; take it from a copy of the run")
        is_unbounded = key != "run_dir" and not _refers_to_a_value(value, saved)
        if isinstance(value, str) and key not in trusted and (is_unbounded or not reads_only_keys(value)):
            raise UserError(f"{path}: {key} is {value}; {_type_it(key)}")
    for text in [*saved.get("overrides", []), *_space_overrides(saved.get("space", {}))]:
        if text not in command_line:
            _check_override(path, text)
    started = any(folder.glob("checkpoints/*.ckpt")) and "task=tune" not in command_line
    run_dir = uuid.uuid4().hex
    node = OmegaConf.create(saved | {"run_dir": run_dir, "overrides": [], "space": {}})
    for key, value in _leaves(OmegaConf.to_container(node, resolve=True)):
        if key not in trusted and not (started and key in READ_AT_START):
            _check_value(path, key, value, run_dir)
    for key, value in _leaves(saved):  # what another key refers to may be typed, or changed by an experiment
        if key in trusted or not isinstance(value, str) or "${" not in value:
            continue
        text = value.replace("${run_dir}", run_dir)
        if PLACE.search(key):
            _check_value(path, key, text, run_dir)
        elif any(PLACE.search(name) or name in READ_AT_START for name in REFERENCE.findall(text)):
            raise UserError(f"{path}: {key} is {value}; {_type_it(key)}")


def reads_only_keys(text: str) -> bool:
    """Whether the interpolations of a text are references to keys, or to variables of our own config files."""
    return "${" not in INTERPOLATION.sub("", text)


def _uses_other_loggers(command_line: Collection[str]) -> bool:
    """Whether a command chooses its loggers without `saved`, or a task that logs nothing."""
    for text in command_line:
        key, _, value = text.partition("=")
        if (key == "task" and value not in LOGGING_TASKS) or (key == "logger" and "saved" not in value):
            return True
    return False


def _is_tracker(logger: Any) -> bool:
    return isinstance(logger, dict) and not str(logger.get("_target_")).startswith(LOCAL_LOGGERS)


def _refers_to_a_value(text: Any, saved: dict[str, Any]) -> bool:
    """Whether a text refers to no more than one key, of a single value: chains of several grow exponentially."""
    references = REFERENCE.findall(str(text))
    node: Any = saved
    for name in references[0].split(".") if references else ():
        node = node.get(name) if isinstance(node, dict) else None
    return len(references) < 2 and not (references and isinstance(node, dict | list))


def _replace(saved: dict[str, Any], values: dict[str, Any]) -> None:
    """Replace the values of dotted keys, where they are in a config."""
    for key, value in values.items():
        *sections, name = key.split(".")
        parent: Any = saved
        for section in sections:
            parent = parent.get(section) if isinstance(parent, dict) else None
        if isinstance(parent, dict) and name in parent:
            parent[name] = value


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values that are no dict or list, with their dotted keys; items of a list have the key of the list."""
    if isinstance(value, dict):
        for name, child in value.items():
            yield from _leaves(child, f"{key}.{name}".lstrip("."))
    elif isinstance(value, list):
        for child in value:
            yield from _leaves(child, key)
    else:
        yield key, value


def _check_value(path: Path, key: str, value: Any, run_dir: str) -> None:
    """Raises UserError if a value names a place beyond the run's folder.

    Args:
        run_dir: the text that stands for the folder.
    """
    text = str(value)
    if key.startswith("logger.") and key.endswith("._target_") and not text.startswith(LOCAL_LOGGERS):
        name = key.split(".")[1]
        again = f"logger=[default,{name}]" if (CONF / "logger" / f"{name}.yaml").exists() else f"{key}={text}"
        problem = f"logger.{name} may send scores to an address, which a run's folder may not decide"
        raise UserError(f"{path}: {problem}; add {again} to the command, or logger=default to train without it")
    if key.endswith("._target_") and text.endswith("Checkpoint"):
        allowed = text.startswith("lit_modules.")  # Lightning's removes the files that a checkpoint lists as its own
    elif key in READ_AT_START and (key == "init_from" or Path(text).suffix):
        allowed = value is None
    elif FREE_TEXT.fullmatch(key):
        allowed = "://" not in text
    elif value is not None and (PLACE.search(key) or PATH.search(text)):
        file = Path(text.removeprefix("sqlite:///"))
        allowed = isinstance(value, str) and file.parts[:1] == (run_dir,) and ".." not in file.parts
    else:
        return
    if not allowed:
        raise UserError(f"{path}: {key} is {text.replace(run_dir, '${run_dir}')}; {_type_it(key)}")


def _type_it(key: str) -> str:
    return f"a run's folder may not decide that: add {key}=… to the command if you trust it"


def _space_overrides(space: Any) -> Iterator[str]:
    """The overrides of a search space, one for each of its values."""
    for key, values in space.items() if isinstance(space, dict) else ():
        for value in values if isinstance(values, list) else (0,):
            yield f"{key}={value}"


def _check_override(path: Path, text: Any) -> None:
    """Check a word of the command line that a study gives to its trials.

    Raises:
        UserError: it is not the setting of a trial, or what it sets is not allowed in a saved config.
    """
    problem = f"{path}: {text!r} is no setting of a trial that a study saves; take it from a copy of the study"
    try:
        override = OverridesParser.create().parse_override(str(text))
        value = override.value()
    except HydraException as error:
        raise UserError(problem) from error
    key = override.key_or_group
    root = re.split(r"[./]", key)[0]
    is_group = bool(re.fullmatch(r"\w[\w/]*", key)) and (CONF / key).is_dir()
    if (
        root in NOT_OF_A_TRIAL
        or key in MACHINE
        or override.package
        or not (is_group or root in TASKS["fit"].__dataclass_fields__)
    ):
        raise UserError(problem)
    for leaf, child in _leaves(value, key):
        if key == "logger" and child not in LOCAL_LOGGER_OPTIONS:
            raise UserError(f"{path}: trials get {text}, which a study's folder may not decide; add it to the command")
        if is_group and not re.fullmatch(r"\w[\w/-]*", str(child)):
            raise UserError(problem)
        if not is_group and "${" in str(child):
            raise UserError(f"{path}: {leaf} is {child}; {_type_it(leaf)}")
        if not is_group:
            _check_value(path, leaf, child, uuid.uuid4().hex)
