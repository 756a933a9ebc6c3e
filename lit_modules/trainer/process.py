"""How a process that works with torch starts, keeps its memory, holds its tongue and ends."""

import atexit
import ctypes
import gc
import logging
import os
import sys
import warnings
from collections.abc import Callable

# What is kept lies in pieces, up to two thirds more than a step needs: where less is free, glibc works as it does.
PLENTY = 8 * 2**30  # bytes
# Of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4


def run(program: Callable[[], None]) -> None:
    """Runs a program from start to end of its process, without two of the interpreter's habits: looking for garbage
    among the million objects of torch and Lightning again and again while they are imported (half a second), and
    taking all of them apart at the end (one second).
    """
    done: list[bool] = []
    atexit.register(_end, done)  # the first to be registered is called last
    gc.set_threshold(100_000)
    program()
    done.append(True)


def _end(done: list[bool]) -> None:
    """Ends the process at once if its program came to its end; otherwise leaves that, and the exit code, to Python."""
    if done:
        logging.shutdown()  # registered when it was imported, before us
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def set_up(free_memory: int) -> None:
    """Silences what Lightning says of things that are as they must be, and has freed memory kept for the next step."""
    _quieten()
    _keep_freed_memory(free_memory)


def _quieten() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # at INFO they advertise
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning's own use of a deprecated call
    warnings.filterwarnings("ignore", "ReduceLROnPlateau conditioned on metric")  # LitClassifier steps it
    warnings.filterwarnings("ignore", "The ``compute`` method of metric Scores was called before")  # an empty share
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # as it must on resume
    warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist=True")  # the first rank alone has them
    warnings.filterwarnings("ignore", "The `srun` command is available")  # on a cluster's login node, too


def _keep_freed_memory(free_memory: int) -> None:
    """A step on a CPU frees all that the last one took. glibc gives the large parts back to the system, which fills
    them with zeros when they are taken again: up to a third of the time. So it keeps them, unless memory is
    scarce or the user has said how it shall work, by MALLOC_… or GLIBC_TUNABLES. No other C library has mallopt."""
    as_usual = free_memory < PLENTY or any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ)
    if os.name == "posix" and not as_usual and hasattr(ctypes.CDLL(None), "mallopt"):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(TRIM_THRESHOLD, -1)  # never
        mallopt(TOP_PAD, 64 * 2**20)
        mallopt(MMAP_MAX, 0)
