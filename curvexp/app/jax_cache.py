"""JAX's settings of a job: its precision, and where compiled programs are kept."""

import contextlib
import os
from pathlib import Path

from curvexp import home

CACHE_BYTES = 2**28  # of compiled programs, some thousands


def prepare_jax(precision: str) -> None:
    """Sets the precision of this job, and JAX's compilation cache: jobs of one process share these flags, so each sets them.

    The cache lies in the user's cache folder, or where there is none in a temporary one of the user's own, and holds CACHE_BYTES, the least
    recently used going first, under a lock that parallel jobs share. JAX's own variables decide otherwise:
    JAX_ENABLE_COMPILATION_CACHE=false for none, JAX_COMPILATION_CACHE_DIR for another folder, which is then left as JAX treats it,
    JAX_COMPILATION_CACHE_MAX_SIZE for another size in bytes, -1 for no bound.
    """
    import jax

    if jax.config.values["jax_enable_compilation_cache"] and jax.config.values["jax_compilation_cache_dir"] is None:
        folder = home.cache_folder("programs")
        jax.config.update("jax_compilation_cache_dir", str(folder))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
        if "JAX_COMPILATION_CACHE_MAX_SIZE" not in os.environ:  # JAX's eviction asks for the name of each file's owner
            jax.config.update("jax_compilation_cache_max_size", CACHE_BYTES if home.has_name() else -1)
        with contextlib.suppress(OSError):  # JAX then warns, and compiles
            _mend_cache(folder)
    jax.config.update("jax_enable_x64", precision == "float64")


def _mend_cache(folder: Path) -> None:
    """Dates entries without a date, which a kill between the two leaves: JAX's eviction stops at one. Where JAX evicts nothing, and the
    cache is full, it is emptied."""
    if not home.has_name() and folder.is_dir():
        entries = list(os.scandir(folder))
        if sum(entry.stat().st_size for entry in entries) > CACHE_BYTES:
            for entry in entries:
                os.unlink(entry.path)
    names = {entry.name for entry in os.scandir(folder)} if folder.is_dir() else set()
    for name in names:
        if name.endswith("-cache") and f"{name.removesuffix('-cache')}-atime" not in names:
            (folder / f"{name.removesuffix('-cache')}-atime").write_bytes(bytes(8))
