"""Process setup: standard streams, signals, garbage collection, malloc, warning filters, fast exit."""

import atexit
import ctypes
import gc
import io
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable

from omegaconf import DictConfig

from conf.error_messages import one_line
from conf.errors import UserError

# Signals that stop a run with a checkpoint. A closed terminal sends SIGHUP; nohup ignores it, and Windows has none.
STOP_SIGNALS = [signal.SIGTERM, signal.SIGINT]
if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
    STOP_SIGNALS.append(signal.SIGHUP)
# Environment variable: id of the process that starts ranks.
LAUNCHER = "LITMUS_LAUNCHER"
PR_SET_PDEATHSIG = 1  # from Linux's prctl.h
# Kept memory is fragmented, up to two thirds more than a step needs: below this, glibc's defaults stay.
MIN_FREE_MEMORY = 8 * 2**30  # bytes
# Parameters of mallopt, from glibc's malloc.h.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX, ARENA_MAX = -1, -2, -4, -8


def run(program: Callable[[], None]) -> None:
    """Run a program with a higher GC threshold, and skip interpreter teardown when it is done.

    Collecting garbage while torch and Lightning are imported takes half a second; tearing down their million objects,
    one second.
    """
    _end_with_launcher()
    _open_streams()
    if os.path.expanduser("~") == "~":  # noqa: PTH111  # no HOME, and no user of this id, as in some containers
        os.environ["HOME"] = "/nonexistent"  # Debian's home of such users: nothing is cached
    threading.excepthook = _print_thread_error
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


def _open_streams() -> None:
    """Open closed standard streams on the null device; print `?` for a character that stdout cannot encode."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            null = open(os.devnull, mode)  # noqa: SIM115  # it gets the lowest free descriptor: that of the stream
            os.set_inheritable(null.fileno(), True)
            setattr(sys, name, null)
    assert isinstance(sys.stdout, io.TextIOWrapper)
    sys.stdout.reconfigure(errors="replace")


def _end_with_launcher() -> None:
    """Let Linux kill this rank when the process that started it dies, even by SIGKILL; elsewhere it lives on.

    Only Lightning's ranks: those of torchrun and SLURM are ended by them.
    """
    launcher = os.environ.get(LAUNCHER)
    os.environ[LAUNCHER] = str(os.getpid())
    if launcher and "LOCAL_RANK" in os.environ and sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(launcher):  # it died before the call
            os._exit(1)


def _print_thread_error(error: threading.ExceptHookArgs) -> None:
    """Print a thread's traceback, unless the error has a line of its own.

    TensorBoard's writer raises the error of its thread again in the main thread, which answers it.
    """
    if error.exc_value is None or one_line(error.exc_value) is None:
        threading.__excepthook__(error)


def check_count(trainer: DictConfig) -> None:
    """Check the number of processes that Lightning would start on a CPU; torchrun and srun start theirs themselves.

    Raises:
        UserError: they are more than the CPU's cores.
    """
    from lit_modules.inference.device import device_of

    count = int(trainer.devices) if str(trainer.devices).isdigit() else 1
    is_rank = "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ
    if count == 1 or is_rank or device_of(trainer).type != "cpu":
        return
    import joblib

    cores = joblib.cpu_count()
    if count > cores:
        raise UserError(f"trainer.devices: {count} processes exceed the CPU's {cores} core(s); set {cores} or fewer")


def set_up(free_memory: int, one_arena: bool = False) -> None:
    """Filter warnings that do not apply here, and keep freed memory for the next step.

    Args:
        free_memory: in bytes.
        one_arena: for all threads, if it is not the first one that computes: in arenas of their own, glibc keeps no
            large block.
    """
    _filter_warnings()
    _keep_freed_memory(free_memory, one_arena)


def _filter_warnings() -> None:
    for name in ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # INFO contains advertisements
    warnings.filterwarnings("ignore", ".*LeafSpec.*")  # Lightning calls a deprecated function
    warnings.filterwarnings("ignore", "ReduceLROnPlateau conditioned on metric")  # LitClassifier steps it
    warnings.filterwarnings("ignore", "The ``compute`` method of metric .*Scores was called before")  # an empty shard
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty")  # on resume
    warnings.filterwarnings("ignore", "It is recommended to use .*sync_dist=True")  # only rank 0 has these values
    warnings.filterwarnings("ignore", "The `srun` command is available")  # also on a login node
    warnings.filterwarnings("ignore", "Found .* module\\(s\\) in eval mode")  # those of a frozen body


def _keep_freed_memory(free_memory: int, one_arena: bool) -> None:
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
        if one_arena:
            libc.mallopt(ARENA_MAX, 1)
