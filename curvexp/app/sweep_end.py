"""The end of a sweep: its table and page, its exit code, and the jobs that were left without an end."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any, NamedTuple

from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from curvexp import console
from curvexp.app import keys, resume, supervisor
from curvexp.errors import ConfigError
from curvexp.store import RunFolder, ending, files


class Begun(NamedTuple):
    """What Hydra runs: its config, when it began, and whether its sweep's folder was made for it."""

    config: DictConfig
    since: float
    new: bool = True


class ReportAtEnd(Callback):
    """Hydra's callback: a sweep ends in the table over its jobs, and in the exit code 1 if one of them failed."""

    failed = 0
    refused = 0  # jobs that left no trace, as the sweeper counts them
    begun: Begun | None = None
    line: str | None = None  # the command that goes on with the sweep, where its sweeper has the same jobs again

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Knows where the job will be."""
        ReportAtEnd.begun = Begun(config, time.time())

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Counts anew."""
        ReportAtEnd.failed, ReportAtEnd.refused, ReportAtEnd.line = 0, 0, None
        folder = Path(str(config.hydra.sweep.dir))
        ReportAtEnd.begun = Begun(config, time.time(), not folder.exists())
        sweeper, launcher = (str(config.hydra[part].get("_target_")) for part in ("sweeper", "launcher"))
        supervisor.began(folder, sweeper=sweeper, launcher=launcher, line=resume.of_sweep(config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Prints and writes the report of the sweep's folder."""
        report(Path(str(config.hydra.sweep.dir)))
        supervisor.note(code=int(ReportAtEnd.failed + ReportAtEnd.refused > 0))


def stopped(reason: str) -> bool:
    """Records the end of every job that what stopped Hydra left without one, and reports on a sweep; whether a job was begun.

    A sweep's folder without a job is taken away again.
    """
    if ReportAtEnd.begun is None:
        return False
    (config, since, new), ReportAtEnd.begun = ReportAtEnd.begun, None
    sweep = config.hydra.mode == RunMode.MULTIRUN
    folder = Path(str(config.hydra.sweep.dir if sweep else config.hydra.run.dir))
    made = [folder] if folder.is_dir() else []
    if sweep:
        beside = str(config.hydra.output_subdir)
        inside = [Path(path) for path, _, _ in os.walk(folder)]
        made = [path for path in inside if (path / beside).is_dir() or not any(path.iterdir())]
    made = [path for path in made if not any((path / name).exists() for name in files.MARKS)]
    for path in made:
        store = RunFolder(path)
        chosen = config.hydra.runtime.choices
        store.start(_plain(config), {key: str(chosen.get(key)) for key in ("problem", "preprocess", "optim", "probe")})
        store.finish(status="failed", reason=reason)
    if not sweep:
        return bool(made)
    left = ending.unfinished(folder, since)
    ending.end(left, reason)
    if made or left or _recorded(folder, since):
        report(folder)
        if ReportAtEnd.line:
            retry = " retry=failed" * bool(made or left)
            console.err().print(f"Go on with it: {console.printable(ReportAtEnd.line)}{retry}")
        return True
    if new and folder.is_dir() and [path.name for path in folder.iterdir()] == ["multirun.yaml"]:
        (folder / "multirun.yaml").unlink()
        with contextlib.suppress(OSError):  # its parents as far as nothing else is in them
            os.removedirs(folder)
    return False


def _recorded(folder: Path, since: float) -> bool:
    """Whether a job under the folder was recorded since then."""
    summaries = (Path(path) / files.SUMMARY for path, _, names in os.walk(folder) if files.SUMMARY in names)
    return any(path.stat().st_mtime >= since - 1 for path in summaries)


def _plain(config: DictConfig) -> dict[str, Any]:
    try:
        return keys.plain(config)
    except ConfigError:
        return {}


def report(folder: Path) -> None:
    """The sweep's table, on the screen and in its folder; counts its failed jobs, and as one more a table that cannot be made."""
    from curvexp.report import summarize
    from curvexp.store import load_runs

    if not folder.is_dir():
        return
    try:
        found = load_runs(folder)
        ReportAtEnd.failed = int((found.runs["status"] == "failed").sum())
        summarize(folder, console.out(), page=True, found=found)
    except Exception as error:
        ReportAtEnd.failed += 1
        console.refuse(
            f"the report was not made: {type(error).__name__}: {error}. Try python -m curvexp.report {folder}"
        )
