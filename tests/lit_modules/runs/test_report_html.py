"""report.html is one file without effects of its own: nothing in it runs, and nothing is loaded from elsewhere."""

from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lit_modules.evaluation.markdown import markdown_table
from lit_modules.runs.report_html import to_html
from tests.conftest import DRAWN, Command, error_line

PNG = b"\x89PNG\r\n\x1a\n0"
SCRIPT = "<script>alert(1)</script>"
HOSTILE = [
    SCRIPT,
    "![x](http:evil/x.png)",
    "![x](../secret.png)",
    "![x](/etc/passwd)",
    "![x](report/../../secret.png)",
    "<img src=x onerror=alert(1)>",
    "</details><iframe src=x></iframe>",
    "[x](javascript:alert(1))",
    "[x](http://evil)",
    "</title></style><script>",
    '" onload="alert(1)',
    "a|b\\|c",
]


class Page(HTMLParser):
    """The elements of a page, their attributes, and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: Counter[str] = Counter()
        self.attributes: dict[str, list[str]] = {}
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        for name, value in attrs:
            self.attributes.setdefault(name, []).append(value or "")

    def handle_data(self, data: str) -> None:
        self.text += data


def assert_harmless(page: Page) -> None:
    assert not {"script", "iframe", "object", "a", "link"} & set(page.tags), page.tags
    assert page.attributes.keys() <= {"class", "src", "alt", "lang", "charset", "name", "content", "http-equiv"}
    assert all(source.startswith("data:image/png;base64,") for source in page.attributes.get("src", []))


def test_report_of_a_run_is_one_file(
    run: Callable[..., Path], process: Command, command: Command, tmp_path: Path
) -> None:
    folder = run(*DRAWN, "callbacks.dashboard=null")
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "torch.py").write_text("raise RuntimeError('torch was imported')")
    result = process(f"run={folder}", "task=report", PYTHONPATH=str(tmp_path / "blocked"))
    assert result.returncode == 0 and result.stdout == f"report → {folder / 'report.html'}\n", result.stderr
    page = Page((folder / "report.html").read_text(encoding="utf-8"))
    assert_harmless(page)
    figures = len(list((folder / "report").iterdir()))
    assert figures > 5 and page.tags["img"] == figures and page.tags["details"] == page.tags["summary"] == 1
    assert page.tags["table"] >= 4 and "lit_module.net.channels" in page.text and "|" not in page.text

    (folder / "report.md").unlink()
    result = command(f"run={folder}", "task=report")
    line = error_line(result.returncode, result.stderr)
    problem, fix = "cannot be read (No such file or directory)", "choose a finished run with callbacks.predictions"
    assert line == f"{folder}/report.md: {problem}; {fix}"


@pytest.mark.parametrize("name", HOSTILE)
def test_names_of_classes_are_text(name: str) -> None:
    report = f"# {name}\n\n{markdown_table(('class', 'f1'), [(name, 1)])}\n"
    page = Page(to_html(report, {"report/a.png": PNG}))
    assert_harmless(page)
    assert page.tags["td"] == 2 and page.tags["img"] == 0 and name.replace("\\|", "\\x5c|") in page.text


@pytest.mark.parametrize("text", HOSTILE)
def test_report_of_a_stranger_has_no_effect(text: str) -> None:
    page = Page(to_html(f"# x\n\n{text}\n\nb {text}\n\n<details><summary>All settings</summary>\n\n{text}\n", {}))
    assert_harmless(page)
    assert page.tags["details"] == 1 and page.tags["img"] == 0


def test_only_figures_of_the_report_are_embedded() -> None:
    html = to_html("![A <b>](report/a.png) ![B](report/b.png) ![C](http://x/c.png)", {"report/a.png": PNG})
    assert html.count("<img") == 1 and 'alt="A &lt;b&gt;">' in html and "</span> B C</p>" in html


@pytest.mark.parametrize("output", ["report.pdf", ".", "x/"])
def test_output_is_an_html_file(command: Command, tmp_path: Path, output: str) -> None:
    (tmp_path / "config.yaml").write_text("task: fit\n")
    result = command(f"run={tmp_path}", "task=report", f"output={output}")
    assert error_line(result.returncode, result.stderr).startswith("output: ")
