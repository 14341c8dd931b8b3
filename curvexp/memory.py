"""Memory that there is, and what is refused because it needs more: by its key, before anything is allocated."""

import math

from curvexp.errors import ConfigError


def device() -> float:
    """Bytes free on the default device; on a CPU those of the host; inf where nothing says it."""
    import jax

    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return float(stats["bytes_limit"] - stats.get("bytes_in_use", 0))
    return host()


def host() -> float:
    """Bytes free on this machine, within the limit of this process; inf where nothing says it."""
    return min(_free(), _limit())


def check(key: str, value: object, what: str, need: float, mend: str, *, on_host: bool = False) -> None:
    """Refuses what needs more bytes than are free.

    Args:
        key, value: what the person set. what: what takes the memory. mend: what to change, a sentence.
        on_host: it lies in the machine's memory, wherever the training runs.

    Raises:
        ConfigError: naming the key, the need and what is free, in GiB.
    """
    free = host() if on_host else device()
    if need > free:
        raise ConfigError(
            f"{key}={value}: {what} needs {need / 2**30:.3g} GiB, and {free / 2**30:.3g} GiB are free. {mend}"
        )


def _free() -> float:
    import psutil

    try:
        return float(psutil.virtual_memory().available)
    except (OSError, psutil.Error):
        return math.inf


def _limit() -> float:
    """What a limit on the address space of this process leaves."""
    import psutil

    process = psutil.Process()
    if not hasattr(process, "rlimit"):  # neither Linux nor FreeBSD
        return math.inf
    try:
        limit = process.rlimit(psutil.RLIMIT_AS)[0]
        return math.inf if limit == psutil.RLIM_INFINITY else max(0.0, float(limit - process.memory_info().vms))
    except (OSError, psutil.Error):
        return math.inf
