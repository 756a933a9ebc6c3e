"""Names from data and configs as text without effect on consoles, in Markdown and in spreadsheets."""

import re
from typing import Any

# What has an effect within a line of Markdown: emphasis, code, links, images, HTML, entities and bare addresses; on
# GitHub emoji, formulas and mentions too. An underscore between letters has none.
ACTIVE = re.compile(r"[`*~<\\$@]|\b_|_\b|\]\(|&[#\w]|://|www\.|:[\w+-]+:", re.IGNORECASE)
# A spreadsheet takes text that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r", "\n")
ESCAPE = "'"  # https://owasp.org/www-community/attacks/CSV_Injection


def printable(text: str) -> str:
    r"""One line in which control characters, text direction marks and undecodable bytes are escaped, such as `\x1b`."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode() for character in text
    )


def markdown(text: str) -> str:
    """Text for a line of Markdown: unchanged if Markdown shows it so, else as code."""
    text = printable(text)
    if not ACTIVE.search(text):
        return text
    fence = "`" * (1 + max(map(len, re.findall("`+", text)), default=0))
    pad = " " if "`" in text else ""
    return f"{fence}{pad}{text}{pad}{fence}"


def csv_cell(value: Any) -> Any:
    """A cell to write: text that a spreadsheet would take for a formula begins with an apostrophe."""
    text = str(value)
    if not text.startswith((*FORMULA, ESCAPE)) or is_number(text):
        return value
    return ESCAPE + text


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` was given."""
    return cell.removeprefix(ESCAPE)


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
