"""Ordered process pool with bounded prefetch."""

import multiprocessing
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, TypeVar

from PIL import Image
from tqdm import tqdm

from conf.errors import UserError
from datamodules.storage.worker_init import init_worker

T = TypeVar("T")
R = TypeVar("R")

# Fewer files are decoded faster than processes start.
MIN_FILES_FOR_PROCESSES = 2000
# Files sent to a process at once.
CHUNK = 128


def cores() -> int:
    """Number of CPU cores available to this process, by its affinity and its cgroup's quota."""
    import joblib  # takes 0.2 s

    count: int = joblib.cpu_count()
    return count


class Workers(AbstractContextManager["Workers"]):
    """Worker processes, started at the first `map`.

    They exit with their parent, even if it is killed. The start method is spawn, because a fork of a process with
    torch's threads may deadlock.

    Args:
        num_workers: number of processes; None: one per core; 0 or 1: a thread instead.
        items: the items to work on. Fewer than 2,000, or items in memory, are processed by a thread.
        niceness: added to that of the processes; 19: the lowest priority.
    """

    def __init__(self, num_workers: int | None, items: Sequence[Any], niceness: int = 0) -> None:
        self.count = 1
        if len(items) >= MIN_FILES_FOR_PROCESSES and not isinstance(items[0], Image.Image):
            self.count = max(1, cores() if num_workers is None else num_workers)
        self._niceness = niceness
        self._pool: Executor | None = None

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """Results in the order of the tasks.

        At most three tasks per process are submitted ahead.

        Raises:
            UserError: a process was killed.
        """
        if self._pool is None:
            if self.count == 1:
                self._pool = ThreadPoolExecutor(1)
            else:
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.count, spawn, init_worker, (self._niceness,))
        pending: deque[Future[R]] = deque()
        try:
            for task in tasks:
                with _hidden_main():
                    pending.append(self._pool.submit(work, task))
                if len(pending) > 3 * self.count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("datamodule.num_workers: a worker was killed, perhaps out of memory; use fewer") from error
        finally:
            wait([future for future in pending if not future.cancel()])  # before the caller rewrites their output file

    def close(self) -> None:
        """Stops the processes; running tasks finish, waiting ones are cancelled."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __exit__(self, *_: object) -> None:
        self.close()


def chunks(items: Sequence[T]) -> Iterator[list[T]]:
    """Consecutive lists of 128 items."""
    for start in range(0, len(items), CHUNK):
        yield [items[i] for i in range(start, min(start + CHUNK, len(items)))]


def progress(results: Iterable[R], total: int, description: str, size: Callable[[R], int]) -> Iterator[R]:
    """Yields the results; on a terminal, shows a progress bar.

    Args:
        total: samples in all results together.
        size: number of samples in a result.
    """
    with tqdm(
        desc=description, total=total, delay=1, leave=False, disable=not sys.stderr.isatty(), unit=" samples"
    ) as bar:
        for result in results:
            yield result
            bar.update(size(result))


@contextmanager
def _hidden_main() -> Iterator[None]:
    """Hides `__main__`, which spawned processes would import, and torch with it.

    `submit` may spawn processes.
    """
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main
