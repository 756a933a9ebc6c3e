"""How exceptions of libraries become one line on stderr and exit code 2, never a traceback."""

import errno
import os
import re
import select
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException

from conf.errors import UserError, nearest

CONF = Path(__file__).parent
STDOUT = 1


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns every mistake of the user's inside the block into `error: …` on stderr and exit code 2."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning ends with 1 where it tests or validates
            raise SystemExit(130) from None
        raise
    except BrokenPipeError:
        _leave_if_nobody_reads()
        raise
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        print("error:", line.replace("\n", "\\n"), file=sys.stderr)  # such a name can be anybody's
        _drop_unwritable_output()
        raise SystemExit(2) from None


def _drop_unwritable_output() -> None:
    """What is held back for a full disk; Python would try to write it once more at the end, and say so."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def _leave_if_nobody_reads() -> None:
    """Exit code 141, as by SIGPIPE, if it was our output that broke, as `| head` does, and no other pipe."""
    output = select.poll()
    output.register(STDOUT, 0)
    if output.poll(0):
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)  # for what is still to be flushed
        raise SystemExit(141) from None


def memory_is_full(error: BaseException) -> bool:
    """Whether torch says so, of a GPU or of the machine; by name, for its import takes seconds."""
    return type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in str(error)


def one_line(error: BaseException) -> str | None:
    """The one line for `error`; None if it is a bug of ours and deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"{error.filename or 'output'}: {error.strerror}; make room, then start again, or go on by run=…"
    if isinstance(error, InstantiationException):
        return _from_constructor(error)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's, for trainer=5
        return "command line: a group of settings got a number; name a file of it, or a key as in trainer.max_epochs=5"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        options = set(error.options or []) | {path.stem for path in (CONF / group).glob("*.yaml")}
        return f"{group}={name}: no such file in conf/{group}; {nearest(name, options)}"
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark:
        mark = error.problem_mark
        return f"{mark.name}, line {mark.line + 1}: {error.problem}; correct the YAML"
    if isinstance(error, MemoryError):  # NumPy's
        return f"datamodule: {_first_line(error)}; make images smaller by datamodule.image_size, or keep fewer"
    if memory_is_full(error):
        return (
            "datamodule.batch_size: the memory is full; halve it, with trainer.accumulate_grad_batches=2, or "
            "set trainer.precision=bf16-mixed; checkpoints are kept: go on by run=…"
        )
    if "Expected more than 1 value per channel when training" in str(error):  # torch's, of batch normalisation
        return "datamodule.drop_last: a batch holds one sample, which cannot be normalised; set it to true"
    if isinstance(error, ValueError) and "`val_check_interval` (" in str(error):  # Lightning's, of a loader
        return "trainer.val_check_interval: is more than the batches of an epoch; lower it"
    if "Could not determine home directory" in str(error):
        return "command line: there is no user of the name that stands after ~; write the whole path"
    if type(error).__name__ in ("UncompletedJobError", "FailedJobError"):  # a job of a cluster that was refused there
        return next((line.removeprefix("error: ") for line in str(error).splitlines() if line[:7] == "error: "), None)
    if _misconfigured(error):
        return f"trainer: {_first_line(error)}; correct that setting"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    for cause in (error.__cause__, error):
        if isinstance(cause, InterpolationKeyError):
            return f"{cause.full_key}: {_first_line(cause)}; name a key that exists"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _from_omegaconf(cause)
    if found := re.search(r"In '(\S+)': \w+ raised while composing config:\n(.+)\n\s*full_key: (\S+)", str(error)):
        return _from_config_file(*found.groups())
    if (found := re.search(r"Could not override '(\S+/\S+)'", str(error))) and (CONF / found[1]).is_dir():
        key = found[1].replace("/", ".")
        return f"{found[1]}: a saved run has no files to choose from; change a value, as {key}.…=…, or leave out run="
    if found := re.search(r"Could not append to config. An item is already at '(\S+)'", str(error)):
        return f"{found[1]}: is there already; write it without +"
    fix = "write +experiment=…" if "'experiment'" in str(error) else "see python train.py --help"
    if set("[]{}(),") & set(getattr(error, "override", "")):
        fix = """put quotes around a value of such letters too, as 'key="value"'"""
    return f"command line: {_first_line(error)}; {fix}"


def _from_omegaconf(error: OmegaConfBaseException) -> str:
    parent, key = error.parent_node, str(error.key)
    if "/" in key:
        groups = {str(path.parent.relative_to(CONF)) for path in CONF.rglob("*.yaml") if path.parent != CONF}
        return f"{key}: no such group of settings; {nearest(key, groups)}"
    if isinstance(parent, DictConfig) and not parent:
        return f"{error.full_key}: no such key yet; add it by +{error.full_key}=…"
    if isinstance(parent, DictConfig) and key not in list(parent):  # `in parent` is false for what is not set
        return f"{error.full_key}: no such key; {nearest(key, map(str, parent))}"
    return f"{error.full_key}: {_first_line(error)}; give it a value of its type"


def _from_config_file(name: str, problem: str, key: str) -> str:
    """A file under conf/ sets a key that the typed root of the config does not have, or to a value that it refuses."""
    if name.startswith(f"{key}/"):  # its whole content landed under the name of its group
        return f"{name}.yaml: its keys have no place; make its first line # @package _global_"
    if "." not in key and "not in" in problem:
        root = ConfigStore.instance().load("task/fit.yaml").node
        return f"{name}.yaml: {key}: no such key; {nearest(key, map(str, root))}"
    return f"{name}.yaml: {key}: {problem.rstrip('.')}; correct it or leave it out"


def _from_constructor(error: InstantiationException) -> str | None:
    """A constructor refused what the config gave it: its own words are the best there are."""
    cause = error.__cause__
    key = next((line.partition(": ")[2] for line in str(error).splitlines() if line.startswith("full_key")), "config")
    if isinstance(cause, UserError):
        named = str(cause).partition(": ")[0]
        own_parameter = named.isidentifier() and "." not in named  # of the node, which knows no more of its own name
        return f"{key}.{cause}" if own_parameter else str(cause)
    ours = re.search(r"target '(lit_modules|datamodules)\.", str(error)) and "required" not in str(cause)
    if ours or not (isinstance(cause, ValueError | TypeError | ImportError) or _misconfigured(cause)):
        return None
    assert cause is not None
    return f"{key}: {_first_line(cause)}; correct that value"


def _misconfigured(error: BaseException | None) -> bool:
    """Whether Lightning says that its settings are wrong; by name, for its import takes seconds."""
    return type(error).__name__ == "MisconfigurationException"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
