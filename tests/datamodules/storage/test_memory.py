"""Free memory is the minimum of that of the system, the container and the process limits."""

import resource
from pathlib import Path

import pytest

from datamodules.storage import memory
from datamodules.storage.memory import free_memory


def test_free_memory_is_below_the_total() -> None:
    assert 2**26 < free_memory() <= memory._read_sizes(Path("/proc/meminfo"))["MemTotal"]


@pytest.mark.parametrize("name", memory.LIMITS)
def test_limit_of_the_process_counts(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    used = memory._read_sizes(Path("/proc/self/status"))[memory.LIMITS[name]]
    limit, unlimited = getattr(resource, name), resource.RLIM_INFINITY
    monkeypatch.setattr(
        resource, "getrlimit", lambda asked: (used + 10**6, unlimited) if asked == limit else (unlimited, unlimited)
    )
    assert 0 < free_memory() <= 2 * 10**6


def test_limit_of_the_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "CGROUP", tmp_path)
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("700000\n")
    (tmp_path / "memory.stat").write_text("anon 500000\ninactive_file 200000\n")
    assert free_memory() == 500000
    (tmp_path / "memory.max").write_text("max\n")
    assert free_memory() > 10**6
