"""One line for each error of Hydra and OmegaConf that a command line or a YAML file can cause."""

import re
import sys

from hydra.core.config_store import ConfigStore
from hydra.errors import InstantiationException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, InterpolationResolutionError, OmegaConfBaseException

from conf.command_line import PROGRAM
from conf.errors import UserError, first_line, nearest
from conf.project import place_of
from conf.unknown_keys import CONF, renamed_key, unknown_key


def from_hydra(error: Exception) -> str:
    """The line for an error of composition: a key, a value, an option of a group, or the command's form."""
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        return _from_missing_option(error)
    variable = re.search("Environment variable '(.+)' not found", str(error))
    if variable:
        typed = [word.lstrip("+~").partition("=")[0] for word in sys.argv if variable[1] in word]
        key = getattr(error, "full_key", None) or (typed[0] if typed else "config")
        fix = f"export {variable[1]}=… first, or write the value"
        return f"{key}: the environment variable {variable[1]} is not set; {fix}"
    for cause in (error.__cause__, error):
        if isinstance(cause, InterpolationKeyError):
            return f"{cause.full_key}: {first_line(cause)}; name a key that exists"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _from_omegaconf(cause)
    for pattern, answer in PATTERNS:
        match = re.search(pattern, str(error))
        if match:
            return answer(*match.groups())
    fix = "write +experiment=…" if "'experiment'" in str(error) else f"see {PROGRAM} --help"
    if set("[]{}(),") & set(getattr(error, "override", "")):
        fix = """quote a value that contains such characters, as in 'key="value"'"""
    return f"command line: {first_line(error)}; {fix}"


def from_constructor(error: InstantiationException) -> str | None:
    """The line for an error in a constructor that the config calls; None if it is our own bug."""
    cause = error.__cause__
    key = "config"
    for line in str(error).splitlines():
        if line.startswith("full_key: "):
            key = line.removeprefix("full_key: ")
    if isinstance(cause, UserError):
        parameter = str(cause).partition(": ")[0]
        return f"{key}.{cause}" if parameter.isidentifier() else str(cause)
    # In our own code a TypeError of missing parameters alone can be the user's: `required` is Python's word for them.
    is_ours = re.search(r"target '(lit_modules|datamodules)\.", str(error)) and "required" not in str(cause)
    refused = isinstance(cause, ValueError | TypeError | ImportError)
    if is_ours or not (refused or type(cause).__name__ == "MisconfigurationException"):
        return None
    assert cause is not None
    fix = "install it" if isinstance(cause, ImportError) else "correct that value"
    return f"{key}: {first_line(cause)}{place_of(cause)}; {fix}"


def _from_missing_option(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    options = set(error.options or []) | {path.stem for path in (CONF / group).glob("*.yaml")}
    new_key = renamed_key(f"{group}/{name}".replace("/", "."), options)
    if new_key:
        return f"{group}={name}: is called {group}={new_key.rpartition('.')[2]} now; rename it"
    return f"{group}={name}: no such file in conf/{group}; {nearest(name, options)}"


def _from_omegaconf(error: OmegaConfBaseException) -> str:
    parent, key = error.parent_node, str(error.key)
    if "/" in key:
        return _unknown_group(key)
    # `in parent` is false for a missing value.
    if error.key is not None and isinstance(parent, DictConfig) and key not in list(parent):
        root = parent._get_root()
        return unknown_key(str(error.full_key), list(map(str, parent)), root if isinstance(root, DictConfig) else None)
    if isinstance(error, InterpolationResolutionError):
        return f"{error.full_key}: {first_line(error)}; correct what stands in ${{…}}"
    return f"{error.full_key}: {first_line(error)}; give it a value of its type"


def _from_config_file(name: str, problem: str, key: str) -> str:
    """A file under conf/ sets a root key that does not exist, or gives one a wrong value."""
    if name.startswith(f"{key}/"):  # without the header, its keys land below its group's name
        return f"{name}.yaml: its keys have no place; make its first line # @package _global_"
    if "." not in key and "not in" in problem:
        root = ConfigStore.instance().load("task/fit.yaml").node
        return f"{name}.yaml: {unknown_key(key, list(map(str, root)))}"
    return f"{name}.yaml: {key}: {problem.rstrip('.')}; correct it or leave it out"


def _from_group(file: str | None, group: str) -> str:
    """A command or a file chooses an option of a config group that is not in the defaults list."""
    place = f"{file}.yaml: " if file else ""
    if (CONF / group).is_dir():
        return f"{place}{group}: is not in the defaults list; write +{group}=…"
    return place + _unknown_group(group)


def _unknown_group(group: str) -> str:
    folders = {path.parent for path in CONF.rglob("*.yaml")} - {CONF}
    return f"{group}: no such config group; {nearest(group, {str(path.relative_to(CONF)) for path in folders})}"


def _from_existing_key(key: str) -> str:
    return f"{key}: exists already; write it without +"


# (pattern in Hydra's message, function of its groups)
PATTERNS = (
    (r"In '(\S+)': \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)", _from_config_file),
    (r"(?:In '(\S+)': )?Could not override '(\S+/\S+)'", _from_group),
    (r"Could not append to config. An item is already at '(\S+)'", _from_existing_key),
)
