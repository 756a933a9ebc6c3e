"""Names from data and configs as text without effect on consoles, in Markdown and in spreadsheets."""

import re
from typing import Any

# What has an effect within a line of Markdown: emphasis, code, links, images, HTML, entities and bare addresses; on
# GitHub emoji, formulas and mentions too. An underscore between letters has none.
ACTIVE = re.compile(r"[`*~<\\$@]|\b_|_\b|\]\(|&[#\w]|://|www\.|:[\w+-]+:", re.IGNORECASE)
# Where a spreadsheet takes what follows for a formula: some split cells at semicolons. An apostrophe prevents it:
# https://owasp.org/www-community/attacks/CSV_Injection
FORMULA = re.compile(r"(^|[;\n])(?=[=+\-@'])")
ESCAPED = re.compile(r"(^|[;\n])'")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")  # all but the line feed


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
    r"""A cell to write: an apostrophe before text that a spreadsheet would take for a formula; control characters but
    the line feed are escaped, such as `\x1b`, because a terminal obeys them."""
    text = str(value)
    if text.isprintable() and (not FORMULA.search(text) or is_number(text)):
        return value
    return FORMULA.sub(r"\1'", CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text))


def from_csv_cell(cell: str) -> str:
    """The text that `csv_cell` was given, with control characters escaped."""
    return ESCAPED.sub(r"\1", cell)


def is_number(text: str) -> bool:
    """Whether Python reads a text as a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
