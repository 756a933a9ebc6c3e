"""report.html: the report.md of a run or a study and its figures in one file. Imports no torch."""

from base64 import b64encode
from collections.abc import MutableMapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token

from conf.errors import UserError, first_line
from conf.files import make_output, write_text
from conf.text import printable

# The HTML of our own reports. Any other is shown as text: names of classes and files may hold some.
OWN_HTML = ("<details><summary>All settings</summary>", "</details>")
STYLE = """\
:root { color-scheme: light dark; --line: light-dark(#d8dee4, #3a4048); --soft: light-dark(#f4f6f8, #1f242a);
  --quiet: light-dark(#57606a, #9aa4ae); }
body { margin: 0 auto; padding: 1rem; max-width: 62rem; font: 1rem/1.55 system-ui, sans-serif;
  color: light-dark(#1c2128, #e2e6ea); background: light-dark(#fff, #15191d); overflow-wrap: break-word; }
h1, h2 { line-height: 1.25; margin: 2.2rem 0 .8rem; } h1 { font-size: 1.6rem; } h2 { font-size: 1.2rem; }
h1:first-child { margin-top: .5rem; } h1:not(:first-child) { border-top: 1px solid var(--line); padding-top: 1.4rem; }
.wide { display: block; overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; text-align: left; vertical-align: top; border-bottom: 1px solid var(--line); }
th { color: var(--quiet); font-weight: 600; } thead:not(:has(th:not(:empty))) { display: none; }
td { min-width: 3.5rem; } td:first-child { min-width: 6rem; max-width: 22rem; }
img { display: block; max-width: max(100%, 34rem); background: #fff; border-radius: 4px; }
code { font: .88em ui-monospace, monospace; background: var(--soft); padding: .1em .3em; border-radius: 3px; }
pre { overflow-x: auto; background: var(--soft); padding: .7rem .9rem; border-radius: 4px; }
pre code { padding: 0; background: none; } summary { cursor: pointer; font-weight: 600; }
"""
# The policy forbids scripts and requests, whatever a report holds.
PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
{body}</body>
</html>
"""


class Renderer(RendererHTML):
    """HTML of a report: figures embedded, links as text, since the files they lead to are elsewhere.

    The environment of a rule is the figures' bytes by their path in the report.
    """

    def image(self, tokens: Sequence[Token], idx: int, options: Any, env: MutableMapping[str, Any]) -> str:
        figure, title = env.get(str(tokens[idx].attrs["src"])), escape(tokens[idx].content)
        if figure is None:
            return title
        source = f"data:image/png;base64,{b64encode(figure).decode()}"
        return f'<span class="wide"><img src="{source}" alt="{title}"></span>'

    def table_open(self, *_: Any) -> str:
        return '<div class="wide"><table>\n'

    def table_close(self, *_: Any) -> str:
        return "</table></div>\n"

    def html_block(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        content = tokens[idx].content.strip()
        return f"{content if content in OWN_HTML else escape(content)}\n"

    def html_inline(self, tokens: Sequence[Token], idx: int, *_: Any) -> str:
        return escape(tokens[idx].content)

    def link_open(self, *_: Any) -> str:
        return ""

    link_close = link_open


def write_html(folder: Path, output: Path) -> None:
    """Writes the report of a run or a study as one HTML file, in which nothing is loaded from elsewhere.

    Args:
        folder: of the run, with report.md, and its figures in report/.
        output: the file.

    Raises:
        UserError: there is no report, or the file cannot be written.
    """
    if output.suffix != ".html":
        raise UserError(f"output: {output} does not end in .html; write output=report.html")
    source = folder / "report.md"
    try:
        text = source.read_text(encoding="utf-8")
        figures = {f"report/{file.name}": file.read_bytes() for file in sorted(folder.glob("report/*.png"))}
    except (OSError, UnicodeDecodeError) as error:
        problem = getattr(error, "strerror", None) or first_line(error)
        raise UserError(
            f"{source}: cannot be read ({problem}); choose a finished run with callbacks.predictions"
        ) from error
    make_output(output.parent)
    write_text(output, to_html(text, figures))
    print(printable(f"report → {output}"))


def to_html(text: str, figures: dict[str, bytes]) -> str:
    """A report in Markdown as a page.

    Args:
        text: of the report; HTML but our own is shown as text.
        figures: PNG files by their path in the report; others are not shown.
    """
    parser = MarkdownIt("commonmark", renderer_cls=Renderer).enable("table")
    title = text.partition("\n")[0].lstrip("# ")
    return PAGE.format(title=escape(title), style=STYLE, body=parser.render(text, figures))
