"""What tests see of this machine holds while its other threads and tests go on."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

from support import my_children


def test_children_are_found_while_threads_come_and_go() -> None:
    """Found in CI: a thread of an earlier test ended while `/proc/self/task` was being read."""
    ended = threading.Event()

    def churn() -> None:
        while not ended.is_set():
            thread = threading.Thread(target=os.getpid)
            thread.start()
            thread.join()

    with (
        subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child,
        ThreadPoolExecutor(2) as pool,
    ):
        churning = [pool.submit(churn) for _ in range(2)]
        try:
            for _ in range(100):
                assert child.pid in my_children()
        finally:
            ended.set()
            child.communicate(b"\n")
    for one in churning:
        one.result()
    assert child.pid not in my_children()
