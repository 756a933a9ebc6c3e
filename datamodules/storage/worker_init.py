"""Initializer of worker processes. Imports almost nothing, so that they start fast."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


def init_worker(niceness: int) -> None:
    """Ignores SIGINT, which the parent handles; exits when the parent dies.

    Args:
        niceness: added to the niceness of the process; 19: the lowest priority.
    """
    os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def exit_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=exit_with_parent, daemon=True).start()
