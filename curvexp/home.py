"""A home and a cache folder for libraries where the user has none: containers run so, and machines with a read-only home."""

import contextlib
import functools
import os
import stat
import tempfile
from pathlib import Path

import platformdirs


def ensure() -> None:
    """Sets HOME and XDG_CACHE_HOME to a temporary folder of the user's own where they cannot serve.

    HOME where no home can be told (no HOME, no entry in passwd), or the user may not enter it; XDG_CACHE_HOME where the user may not write
    the cache folder. Libraries look there for settings and caches, and some raise where they may not look.
    """
    try:
        home = Path.home()
    except RuntimeError:
        home = None
    if home is None or not os.access(_existing(home), os.X_OK):
        home = temporary()
        os.environ["HOME"] = str(home)
    if not os.access(_existing(platformdirs.user_cache_path()), os.W_OK | os.X_OK):
        os.environ["XDG_CACHE_HOME"] = str(temporary())


def cache_folder(name: str) -> Path:
    """A folder of curvexp's below the user's cache folder, made; a temporary one where that cannot be told or written."""
    with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: no HOME, and no entry of the user in passwd
        folder = platformdirs.user_cache_path("curvexp") / name
        if folder.is_absolute():  # of a home that cannot be told some versions leave the ~
            folder.mkdir(parents=True, exist_ok=True)
            if os.access(folder, os.W_OK | os.X_OK):
                return folder
    return temporary() / name


def has_name() -> bool:
    """Whether the system has a name for the user of this process."""
    try:
        import pwd
    except ImportError:  # Windows
        return True
    try:
        pwd.getpwuid(os.getuid())
    except KeyError:
        return False
    return True


def _existing(folder: Path) -> Path:
    """The folder, or the nearest above it that is there."""
    folder = folder.absolute()
    return next((part for part in (folder, *folder.parents) if os.path.lexists(part)), folder)


@functools.cache
def temporary() -> Path:
    """A temporary folder that all processes of this user share and no other user can write."""
    if hasattr(os, "getuid"):
        folder = Path(tempfile.gettempdir()) / f"curvexp-{os.getuid()}"
        with contextlib.suppress(OSError):
            folder.mkdir(mode=0o700, exist_ok=True)
            facts = folder.lstat()
            if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid() and not facts.st_mode & 0o022:
                return folder
    return Path(tempfile.mkdtemp(prefix="curvexp-"))
