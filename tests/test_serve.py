"""A service in a process of its own: it ends in order, and hostile clients do not keep others waiting."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path

import pytest

from lit_modules.inference.serve import IDLE_SECONDS
from tests.conftest import DRAWN, ROOT

pytestmark = pytest.mark.slow


@contextmanager
def service(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A process of task=serve and its port."""
    command = [sys.executable, str(ROOT / "train.py"), f"run={folder}", "task=serve", "port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process, int(process.stdout.readline().rpartition(":")[2])
        finally:
            process.kill()


def post(port: int, content: bytes, kind: str = "image/png") -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("POST", "/predict", content, {"content-type": kind})
        response = connection.getresponse()
        return response.status, response.read()


@pytest.fixture
def trained(run: Callable[..., Path], images: Path) -> Path:
    small = (*DRAWN, "++callbacks.dashboard=null", "lit_module.net.pool=2")
    return run("+experiment=from_scratch", f"datamodule.root={images}", *small)


def test_sigterm_answers_what_has_begun_and_refuses_the_rest(trained: Path, images: Path) -> None:
    image = next((images / "dark").iterdir()).read_bytes()
    head = f"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-length: {len(image)}\r\n\r\n".encode()
    with service(trained) as (process, port):
        with socket.create_connection(("127.0.0.1", port)) as begun:
            begun.sendall(head + image[:10])
            assert post(port, image)[0] == 200
            process.send_signal(signal.SIGTERM)
            time.sleep(1)
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))
            begun.sendall(image[10:])
            answer = begun.makefile("rb").read()
        assert answer.startswith(b"HTTP/1.1 200") and b'"predicted"' in answer
        _, errors = process.communicate(timeout=30)
    assert process.returncode in (0, 143, -signal.SIGTERM) and errors == ""


def test_hostile_clients_are_answered_while_others_are_served(trained: Path, images: Path) -> None:
    image = next((images / "dark").iterdir()).read_bytes()
    with service(trained) as (process, port):
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.5):
                for client in slow:
                    try:
                        client.send(b"P")
                    except OSError:
                        continue

        dripping = threading.Thread(target=drip)
        dripping.start()
        began = time.monotonic()
        assert post(port, image)[0] == 200 and time.monotonic() - began < 5
        assert post(port, image[:-30])[0] == 422
        assert post(port, os.urandom(100_000))[0] == 422
        part = b'--x\r\ncontent-disposition: form-data; name="a"; filename="b"\r\n\r\nc\r\n'
        status, body = post(port, part * 10_000 + b"--x--\r\n", "multipart/form-data; boundary=x")
        assert status == 400 and b"Maximum number of files" in body
        assert post(port, bytes(2**26 + 1))[0] == 413
        time.sleep(2 * IDLE_SECONDS + 2 - (time.monotonic() - began))
        stop.set()
        dripping.join()
        for client in slow:
            client.settimeout(1)
            with client, suppress(ConnectionResetError):
                assert client.recv(1) == b"", "the connection is still open"
        status, body = post(port, image)
        assert status == 200 and json.loads(body)["predictions"][0]["file"] == "image"
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
        assert "Traceback" not in errors
