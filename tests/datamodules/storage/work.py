"""Work for the processes of a pool, which import this module and so not torch."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from datamodules.storage.worker_pool import Workers


def square(number: int) -> tuple[int, int]:
    """The square, and the process that computed it; some take longer than others."""
    time.sleep(0.002 * (number % 3))
    return number**2, os.getpid()


def fail_first(task: tuple[Path, int]) -> None:
    """Fails on number 0; on others writes a file at the beginning and at the end."""
    folder, number = task
    if number == 0:
        raise ValueError
    (folder / f"{number} began").touch()
    time.sleep(0.3)
    (folder / f"{number} ended").touch()


def has_main_file(_: str) -> bool:
    return hasattr(sys.modules["__main__"], "__file__")


def niceness(_: str) -> int:
    return os.nice(0)


def kill_itself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


class SlowWorkers(Workers):
    """Leaves a file `<process>.writes` in `folder`, and waits before the first task."""

    folder: Path

    def map(self, work: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        (self.folder / f"{os.getpid()}.writes").touch()
        time.sleep(0.5)
        yield from super().map(work, tasks)
