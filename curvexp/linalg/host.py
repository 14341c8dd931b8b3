"""The host beside XLA: LAPACK in one process with it, and the memory that there is."""

import contextlib
import functools
import math
from typing import Any

import jax
from threadpoolctl import ThreadpoolController

SMALL = 500  # rows up to which a second thread of the BLAS gains nothing


def threads(rows: int) -> contextlib.AbstractContextManager[Any]:
    """One thread for matrices of up to SMALL rows: more of them wait for XLA's, 0.17 s for the eigenvalues of a 100x100 matrix."""
    return _controller().limit(limits=1) if rows <= SMALL else contextlib.nullcontext()


@functools.cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


def free_memory() -> float:
    """Bytes that the default device has, on a CPU those that are free; inf where nothing says it."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    try:
        with open("/proc/meminfo") as file:
            return 1024.0 * next(int(line.split()[1]) for line in file if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return math.inf
