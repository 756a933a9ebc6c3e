"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with one line per row; cells are converted by `str` and escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(_escape(str(cell)) for cell in line)} |" for line in lines)


def _escape(text: str) -> str:
    """Escapes the column separator and HTML tags, and collapses whitespace."""
    return " ".join(text.replace("|", "\\|").replace("<", "&lt;").split())
