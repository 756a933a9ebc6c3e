"""The service answers as task=predict does, within its limits."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

from conf.errors import UserError
from datamodules.image_stream import image_spec
from datamodules.uploads import decode_upload
from lit_modules.inference import service as service_module
from lit_modules.inference.batching import Batcher
from lit_modules.inference.serve import listen, service_of
from lit_modules.inference.service import MAX_IMAGES, Service
from tests.conftest import DRAWN, configure

CONTRACT = json.dumps({"service": True})


def brightness(content: bytes) -> np.ndarray | str:
    """The first byte as an image of one pixel."""
    return np.full((1, 1, 1), content[0], np.uint8) if content else "the file is empty"


def levels(inputs: np.ndarray) -> list[dict[str, Any]]:
    return [{"predicted": int(level)} for level in inputs.ravel()]


def client_of(classify: Callable[..., Any] = levels, decode: Callable[..., Any] = brightness) -> TestClient:
    return TestClient(Service(Batcher(decode, classify, 4, 2), CONTRACT).application(), raise_server_exceptions=False)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of() as client:
        yield client


def test_answers_are_those_of_predict(run: Callable[..., Path], images: Path) -> None:
    small = (*DRAWN, "++callbacks.dashboard=null", "lit_module.net.pool=2")
    folder = run("+experiment=from_scratch", f"datamodule.root={images}", *small)
    sets = ("coverage=0.8", "unknown=0.2")
    run(f"run={folder}", "task=predict", f"input={images}", *sets)
    lines = (folder / "predictions" / "now" / "predictions.jsonl").read_text().splitlines()
    expected = [json.loads(line) for line in lines[:50:7]]
    cfg = configure(f"run={folder}", "task=serve", *sets)
    served = service_of(cfg, lambda shape: partial(decode_upload, spec=image_spec(cfg.datamodule, shape)))
    with TestClient(served.application()) as client:
        files = [("file", (line["file"], Path(line["file"]).read_bytes())) for line in expected]
        answers = client.post("/predict", files=files).json()["predictions"]
        contract = client.get("/contract.json").json()
    for answer, line in zip(answers, expected, strict=True):
        assert answer.pop("probabilities") == pytest.approx(line.pop("probabilities"), abs=1e-6)
        assert answer.pop("probability") == pytest.approx(line.pop("probability"), abs=1e-6)
        assert answer == line and {"set", "known"} <= answer.keys()
    assert contract["class_names"] == ["dark", "light"] and contract["inputs"]["shape"] == ["batch", 3, 12, 12]


def test_body_or_each_part_is_an_image(client: TestClient) -> None:
    body = client.post("/predict", content=b"\x07rest", headers={"content-type": "image/png"})
    assert body.json() == {"predictions": [{"file": "image", "predicted": 7}]}
    parts = client.post("/predict", files=[("a", ("x.png", b"\x01")), ("a", ("y.png", b"")), ("b", ("z.png", b"\x03"))])
    assert parts.status_code == 200
    assert parts.json()["predictions"] == [
        {"file": "x.png", "predicted": 1},
        {"file": "y.png", "error": "the file is empty"},
        {"file": "z.png", "predicted": 3},
    ]


def test_request_without_a_readable_image_is_refused(client: TestClient) -> None:
    empty = client.post("/predict", content=b"")
    assert empty.status_code == 422
    assert empty.json()["predictions"] == [{"file": "image", "error": "the file is empty"}]
    nothing = client.post("/predict", data={"a": "b"}, files={})
    assert nothing.status_code in (200, 400, 422)
    malformed = client.post("/predict", content=b"--", headers={"content-type": "multipart/form-data"})
    assert malformed.status_code == 400 and "boundary" in malformed.json()["error"]


def test_ten_thousand_parts_are_refused(client: TestClient) -> None:
    answer = client.post("/predict", files=[("file", (f"{i}.png", b"\x01")) for i in range(10_000)])
    assert answer.status_code == 400 and str(MAX_IMAGES) in answer.json()["error"]


def test_bytes_of_one_and_of_all_requests_are_limited(client: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "MAX_REQUEST_BYTES", 1000)
    assert client.post("/predict", content=b"\x01" * 1001).status_code == 413
    monkeypatch.setattr(service_module, "MAX_HELD_BYTES", 900)
    assert client.post("/predict", content=b"\x01" * 901).status_code == 503
    for _ in range(3):  # what was held is given back
        assert client.post("/predict", content=b"\x01" * 800).status_code == 200


def test_time_of_a_request_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_module, "SECONDS", 0.05)

    def slow(content: bytes) -> np.ndarray | str:
        time.sleep(0.3 if content == b"slow" else 0)
        return brightness(content)

    with client_of(decode=slow) as client:
        answer = client.post("/predict", content=b"slow")
        assert answer.status_code == 408 and "more than" in answer.json()["error"]
        assert client.post("/predict", content=b"\x02").status_code == 200


def test_error_of_the_network_is_answered() -> None:
    def failing(inputs: np.ndarray) -> list[dict[str, Any]]:
        if inputs.max() == 255:
            raise RuntimeError("out of memory")
        return levels(inputs)

    with client_of(failing) as client:
        assert client.post("/predict", content=b"\xff").status_code == 500
        assert client.post("/predict", content=b"\x01").status_code == 200
        assert "litmus_queue_length 0\n" in client.get("/metrics").text


def test_images_that_wait_share_a_batch() -> None:
    sizes: list[int] = []
    started, go_on = threading.Event(), threading.Event()

    def classify(inputs: np.ndarray) -> list[dict[str, Any]]:
        sizes.append(len(inputs))
        started.set()
        assert go_on.wait(10)
        return levels(inputs)

    async def requests() -> list[dict[str, Any]]:
        batcher = Batcher(brightness, classify, 4, 2)
        first = asyncio.create_task(batcher.classify(b"\x00"))
        await asyncio.to_thread(started.wait, 10)
        others = [asyncio.create_task(batcher.classify(bytes([i]))) for i in range(1, 8)]
        while len(batcher._waiting) < 7:
            await asyncio.sleep(0.001)
        go_on.set()
        return await asyncio.gather(first, *others)

    assert asyncio.run(requests()) == [{"predicted": i} for i in range(8)]
    assert sizes == [1, 4, 3]


def test_metrics_health_and_page_are_served(client: TestClient) -> None:
    client.post("/predict", content=b"\x01")
    client.post("/predict", content=b"")
    assert client.get("/health").json() == {"status": "ok"}
    lines = client.get("/metrics").text.splitlines()
    assert {'litmus_requests_total{status="200"} 1', 'litmus_requests_total{status="422"} 1'} <= set(lines)
    assert {"litmus_images_total 2", "litmus_request_seconds_count 2", "litmus_queue_length 0"} <= set(lines)
    assert "<h1>Classify an image</h1>" in client.get("/").text
    assert client.get("/page.js").headers["content-type"].startswith("text/javascript")
    assert client.get("/contract.json").text == CONTRACT
    described = client.get("/openapi.json").json()["paths"]
    assert described.keys() == {"/predict", "/health", "/metrics"}
    assert "set" in json.dumps(client.get("/openapi.json").json()["components"]["schemas"]["Predictions"])


def test_address_in_use_is_one_line() -> None:
    with listen("127.0.0.1", 0) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port: 127\.0\.0\.1:{port} cannot be .*in use\); choose another$"):
            listen("127.0.0.1", port)
    with pytest.raises(UserError, match=r"^port: 192\.0\.2\.1:0 cannot be listened to \(.*\); choose another$"):
        listen("192.0.2.1", 0)  # of no machine
