"""Work done by processes comes back in order, and ends with the process that asked for it."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest

from conf.errors import UserError
from datamodules.storage import worker_pool
from datamodules.storage.worker_pool import Workers, chunks
from tests.conftest import ROOT

MANY = ["x"] * worker_pool.MIN_FILES_FOR_PROCESSES


def square(number: int) -> tuple[int, int]:
    time.sleep(0.002 * (number % 3))
    return number**2, os.getpid()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_come_in_the_order_of_the_tasks(count: int) -> None:
    with Workers(count, MANY) as pool:
        found = [*pool.map(square, range(40)), *pool.map(square, [7])]
    assert [number for number, _ in found] == [*(i**2 for i in range(40)), 49]
    assert (os.getpid() in {pid for _, pid in found}) == (count < 2)


def test_few_items_and_those_in_memory_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: pytest.fail("a process was started"))
    for items in (["x"] * 10, [object()] * len(MANY)):
        with Workers(4, items) as pool:
            assert next(pool.map(square, [3]))[0] == 9


def fail_first(task: tuple[Path, int]) -> None:
    folder, number = task
    if number == 0:
        raise ValueError
    (folder / f"{number} began").touch()
    time.sleep(0.3)
    (folder / f"{number} ended").touch()


def test_after_a_failure_nothing_is_under_way_any_more(tmp_path: Path) -> None:
    with Workers(2, MANY) as pool:
        list(pool.map(square, range(4)))  # both have begun
        with pytest.raises(ValueError):
            list(pool.map(fail_first, [(tmp_path, number) for number in range(6)]))
        began, ended = (len(list(tmp_path.glob(f"* {word}"))) for word in ("began", "ended"))
    assert began == ended > 0


def knows_the_program(_: str) -> bool:
    return hasattr(sys.modules["__main__"], "__file__")


def test_processes_do_not_import_the_program(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.storage.worker_pool.MIN_FILES_FOR_PROCESSES", 1)
    program = sys.modules["__main__"]
    with Workers(2, ["a"]) as workers:
        assert list(workers.map(knows_the_program, ["a", "b"])) == [False, False]
    assert sys.modules["__main__"] is program


def niceness(_: str) -> int:
    return os.nice(0)


@pytest.mark.parametrize("ours", [0, 19])
def test_processes_leave_the_cores_to_others_if_told(ours: int) -> None:
    with Workers(2, MANY, niceness=ours) as pool:
        assert list(pool.map(niceness, ["a", "b"])) == [min(19, os.nice(0) + ours)] * 2


def test_no_more_is_asked_for_than_a_few_ahead() -> None:
    asked = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    with Workers(1, MANY) as pool:
        found = pool.map(square, tasks())
        next(found)
        assert len(asked) <= 5


def test_chunks_hold_every_item_once() -> None:
    items = list(range(300))
    parts = list(chunks(items))
    assert [len(part) for part in parts] == [128, 128, 44] and [*chain(*parts)] == items


def kill_oneself(_: int) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^datamodule\.num_workers: a worker was killed"), Workers(2, MANY) as pool:
        list(pool.map(kill_oneself, [1]))


ENDLESS = """
import time
from datamodules.storage.worker_pool import MIN_FILES_FOR_PROCESSES, Workers
if __name__ == "__main__":
    pool = Workers(2, ["x"] * MIN_FILES_FOR_PROCESSES)
    import os
    print(*pool.map(abs, [1, 2]), *[process for process in pool._pool._processes], flush=True)
    time.sleep(100)
"""


def test_processes_end_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        _, _, *children = map(int, parent.stdout.readline().split())
        parent.kill()
    assert len(children) == 2
    until = time.monotonic() + 10
    while any(alive(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(alive(child) for child in children)


def alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
