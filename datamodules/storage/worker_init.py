"""How a worker process begins. Imports next to nothing, so that it begins fast."""

import multiprocessing
import os
import signal
import threading
from multiprocessing import connection


def begin(niceness: int) -> None:
    """Ctrl-C is the parent's to answer; and where it is killed, nobody else would tell the process.

    Args:
        niceness: 19 takes only what others leave of the cores.
    """
    os.nice(niceness)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
