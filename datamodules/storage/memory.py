"""Memory that this process can still allocate."""

import os
from contextlib import suppress
from pathlib import Path

LIMITS = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
CGROUP = Path("/sys/fs/cgroup")
# Bytes that need no check, which takes 0.2 ms.
SMALL = 2**26


def free_memory() -> int:
    """Free bytes: minimum over the system, the cgroup and the process limits."""
    candidates = [_system_memory()]
    status = _read_sizes(Path("/proc/self/status"))
    with suppress(ImportError):  # Windows has no such limits
        import resource

        for resource_name, name in LIMITS.items():
            soft, _ = resource.getrlimit(getattr(resource, resource_name))
            if soft != resource.RLIM_INFINITY:
                candidates.append(soft - status.get(name, 0))
    # Inside a container its own cgroup is the root.
    with suppress(OSError, ValueError):
        maximum = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        candidates.append(maximum - used + _read_sizes(CGROUP / "memory.stat").get("inactive_file", 0))
    return max(0, min(candidates))


def check_fits(size: int) -> None:
    """
    Raises:
        ValueError: so many bytes are not free.
    """
    free = free_memory() if size > SMALL else size
    if size > free:
        raise ValueError(f"needs {size / 2**30:,.1f} GiB of memory, of which {free / 2**30:,.1f} are free")


def _system_memory() -> int:
    """Available memory on Linux; elsewhere the total memory."""
    available = _read_sizes(Path("/proc/meminfo")).get("MemAvailable")
    return available if available is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_sizes(path: Path) -> dict[str, int]:
    """Bytes by name, from lines `name: number kB` or `name number`.

    Empty if there is no such file.
    """
    sizes = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, *values = line.replace(":", " ").split()
            if values and values[0].isdigit():
                sizes[name] = int(values[0]) * (1024 if values[1:] == ["kB"] else 1)
    return sizes
