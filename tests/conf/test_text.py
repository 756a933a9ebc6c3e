"""Names have no effect in Markdown, in spreadsheets and on consoles, and plain ones stay as they are."""

import csv
import html
import re
from pathlib import Path

import pytest
from markdown import markdown as python_markdown
from markdown_it import MarkdownIt

from conf.files import write_table
from conf.text import csv_cell, from_csv_cell, markdown, printable
from lit_modules.evaluation.markdown import markdown_table

HOSTILE = [
    "![x](http://evil)", "[x](javascript:alert(1))", "<img src=x onerror=1>", "<http://evil>", "see http://evil/x",
    "www.evil.com", "a@evil.com", "`x` <b>", "``", "*x*", "_x_", "~~x~~", "&lt;b&gt;", "\\", "x\\|![y](http://evil)",
    "a\n\n# b", "a | b\n---\n![x](http://evil)", "`", "`` ` ``![x](http://evil)", "\x1b[2J", "\u202egnp.exe", "\udcff",
    "$x$", ":cat:", "x](http://evil", "<!--", "</td>", "__init__", "|",
]  # fmt: skip
PLAIN = ["hot_dog", "c++", "Straße 7", "R & D", "[8, 8]", "a-b.c/d", "올빼미", "50% (half)", "lr=0.01", "#1"]
MARKUP = re.compile(r"<(a|img|em|strong|b|s|del|br)\b|<!--")


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("place", ["heading", "cell"])
def test_markdown_shows_the_characters_and_nothing_else(text: str, place: str) -> None:
    escaped = f"# {markdown(text)}: 1" if place == "heading" else markdown_table(["name", "x"], [[text, "end"]])
    pages = MarkdownIt().enable("table").render(escaped), python_markdown(escaped, extensions=["tables"])
    for page in pages:
        assert not MARKUP.search(page)
        assert len(re.findall("<(?:th|td|h1)>", page)) == (1 if place == "heading" else 4)
    assert escaped.replace("\n", "").isprintable()
    assert not re.search("http|www|@|[$]|:cat:", re.sub("(`+).+?\\1", "", escaped)), "GitHub would make links of them"


@pytest.mark.parametrize("text", PLAIN)
def test_markdown_leaves_plain_names_alone(text: str) -> None:
    assert markdown(text) == text
    assert html.unescape(MarkdownIt().render(f"# {text}")) == f"<h1>{text}</h1>\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("\x1b[2J", "\\x1b[2J"), ("a\rb\nc\td\x07", "a\\rb\\nc\\td\\x07"), ("\u202ex\u2066", "\\u202ex\\u2066"),
        ("\udcff.png", "\\udcff.png"), ("올빼미 ñ → …", "올빼미 ñ → …"), ("\x9b31m", "\\x9b31m"),
    ],
)  # fmt: skip
def test_control_characters_are_shown(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.mark.parametrize("text", ["=cmd|'/C calc'!A0", "+1+cmd", "-x", "@SUM(A1)", "'=1", "'", "''x"])
def test_formulas_are_escaped_and_read_back(text: str) -> None:
    assert csv_cell(text) == f"'{text}" and from_csv_cell(csv_cell(text)) == text


@pytest.mark.parametrize("text", ["a;=1+1", "=1;-x;b", "a;'=1", "a;'", "a;;@x;", "a\n=1", "\n=1"])
def test_no_formula_follows_a_separator(text: str) -> None:
    cells = re.split("[;\n]", csv_cell(text))
    assert not any(cell.startswith(tuple("=+-@")) for cell in cells) and from_csv_cell(csv_cell(text)) == text


@pytest.mark.parametrize(
    ("text", "expected"), [("\x1b[2J", "\\x1b[2J"), ("\t=1\r", "\\t=1\\r"), ("\x9b.\udcff\n", "\\x9b.\udcff\n")]
)  # fmt: skip
def test_tables_hold_no_control_character(text: str, expected: str) -> None:
    assert csv_cell(text) == expected


@pytest.mark.parametrize("value", [-0.5, "-0.5", "+1e-7", "-inf", "a=b", "", None, "hot_dog", 3])
def test_numbers_and_plain_names_are_not_escaped(value: object) -> None:
    assert csv_cell(value) == value
    assert not isinstance(value, str) or from_csv_cell(value) == value


def test_tables_hold_no_formula(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", [{"=name": "=1+1", "loss": -0.5, "read": "-0.25"}])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file)) == [["'=name", "loss", "read"], ["'=1+1", "-0.5", "-0.25"]]


def test_object_that_reads_like_a_formula_is_escaped() -> None:
    assert csv_cell(Path("=HYPERLINK(1)")) == "'=HYPERLINK(1)"
    assert [csv_cell(value) for value in (-0.5, -3, None, True)] == [-0.5, -3, None, True]
