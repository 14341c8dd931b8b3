"""The end of runs whose process died: found in a sweep's folder, and recorded there."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import filelock

from curvexp.errors import ConfigError
from curvexp.store import files
from curvexp.store.folder import RunFolder, read_object


def unfinished(sweep: Path, since: float) -> list[Path]:
    """Folders of a sweep's runs that were begun, did not end, and are written by no living process.

    Args:
        sweep: the folder. since: seconds since 1970; a run that was left like that before is not among them.
    """
    found = []
    for folder, _, names in os.walk(sweep):
        run = Path(folder)
        if files.SUMMARY not in names or (read_object(run / files.SUMMARY) or {}).get("status") != "running":
            continue
        with contextlib.suppress(OSError):
            if (run / files.SUMMARY).stat().st_mtime >= since - 1 and not _is_written(run):
                found.append(run)
    return sorted(found, key=lambda run: (len(run.name), run))


def end(runs: Sequence[Path], reason: str, traceback: str = "") -> bool:
    """Records these runs as failed; whether all of them could be.

    Args:
        runs: from `unfinished`. reason: of the summary. traceback: for traceback.txt, where there is one.
    """
    ended = True
    for run in runs:
        store = RunFolder(run)
        try:
            store.take_up(read_object(run / files.CONFIG) or {})
            if traceback:
                (run / files.TRACEBACK).write_text(traceback, encoding="utf-8")
            store.finish(status="failed", reason=reason)
        except (ConfigError, OSError):  # another process took it up meanwhile, or the disk is full
            ended = False
    return ended


def _is_written(run: Path) -> bool:
    """Whether a living process writes this run.

    Raises:
        OSError: it cannot be told.
    """
    lock = filelock.FileLock(run / ".lock", timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        return True
    lock.release()
    return False
