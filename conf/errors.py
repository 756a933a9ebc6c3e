"""How a mistake of the user's is answered: one line on stderr and exit code 2, never a traceback."""

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """The input is wrong. The text reads `<file or key>: <problem>; <fix>`.

    Our own mistakes must not be dressed as the user's, so no built-in exception serves here.
    """


def nearest(word: str, words: Iterable[str]) -> str:
    """`did you mean 'x'?` if one of `words` is close to `word`, else the list of all of them."""
    by_lower_case = {other.lower(): other for other in sorted(words)}
    close = difflib.get_close_matches(word.lower(), by_lower_case, n=1)
    if close:
        return f"did you mean '{by_lower_case[close[0]]}'?"
    return f"choose from {', '.join(by_lower_case.values())}" if by_lower_case else f"add it by +{word}=…"
