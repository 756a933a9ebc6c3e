"""UserError, and suggestions for misspelt names."""

import difflib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


class UserError(Exception):
    """The input is wrong. The text reads `<file or key>: <problem>; <fix>`.

    No built-in exception is used, so that our own bugs are never reported as the user's mistakes.
    """


@contextmanager
def extra(name: str, *packages: str) -> Iterator[None]:
    """Around imports of the packages of an extra.

    Raises:
        UserError: one of them is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in packages:  # our own bug
            raise
        raise UserError(f'task: {error.name} is not installed; pip install -e ".[{name}]"') from error


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean 'x'?` if one of `words` is close to `word`, else all of them."""
    by_lower_case = {other.lower(): other for other in sorted(words)}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    if close:
        return f"did you mean '{by_lower_case[close[0]]}'?"
    return f"choose from {', '.join(by_lower_case.values())}" if by_lower_case else f"add it by +{word}=…"


def first_line(error: BaseException) -> str:
    """First line of an exception's message that is not blank, without its full stop; its type if there is none."""
    for line in str(error).splitlines():
        if line.strip():
            return line.strip().rstrip(".")
    return type(error).__name__
