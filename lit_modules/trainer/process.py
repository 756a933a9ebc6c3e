"""Process setup: garbage collection, malloc, warning filters, fast exit."""

import atexit
import ctypes
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable

# Kept memory is fragmented, up to two thirds more than a step needs: below this, glibc's defaults stay.
MIN_FREE_MEMORY = 8 * 2**30  # bytes
# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def run(program: Callable[[], None]) -> None:
    """Run a program with a higher GC threshold, and skip interpreter teardown when it is done.

    Collecting garbage while torch and Lightning are imported takes half a second; tearing down their million objects,
    one second.
    """
    done: list[bool] = []
    atexit.register(_end, done)  # the first that is registered is called last
    gc.set_threshold(100_000)
    program()
    done.append(True)


def _end(done: list[bool]) -> None:
    """Exit at once if the program finished; otherwise Python exits, with its exit code."""
    if done:
        logging.shutdown()  # it is registered with atexit before this function
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def set_up(free_memory: int) -> None:
    """Filter warnings that do not apply here, and keep freed memory for the next step."""
    _filter_warnings()
    _keep_freed_memory(free_memory)


def _filter_warnings() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # INFO contains advertisements
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning calls a deprecated function
    warnings.filterwarnings("ignore", "ReduceLROnPlateau conditioned on metric")  # LitClassifier steps it
    warnings.filterwarnings("ignore", "The ``compute`` method of metric Scores was called before")  # an empty shard
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # on resume
    warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist=True")  # only rank 0 has these values
    warnings.filterwarnings("ignore", "The `srun` command is available")  # also on a login node
    warnings.filterwarnings("ignore", "Found .* module\\(s\\) in eval mode")  # those of a frozen body


def _keep_freed_memory(free_memory: int) -> None:
    """Keep freed memory in the process: up to a third less time per step on a CPU with large activations.

    By default glibc returns large blocks to the system, which fills them with zeros when the next step allocates them
    again. Nothing is changed where memory is scarce, where the user has set MALLOC_… or GLIBC_TUNABLES, or with another
    C library, which has no mallopt.
    """
    user_has_set_malloc = any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if os.name != "posix" or free_memory < MIN_FREE_MEMORY or user_has_set_malloc:
        return
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(TRIM_THRESHOLD, -1)  # never
        libc.mallopt(TOP_PAD, 64 * 2**20)
        libc.mallopt(MMAP_MAX, 0)
