"""Time, CPU time and memory of a piece of work."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


def cold_and_warm(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return result, seconds of a second run, and peak memory of the first, when the allocator has no free blocks."""
    _, _, peak = timed(work)
    result, seconds, _ = timed(work)
    return result, seconds, peak


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return result, seconds, and peak extra resident memory in MB, sampled every few milliseconds."""
    before, peak, done = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not done.wait(0.003):
            peak[0] = max(peak[0], resident() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        began = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - began
    finally:  # otherwise the process would wait for its watcher after a failure
        done.set()
        watcher.join()
    return result, seconds, max(peak[0], resident() - before)


def resident() -> float:
    """Return the resident memory of this process in MB."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
