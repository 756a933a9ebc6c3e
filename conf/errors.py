"""How a mistake of the user's is answered: one line on stderr and exit code 2, never a traceback."""

import difflib
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from hydra.errors import HydraException, InstantiationException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationKeyError, OmegaConfBaseException


class UserError(Exception):
    """The input is wrong. The text reads `<file or key>: <problem>; <fix>`.

    Our own mistakes must not be dressed as the user's, so no built-in exception serves here.
    """


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean 'x'?` if one of `words` is close to `word`, else the list of all of them."""
    words = sorted(words)
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean '{close[0]}'?" if close else f"choose from {', '.join(words)}"


@contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns every mistake of the user's inside the block into `error: …` on stderr and exit code 2."""
    try:
        yield
    except Exception as error:
        line = _line(error)
        if line is None:
            raise
        print(f"error: {line}", file=sys.stderr)
        raise SystemExit(2) from None


def _line(error: BaseException) -> str | None:
    """The one line for `error`; None if it is a bug of ours and deserves its traceback."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, InstantiationException):
        return _from_constructor(error)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's, for trainer=5
        return "command line: a group of settings got a number; name a file of it, or a key as in trainer.max_epochs=5"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, name = error.missing_cfg_file.rpartition("/")
        return f"{group}={name}: no such file in conf/{group}; {nearest(name, error.options or [])}"
    if _misconfigured(error):
        return f"trainer: {_first_line(error)}; correct that setting"
    if not isinstance(error, HydraException | OmegaConfBaseException):
        return None
    for cause in (error.__cause__, error):
        if isinstance(cause, InterpolationKeyError):
            return f"{cause.full_key}: {_first_line(cause)}; name a key that exists"
        if isinstance(cause, OmegaConfBaseException) and cause.full_key:
            return _from_omegaconf(cause)
    fix = "write +experiment=…" if "'experiment'" in str(error) else "see python train.py --help"
    return f"command line: {_first_line(error)}; {fix}"


def _from_omegaconf(error: OmegaConfBaseException) -> str:
    parent, key = error.parent_node, str(error.key)
    if isinstance(parent, DictConfig) and key not in parent:
        return f"{error.full_key}: no such key; {nearest(key, map(str, parent))}"
    return f"{error.full_key}: {_first_line(error)}; give it a value of its type"


def _from_constructor(error: InstantiationException) -> str | None:
    """A constructor refused what the config gave it: its own words are the best there are."""
    cause = error.__cause__
    if isinstance(cause, UserError):
        return str(cause)
    if not isinstance(cause, ValueError | TypeError | ImportError) and not _misconfigured(cause):
        return None
    assert cause is not None
    key = next((line.partition(": ")[2] for line in str(error).splitlines() if line.startswith("full_key")), "config")
    return f"{key}: {_first_line(cause)}; correct that value"


def _misconfigured(error: BaseException | None) -> bool:
    """Whether Lightning says that its settings are wrong; by name, for its import takes seconds."""
    return type(error).__name__ == "MisconfigurationException"


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")
