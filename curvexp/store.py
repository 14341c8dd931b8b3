"""A run's folder: written so that a kill loses nothing that was recorded, and read back as data frames.

    <run>/config.json        the resolved config
    <run>/summary.json       where the run stands, replaced as a whole at each change: the keys of SUMMARY and what the run adds
    <run>/metrics.jsonl      a line a record: step, seconds, and every scalar of the record
    <run>/spectrum.jsonl     a line a reading: step, eigenvalues, residuals, gradient_overlaps, complete, and what else was measured

A line is one write() to an append-only file, so that a killed run leaves whole lines and at most one torn one at the end. Numbers
stand as Python's json writes them, NaN and ±Infinity included. A stranger's folder is data: no link in it is followed, nothing in it
is run, and what cannot be read is told, not raised. No JAX here; pandas only where runs are read.
"""

import errno
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curvexp.errors import ConfigError
from curvexp.record import Record

if TYPE_CHECKING:
    import pandas as pd

SUMMARY = (  # keys that every summary has, null where they have no meaning
    *("status", "problem", "preprocess", "optim", "seed", "steps", "parameters", "loss", "loss_start", "rate", "rate_theory"),
    *("lambda_max", "lambda_min", "sharpness", "threshold", "condition_number", "condition_number_positive"),
    *("steps_to_target", "seconds", "reason", "lambda_max_start", "lambda_min_start", "sharpness_start"),
    *("condition_number_start", "condition_number_positive_start", "versions"),
)
TEXTS = ("status", "problem", "preprocess", "optim", "reason")  # the summary's texts; the rest of SUMMARY is numbers
ENDINGS = ("completed", "diverged", "interrupted", "failed", "skipped")
UNFINISHED = "running or killed: no end was recorded"
WITHIN_A_RUN = frozenset({".hydra", "wandb", "checkpoints"})  # folders of a run in which no other run is looked for
LARGEST_JSON = 2**24  # bytes of a summary or config that is still read
LARGEST_RECORDS = 2**30  # bytes of a .jsonl file that is still read
MOST_KEYS = 10_000  # keys of a summary, a config or a metrics file that are still read


class Runs(NamedTuple):
    """All runs of a folder as tidy data frames.

    Attributes:
        runs: a row a run.
            run: its folder, relative to the folder asked for.
            status: completed | diverged | interrupted | failed | skipped; `running` for a run without an end, which still runs or was
                killed; `unreadable` where a file of it is damaged or is not of a run.
            reason: why the status is what it is, or missing.
            the keys of SUMMARY and whatever else the summary holds, as <key> (nested: <key>.<key>); missing where null.
            config.<key>.<key>: the config's leaves; a list stands as its JSON text.
            records, last_step: number of lines read from metrics.jsonl, and the last one's step.
        metrics: a row a record: run, step, seconds, and a float64 column a scalar, NaN where a run does not have it.
        spectra: a row an eigenvalue of a reading: run, step, index (0 for the smallest that was measured), eigenvalue, residual,
            gradient_overlap (NaN where not measured), complete (whether the reading holds all eigenvalues, or the ends only).
    """

    runs: "pd.DataFrame"
    metrics: "pd.DataFrame"
    spectra: "pd.DataFrame"


class RunFolder:
    """A run's folder while the run lives: `start`, then `append` and `update`, then `finish`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.summary: dict[str, Any] = dict.fromkeys(SUMMARY)
        self._metrics: int | None = None
        self._spectrum: int | None = None
        self._refused = False

    def start(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Makes the folder and writes config and summary, with status `running`.

        Raises:
            ConfigError: the folder cannot be written, holds a run already, or config has a value that JSON has no form for.
        """
        self._refused = True
        text = _plain(config, "")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._metrics = _open(self.path / "metrics.jsonl", os.O_EXCL)
            self._refused = False
            self.update(**{**summary, "status": "running"})
            _replace(self.path / "config.json", text)
        except FileExistsError as error:
            raise ConfigError(
                f"hydra.run.dir={self.path}: expected a new folder, and {error.filename} exists. Choose another hydra.run.dir "
                "(hydra.sweep.dir for a sweep), or remove it."
            ) from error
        except OSError as error:
            raise ConfigError(
                f"hydra.run.dir={self.path}: cannot be written ({error.strerror}). Choose another hydra.run.dir "
                "(hydra.sweep.dir for a sweep)."
            ) from error

    def append(self, record: Record) -> None:
        """Writes a record; on return it survives the death of this process.

        Raises:
            OSError: it could not be written as a whole; the files then end with the record before.
        """
        assert self._metrics is not None, "append() comes after start()"
        reading = record.reading
        if reading is not None:
            line = {"step": record.step, "eigenvalues": reading.eigenvalues, "residuals": reading.residuals}
            if reading.gradient_overlaps is not None:
                line["gradient_overlaps"] = reading.gradient_overlaps
            if self._spectrum is None:
                self._spectrum = _open(self.path / "spectrum.jsonl", 0)
            _append(self._spectrum, {**line, "complete": reading.complete, **reading.extra})
        _append(self._metrics, {"step": record.step, "seconds": record.seconds, **record.scalars})

    def update(self, **fields: Any) -> None:
        """Sets these keys of the summary, and replaces the file as a whole."""
        self.summary |= _plain(fields, "")
        _replace(self.path / "summary.json", self.summary)

    def finish(self, *, status: str, **fields: Any) -> dict[str, Any]:
        """The summary as it was written for good: with this status, one of ENDINGS, and these keys.

        A run that ends before it was started is recorded too; one whose start was refused leaves the folder as it was.
        """
        if status not in ENDINGS:
            raise ValueError(f"status={status!r}: expected one of {', '.join(ENDINGS)}")
        if self._metrics is None and not self._refused:
            self.start({}, {})
        if self._refused:
            self.summary |= {"status": status, **_plain(fields, "")}
        else:
            self.update(status=status, **fields)
        for file in (self._metrics, self._spectrum):
            if file is not None:
                os.close(file)
        self._metrics = self._spectrum = None
        self._refused = True
        return dict(self.summary)


def load_runs(folder: str | Path) -> Runs:
    """All runs under a folder, of whatever depth, finished or not; `Runs` tells the columns.

    A run is a folder with a summary.json or a config.json. A torn last line is passed over: its record was never acknowledged. A
    damaged or foreign run is a row with status `unreadable` and the reason; its readable records are there.

    Raises:
        ConfigError: there is no such folder.
    """
    import pandas as pd

    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one with runs in it")
    root = root.resolve()
    rows, records, readings = [], _Metrics(), _Spectra()
    for path, problem in _folders(root):
        name = _clean(os.path.relpath(path, root))
        row = {"run": name, **({"status": "unreadable", "reason": problem} if problem else _read_run(path))}
        damage = [] if problem else [*records.read(path, name), *readings.read(path, name)]
        if damage:
            row |= {"status": "unreadable", "reason": f"{'; '.join(damage)} (status was {row['status']})"}
        steps = records.steps[-1] if records.names and records.names[-1] == name else []
        rows.append(row | {"records": len(steps), "last_step": steps[-1] if len(steps) else None})
    runs = pd.DataFrame(rows, columns=_columns(rows))
    for key in runs.columns.intersection([*SUMMARY, "records", "last_step"]):
        runs[key] = _texts(runs[key]) if key in TEXTS else _numbers(runs[key])
    return Runs(runs, records.frame(), readings.frame())


# ---- one file -------------------------------------------------------------------------------------------------------------------


def _open(path: Path, flags: int) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | flags, 0o666)


def _append(file: int, line: dict[str, Any]) -> None:
    """One line in one write; a partial one (a full disk) is taken back, so that the next cannot run into it."""
    data = (json.dumps(_plain(line, "")) + "\n").encode()
    written = os.write(file, data)
    if written != len(data):
        os.ftruncate(file, os.fstat(file).st_size - written)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _replace(path: Path, value: dict[str, Any]) -> None:
    """Writes JSON beside the file and puts it in its place, so that a reader sees the old one or the new one."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes((json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        os.replace(beside, path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def _plain(value: Any, key: str) -> Any:
    """The value in JSON's types: arrays as lists, paths as text.

    Raises:
        ConfigError: naming the key of a value that has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _plain(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{key}[{position}]") for position, item in enumerate(value)]
    if hasattr(value, "tolist"):
        array = np.asarray(value)
        if array.dtype.kind in "biuf" or array.dtype.name.startswith(("bfloat", "float")):
            return array.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ConfigError(f"{key}={value!r}: expected what JSON can hold, got {type(value).__name__}. Change {key}.")


class _Unreadable(Exception):
    """A file that is damaged, or not of a run; the text is the reason."""


def _read(path: Path, *, largest: int) -> bytes:
    """The bytes of a regular file; no link is followed, no pipe waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.open(path, flags)
    except OSError as error:
        why = "is a link, and links are not followed" if error.errno == errno.ELOOP else error.strerror
        raise _Unreadable(f"{path.name}: {why}") from error
    with open(file, "rb") as stream:
        about = os.fstat(file)
        if not stat.S_ISREG(about.st_mode):
            raise _Unreadable(f"{path.name}: not a regular file")
        if about.st_size > largest:
            raise _Unreadable(f"{path.name}: {about.st_size} bytes, more than {largest}")
        return stream.read()


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, flattened: {"a": {"b": 1}} as {"a.b": 1}, lists as JSON text."""
    try:
        value = json.loads(_read(path, largest=LARGEST_JSON))
        if not isinstance(value, dict):
            raise _Unreadable(f"{path.name}: expected a JSON object, got {type(value).__name__}")
        flat = dict(_leaves(value, ""))
    except (ValueError, RecursionError) as error:
        raise _Unreadable(f"{path.name}: not JSON ({type(error).__name__})") from error
    if len(flat) > MOST_KEYS:
        raise _Unreadable(f"{path.name}: {len(flat)} keys, more than {MOST_KEYS}")
    return flat


def _leaves(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = prefix + _clean(key)
        if isinstance(item, dict):
            yield from _leaves(item, f"{name}.")
        elif isinstance(item, list):
            yield name, _clean(json.dumps(item, ensure_ascii=False))
        else:
            yield name, _clean(item) if isinstance(item, str) else item


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The whole lines of a .jsonl file that are objects with a step, and what is wrong with it."""
    if not os.path.lexists(path):
        return [], []
    try:
        *lines, _ = _read(path, largest=LARGEST_RECORDS).split(b"\n")
    except _Unreadable as error:
        return [], [str(error)]
    try:  # as one document: three times as fast as line by line
        rows = json.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) != len(lines):
        rows = [_line(line) for line in lines]
    whole = [row for row in rows if isinstance(row, dict) and type(row.get("step")) is int and abs(row["step"]) < 2**62]
    damaged = len(lines) - len(whole)
    return whole, [f"{path.name}: {damaged} damaged line{'s' * (damaged > 1)}"] if damaged else []


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None
