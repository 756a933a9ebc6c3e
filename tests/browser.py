"""A headless Chromium that opens a folder by a static server and hands back what a script of the page computed."""

import json
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from queue import Queue
from typing import Any

from lit_modules.inference.web_page import PACKAGE, RUNTIME

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SECONDS = 240
PAGE = """<!doctype html><script type="module">
const finish = (answer) => fetch("answer", { method: "POST", body: JSON.stringify(answer) });
try { finish(await (async () => { %s })()); } catch (error) { finish({ error: String(error.stack) }); }
</script>"""


class _Handler(SimpleHTTPRequestHandler):
    extensions_map = SimpleHTTPRequestHandler.extensions_map | {".mjs": "text/javascript"}
    answers: Queue[Any]

    def do_POST(self) -> None:
        self.answers.put(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(folder: Path, handler: type[SimpleHTTPRequestHandler] = _Handler) -> Iterator[str]:
    """The address of a static server of a folder."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def evaluate(folder: Path, profile: Path, script: str) -> Any:
    """What the body of an async JavaScript function returns in a page of the folder; AssertionError if it throws."""
    (folder / "evaluate.html").write_text(PAGE % script, encoding="utf-8")
    handler = type("Handler", (_Handler,), {"answers": Queue()})
    with served(folder, handler) as address:
        chromium = subprocess.Popen(command(profile, f"{address}/evaluate.html"), stderr=subprocess.DEVNULL)
        try:
            answer = handler.answers.get(timeout=SECONDS)
        finally:
            chromium.terminate()
            chromium.wait()
    assert not (isinstance(answer, dict) and "error" in answer), answer["error"]
    return answer


def write_runtime(folder: Path) -> None:
    """Writes a stand-in for the npm package into a cache."""
    folder.mkdir(parents=True, exist_ok=True)
    with tarfile.open(folder / f"{PACKAGE.replace('@', '-')}.tgz", "w:gz") as archive:
        for name in ("package/package.json", *(f"package/dist/{name}" for name in (*RUNTIME, "ort.js"))):
            member = tarfile.TarInfo(name)
            member.size = len(name)
            archive.addfile(member, BytesIO(name.encode()))


def command(profile: Path, *arguments: str) -> list[str]:
    """Chromium without a window, and without requests of its own."""
    assert CHROMIUM is not None
    quiet = ["--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"]
    camera = ["--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    # Containers seldom allow its sandbox; the pages are ours.
    ours = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
    return [CHROMIUM, *ours, *quiet, *camera, *arguments]
