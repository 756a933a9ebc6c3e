"""Exceptions of libraries as one line on stderr and exit code 2, instead of a traceback."""

import errno
import os
import select
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml
from hydra.errors import HydraException, InstantiationException
from omegaconf.errors import OmegaConfBaseException

from conf.command_line import PROGRAM
from conf.errors import UserError, first_line
from conf.hydra_messages import from_constructor, from_hydra
from conf.text import printable

STDOUT, STDERR = 1, 2
NOT_AN_OPTION = (
    "command line: a config group was given no name of an option; set a key, as in trainer.max_epochs=5 "
    "trainer.devices=2"
)
# What to do about an error of the file system.
SYSTEM_ERRORS = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some space",
    errno.EFBIG: "raise ulimit -f",
    errno.EROFS: "choose a folder that can be written",
    errno.EIO: "check the disk",
    errno.EMFILE: "raise ulimit -n",
    errno.ENFILE: "close other programs",
    errno.ENOLCK: "use a file system with locks",
}
MEMORY_IS_FULL = (
    "datamodule.batch_size: the memory is full; halve it, with trainer.accumulate_grad_batches=2, or "
    "set trainer.precision=bf16-mixed; checkpoints are kept: resume by run=…"
)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Print the user's mistakes as `error: …` on stderr and exit with code 2."""
    try:
        yield
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except SystemExit as error:
        if isinstance(error.__context__, KeyboardInterrupt):  # Lightning exits with 1 during validation and test
            raise SystemExit(130) from None
        if isinstance(error.__context__, BrokenPipeError):  # rich discards further output, and exits with 1
            raise SystemExit(141) from None
        raise
    except BrokenPipeError:
        _exit_if_stdout_is_closed()
        raise
    except Exception as error:
        line = one_line(error)
        if line is None:
            raise
        print("error:", printable(line), file=sys.stderr)  # a file name may contain newlines, or codes for the terminal
        _drop_unwritable_output()
        raise SystemExit(2) from None


def _drop_unwritable_output() -> None:
    """Discard buffered output if the disk is full; Python would fail on it again at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), STDOUT)


def _exit_if_stdout_is_closed() -> None:
    """Exit with 141, as by SIGPIPE, if the broken pipe is stdout (`| head`)."""
    if discard_if_closed(STDOUT):
        raise SystemExit(141) from None


def discard_if_closed(descriptor: int) -> bool:
    """Whether the reader of a pipe, or a terminal, is closed; if so, discard further output, buffered one too."""
    if not hasattr(select, "poll"):  # Windows
        return False
    output = select.poll()
    output.register(descriptor, 0)
    is_closed = bool(output.poll(0))
    if is_closed:
        os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return is_closed


def one_line(error: BaseException) -> str | None:
    """The line for `error`; None if it is our own bug, which deserves its traceback."""
    for kind, words, answer in ANSWERS:
        if _is_a(error, kind) and words in str(error):
            return answer if isinstance(answer, str) else answer(error)
    return None


def memory_is_full(error: BaseException) -> bool:
    """Whether torch ran out of memory, on a GPU or on the CPU."""
    return one_line(error) == MEMORY_IS_FULL


def _is_a(error: BaseException, kind: type | str) -> bool:
    """Whether `error` is of a type, or of a type of that name, whose import would take seconds."""
    return type(error).__name__ == kind if isinstance(kind, str) else isinstance(error, kind)


def _from_long_name(error: OSError) -> str:
    name = Path(error.filename or "").name
    return f"command line: the name {name[:40]}… of {len(os.fsencode(name))} bytes is too long; shorten it"


def _from_defaults_list(error: TypeError) -> str | None:
    """A config group was given a list of something other than names, for which Hydra has no message."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and frames[-1].f_globals["__name__"] == "hydra._internal.defaults_list":
        return NOT_AN_OPTION
    return None


def _from_unset_parent(error: AttributeError) -> str | None:
    """A key below one that has no value yet, for which OmegaConf has no message."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    if frames and frames[-1].f_globals["__name__"] == "omegaconf.dictconfig":
        return "command line: a key stands below one that is not set; give the whole, as in '+space={seed:[0,1]}'"
    return None


def _from_system(error: OSError) -> str | None:
    """A file that the system refuses: the disk is full or broken, the limit of open files is reached, …"""
    if error.errno not in SYSTEM_ERRORS:
        return None
    fix = f"{SYSTEM_ERRORS[error.errno]}, then start again, or resume by run=…"
    return f"{error.filename or 'output'}: {error.strerror}; {fix}"


def _from_yaml(error: yaml.MarkedYAMLError) -> str | None:
    mark = error.problem_mark
    return f"{mark.name}, line {mark.line + 1}: {error.problem}; correct the YAML" if mark else None


def _from_huge_array(error: Exception) -> str:
    return f"datamodule: {first_line(error)}; reduce datamodule.image_size, or use fewer images"


def _from_lightning(error: BaseException) -> str:
    return f"trainer: {first_line(error)}; correct that setting"


def _from_cluster(error: BaseException) -> str | None:
    """The line of a cluster's job that failed with a line of ours."""
    for line in str(error).splitlines():
        if line.startswith("error: "):
            return line.removeprefix("error: ")
    return None


# (type of the exception or its name, words in its message, the line or the function that makes it). The first row that
# fits answers; None from a function means a traceback.
ANSWERS: tuple[tuple[type | str, str, str | Callable[..., str | None]], ...] = (
    (UserError, "", str),
    (OSError, f"[Errno {errno.ENAMETOOLONG}]", _from_long_name),
    (OSError, "[Errno ", _from_system),
    # Hydra and OmegaConf
    (InstantiationException, "", from_constructor),
    (ValueError, "Config group override", NOT_AN_OPTION),
    (TypeError, "is not iterable", _from_defaults_list),
    (
        AssertionError,
        "Unexpected type for root: ",  # of OmegaConf
        f"command line: a key was added below a value that holds none; see {PROGRAM} --cfg job",
    ),
    (AttributeError, "'str' object has no attribute 'get'", _from_unset_parent),
    (HydraException, "", from_hydra),
    (OmegaConfBaseException, "", from_hydra),
    (yaml.MarkedYAMLError, "", _from_yaml),
    # NumPy
    (MemoryError, "", _from_huge_array),
    (ValueError, "array is too big", _from_huge_array),
    (ValueError, "Maximum allowed dimension exceeded", _from_huge_array),
    # torch
    (RuntimeError, "Storage size calculation overflowed", _from_huge_array),
    (ImportError, "failed to map segment", "ulimit -v: too low to load torch; raise it, or leave it out"),
    ("OutOfMemoryError", "", MEMORY_IS_FULL),
    (Exception, "can't allocate memory", MEMORY_IS_FULL),
    (
        Exception,
        "Expected more than 1 value per channel when training",
        "datamodule.drop_last: batch normalisation needs more than one sample, all the last batch has; set it to true",
    ),
    # Lightning
    (
        ValueError,
        "`val_check_interval` (",
        "trainer.val_check_interval: exceeds the number of batches of an epoch; lower it",
    ),
    ("MisconfigurationException", "", _from_lightning),
    # pathlib
    (Exception, "Could not determine home directory", "command line: unknown user in '~user/…'; write the whole path"),
    # submitit
    ("UncompletedJobError", "", _from_cluster),
    ("FailedJobError", "", _from_cluster),
)
