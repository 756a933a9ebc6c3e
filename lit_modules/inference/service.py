"""The HTTP service of task=serve: limits, metrics and answers. It knows no network."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import python_multipart  # noqa: F401  # which Starlette imports only at the first form
from starlette.applications import Starlette
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import Message

from lit_modules.inference.batching import Batcher
from lit_modules.inference.web_page import WEB

MAX_IMAGES = 64  # of a request
MAX_REQUEST_BYTES = 64 * 2**20
MAX_HELD_BYTES = 512 * 2**20  # of all requests at a time
SECONDS = 60.0  # for a request, from its first byte to its answer


class Service:
    """Answers `/predict`, and counts for `/metrics`.

    Args:
        batcher: classifies.
        contract: what the page knows of the network, as JSON.
    """

    def __init__(self, batcher: Batcher, contract: str) -> None:
        self._batcher = batcher
        self._contract = contract
        self._held = 0
        self._requests: Counter[int] = Counter()  # by status
        self._images = 0
        self._seconds = 0.0

    def application(self) -> Starlette:
        """All that is served: the three routes, the page, and openapi.json beside it."""
        routes = [
            Route("/predict", self.predict, methods=["POST"]),
            Route("/health", self.health),
            Route("/metrics", self.metrics),
            Route("/contract.json", self.contract),
            Mount("/", StaticFiles(directory=WEB, html=True)),
        ]
        return Starlette(routes=routes, exception_handlers={HTTPException: _refuse})

    async def predict(self, request: Request) -> Response:
        """A prediction for each image; status 422 if none of them is readable."""
        began = time.perf_counter()
        status = 500
        try:
            async with self._limited(request) as limited:
                images = await _images_of(limited)
                answers = await asyncio.gather(*(self._batcher.classify(content) for _, content in images))
            names = [{"file": name} for name, _ in images]
            predictions = [name | answer for name, answer in zip(names, answers, strict=True)]
            status = 422 if all("error" in answer for answer in answers) else 200
            self._images += len(images)
            return JSONResponse({"predictions": predictions}, status)
        except ClientDisconnect:
            status = 400
            return Response(status_code=status)  # which nobody receives
        except HTTPException as error:
            status = error.status_code
            raise
        finally:
            self._requests[status] += 1
            self._seconds += time.perf_counter() - began

    @asynccontextmanager
    async def _limited(self, request: Request) -> AsyncIterator[Request]:
        """The request, whose bytes are counted while they are received, and whose time is limited."""
        size = 0

        async def receive() -> Message:
            nonlocal size
            message = await request.receive()
            length = len(message.get("body", b""))
            size += length
            self._held += length
            if size > MAX_REQUEST_BYTES:
                raise HTTPException(413, f"a request has at most {MAX_REQUEST_BYTES // 2**20} MiB")
            if self._held > MAX_HELD_BYTES:
                raise HTTPException(503, "too many requests at a time; try again")
            return message

        try:
            async with asyncio.timeout(SECONDS):
                yield Request(request.scope, receive)
        except TimeoutError as error:
            raise HTTPException(408, f"the request took more than {SECONDS:.0f} s") from error
        finally:
            self._held -= size

    async def health(self, _: Request) -> Response:
        """Answers while requests are accepted."""
        return JSONResponse({"status": "ok"})

    async def contract(self, _: Request) -> Response:
        """What the page knows of the network."""
        return Response(self._contract, media_type="application/json")

    async def metrics(self, _: Request) -> Response:
        """Counts since the start, in the text format of Prometheus."""
        lines = ["# TYPE litmus_requests_total counter"]
        lines += [f'litmus_requests_total{{status="{status}"}} {count}' for status, count in self._requests.items()]
        lines += ["# TYPE litmus_images_total counter", f"litmus_images_total {self._images}"]
        lines += ["# TYPE litmus_request_seconds summary", f"litmus_request_seconds_sum {self._seconds}"]
        lines += [f"litmus_request_seconds_count {self._requests.total()}"]
        lines += ["# TYPE litmus_queue_length gauge", f"litmus_queue_length {self._batcher.length}"]
        return PlainTextResponse("\n".join(lines) + "\n", media_type="text/plain; version=0.0.4")


async def _images_of(request: Request) -> list[tuple[str, bytes]]:
    """Name and content of each file of a multipart request, or of the one image that is the whole body."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        return [("image", await request.body())]
    async with request.form(max_files=MAX_IMAGES, max_fields=MAX_IMAGES) as form:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        images = [(file.filename or "image", await file.read()) for file in files]
    if not images:
        raise HTTPException(400, "the request has no file")
    return images


async def _refuse(_: Request, error: Any) -> Response:
    return JSONResponse({"error": error.detail}, error.status_code)
