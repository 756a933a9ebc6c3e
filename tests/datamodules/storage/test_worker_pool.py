"""The pool returns results in order, submits few tasks ahead, and its processes exit with their parent."""

import multiprocessing
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from conf.errors import UserError
from datamodules.storage import worker_pool
from datamodules.storage.worker_pool import Workers, chunks
from tests.conftest import ROOT
from tests.datamodules.storage import work

MANY = ["x"] * worker_pool.MIN_FILES_FOR_PROCESSES


@pytest.mark.parametrize("count", [0, 1, 3])
def test_results_have_the_order_of_the_tasks(count: int) -> None:
    with Workers(count, MANY) as pool:
        results = [*pool.map(work.square, range(40)), *pool.map(work.square, [7])]
    assert [number for number, _ in results] == [*(i**2 for i in range(40)), 49]
    assert (os.getpid() in {pid for _, pid in results}) == (count < 2)


def test_few_items_and_items_in_memory_start_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multiprocessing, "get_context", lambda method: pytest.fail("a process was started"))
    for items in (["x"] * 10, [Image.new("L", (1, 1))] * len(MANY)):
        with Workers(4, items) as pool:
            assert next(pool.map(work.square, [3]))[0] == 9


def test_no_task_runs_after_a_failure(tmp_path: Path) -> None:
    with Workers(2, MANY) as pool:
        list(pool.map(work.square, range(4)))  # both processes have started
        with pytest.raises(ValueError):
            list(pool.map(work.fail_first, [(tmp_path, number) for number in range(6)]))
        began = len(list(tmp_path.glob("* began")))
        ended = len(list(tmp_path.glob("* ended")))
    assert began == ended > 0


def test_processes_do_not_import_the_main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datamodules.storage.worker_pool.MIN_FILES_FOR_PROCESSES", 1)
    main = sys.modules["__main__"]
    with Workers(2, ["a"]) as workers:
        assert list(workers.map(work.has_main_file, ["a", "b"])) == [False, False]
    assert sys.modules["__main__"] is main


@pytest.mark.parametrize("added", [0, 19])
def test_processes_have_the_given_niceness(added: int) -> None:
    with Workers(2, MANY, niceness=added) as pool:
        assert list(pool.map(work.niceness, ["a", "b"])) == [min(19, os.nice(0) + added)] * 2


def test_few_tasks_are_submitted_ahead() -> None:
    submitted = []

    def tasks() -> Iterator[int]:
        for number in range(100):
            submitted.append(number)
            yield number

    with Workers(1, MANY) as pool:
        results = pool.map(work.square, tasks())
        next(results)
        assert len(submitted) <= 5


def test_chunks_hold_every_item_once() -> None:
    items = list(range(300))
    parts = list(chunks(items))
    assert [len(part) for part in parts] == [128, 128, 44] and [*chain(*parts)] == items


def test_a_killed_process_is_one_line() -> None:
    with pytest.raises(UserError, match=r"^datamodule\.num_workers: a worker was killed"), Workers(2, MANY) as pool:
        list(pool.map(work.kill_itself, [1]))


ENDLESS = """
import time
from datamodules.storage.worker_pool import MIN_FILES_FOR_PROCESSES, Workers
if __name__ == "__main__":
    pool = Workers(2, ["x"] * MIN_FILES_FOR_PROCESSES)
    print(*pool.map(abs, [1, 2]), *pool._pool._processes, flush=True)
    time.sleep(100)
"""


def test_processes_exit_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", ENDLESS], cwd=ROOT, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        _, _, *children = map(int, parent.stdout.readline().split())
        parent.kill()
    assert len(children) == 2
    until = time.monotonic() + 10
    while any(is_alive(child) for child in children) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(is_alive(child) for child in children)


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
