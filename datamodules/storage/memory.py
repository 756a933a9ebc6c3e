"""How much memory this process may still take."""

import os
from contextlib import suppress
from pathlib import Path

LIMITS = {"RLIMIT_AS": "VmSize", "RLIMIT_DATA": "VmData"}
CGROUP = Path("/sys/fs/cgroup")


def free_memory() -> int:
    """Bytes: the least of what the system, the container and the process's own limits leave."""
    found = [_free_on_the_machine()]
    status = _table(Path("/proc/self/status"))
    with suppress(ImportError):  # Windows has no such limits
        import resource

        for resource_name, name in LIMITS.items():
            soft, _ = resource.getrlimit(getattr(resource, resource_name))
            if soft != resource.RLIM_INFINITY:
                found.append(soft - status.get(name, 0))
    # A container sees its own group as the root.
    with suppress(OSError, ValueError):
        limit, used = (int((CGROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(limit - used + _table(CGROUP / "memory.stat").get("inactive_file", 0))
    return max(0, min(found))


def _free_on_the_machine() -> int:
    """Linux counts what it would free for us; elsewhere all of the memory is taken for free."""
    free = _table(Path("/proc/meminfo")).get("MemAvailable")
    return free if free is not None else os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _table(path: Path) -> dict[str, int]:
    """Lines of `name: number kB` or `name number` → bytes by name; of a file that is not there none."""
    found = {}
    with suppress(OSError):
        for line in path.read_text().splitlines():
            name, *values = line.replace(":", " ").split()
            if values and values[0].isdigit():
                found[name] = int(values[0]) * (1024 if values[1:] == ["kB"] else 1)
    return found
