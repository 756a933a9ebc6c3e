"""Work shared out to processes: results come in order, and never far ahead of who takes them."""

import multiprocessing
import os
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, contextmanager
from types import ModuleType
from typing import Any, TypeVar

from tqdm import tqdm

from conf.errors import UserError
from datamodules.storage.worker_init import begin

T = TypeVar("T")
R = TypeVar("R")

# Below this many files starting processes costs more than they save.
FEWEST_FOR_PROCESSES = 2000
# Files that are sent to a process at once.
CHUNK = 128


def cores() -> int:
    """Those that this process may use, where the system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Workers(AbstractContextManager["Workers"]):
    """Processes that are started when they are first needed. Their start method is spawn: a fork of a process with
    torch's threads may hang. They end with the process that started them, however that ends.

    Args:
        num_workers: null: one a core; 0 or 1: a thread instead.
        items: what the work is on. A thread serves for few of them, and for what lies in memory.
        niceness: of the processes: 19 leaves the cores to whoever wants them.
    """

    def __init__(self, num_workers: int | None, items: Sequence[Any], niceness: int = 0) -> None:
        many = len(items) >= FEWEST_FOR_PROCESSES and isinstance(items[0], str)
        self.count = max(1, cores() if num_workers is None else num_workers) if many else 1
        self._niceness = niceness
        self._pool: Executor | None = None

    def map(self, work: Callable[[T], R], tasks: Iterable[T]) -> Iterator[R]:
        """The results in the order of the tasks, of which at most three a process are under way.

        Raises:
            UserError: a process was killed.
        """
        if self._pool is None:
            if self.count == 1:
                self._pool = ThreadPoolExecutor(1)
            else:
                spawn = multiprocessing.get_context("spawn")
                self._pool = ProcessPoolExecutor(self.count, spawn, begin, (self._niceness,))
        ahead: deque[Future[R]] = deque()
        try:
            for task in tasks:
                with _empty_main():
                    ahead.append(self._pool.submit(work, task))
                if len(ahead) > 3 * self.count:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        except BrokenProcessPool as error:
            raise UserError("datamodule.num_workers: a process was killed, perhaps for memory; use fewer") from error
        finally:
            wait([future for future in ahead if not future.cancel()])  # what they write may be written anew

    def close(self) -> None:
        """Ends the processes; what is under way is finished, what waits is dropped."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def __exit__(self, *_: object) -> None:
        self.close()


def chunks(items: Sequence[T]) -> Iterator[list[T]]:
    """The items in their order, 128 at a time."""
    for start in range(0, len(items), CHUNK):
        yield [items[i] for i in range(start, min(start + CHUNK, len(items)))]


def progress(found: Iterable[R], total: int, description: str, size: Callable[[R], int]) -> Iterator[R]:
    """Passes results on; on a terminal, a bar shows how many samples they hold and the time that is left."""
    with tqdm(
        desc=description, total=total, delay=1, leave=False, disable=not sys.stderr.isatty(), unit=" samples"
    ) as bar:
        for each in found:
            yield each
            bar.update(size(each))


@contextmanager
def _empty_main() -> Iterator[None]:
    """Processes that are spawned import the program that started them, which takes longer than all they need; and they
    are spawned as the first work is handed in."""
    program = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = program
