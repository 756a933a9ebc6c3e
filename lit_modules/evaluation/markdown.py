"""Tables in Markdown."""

from collections.abc import Iterable, Sequence
from typing import Any

from conf.text import markdown


def markdown_table(heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table with one line per row; cells are converted by `str` and escaped."""
    lines = [heading, ["---"] * len(heading), *rows]
    return "\n".join(f"| {' | '.join(_escape(str(cell)) for cell in line)} |" for line in lines)


def _escape(text: str) -> str:
    r"""Renderers disagree on whether `\\|` ends a cell, so a backslash before a column separator is shown as `\x5c`."""
    return markdown(text).replace("\\|", "\\x5c|").replace("|", "\\|")
