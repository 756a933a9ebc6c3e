"""Classifies the images of concurrent requests in shared batches."""

import asyncio
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

# An image file → uint8 `[C, H, W]`, or the reason why it is unreadable.
Decode = Callable[[bytes], np.ndarray | str]
# uint8 `[N, C, H, W]` → an answer for each.
Classify = Callable[[np.ndarray], list[dict[str, Any]]]
MAX_BATCHES = 4  # of decoded images, which are larger than their files


class Batcher:
    """Decodes images in threads; those that wait while the network computes are its next batch.

    Args:
        decode: called in several threads.
        classify: called in one thread.
        batch_size: of the largest batch.
        num_threads: for decoding.
    """

    def __init__(self, decode: Decode, classify: Classify, batch_size: int, num_threads: int) -> None:
        self._decode = decode
        self._classify = classify
        self._batch_size = batch_size
        self._slots = asyncio.Semaphore(MAX_BATCHES * batch_size)
        self._decoders = ThreadPoolExecutor(num_threads)
        self._network = ThreadPoolExecutor(1)
        self._waiting: deque[tuple[np.ndarray, asyncio.Future[dict[str, Any]]]] = deque()
        self._computing: asyncio.Task[None] | None = None
        self.length = 0
        """Number of images that were received and not answered yet"""

    async def classify(self, content: bytes) -> dict[str, Any]:
        """The answer for an image file; `{"error": reason}` if it is unreadable."""
        loop = asyncio.get_running_loop()
        self.length += 1
        try:
            async with self._slots:
                pixels = await loop.run_in_executor(self._decoders, self._decode, content)
                if isinstance(pixels, str):
                    return {"error": pixels}
                answer: asyncio.Future[dict[str, Any]] = loop.create_future()
                self._waiting.append((pixels, answer))
                if self._computing is None or self._computing.done():
                    self._computing = loop.create_task(self._compute())
                return await answer
        finally:
            self.length -= 1

    async def _compute(self) -> None:
        while self._waiting:
            size = min(self._batch_size, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            inputs = np.stack([pixels for pixels, _ in batch])
            computed = asyncio.get_running_loop().run_in_executor(self._network, self._classify, inputs)
            await asyncio.wait([computed])
            for position, (_, answer) in enumerate(batch):
                if answer.done():  # the request took too long, or its client has gone
                    continue
                if error := computed.exception():
                    answer.set_exception(error)
                else:
                    answer.set_result(computed.result()[position])
