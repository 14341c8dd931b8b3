"""The writing side: a run's folder while the run lives.

A line is one write() to an append-only file, so that a killed run leaves whole lines and at most one torn one at the end; the two
small files are replaced as a whole, so that a reader sees the old one or the new one.
"""

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import filelock
import numpy as np
import orjson

from curvexp.errors import ConfigError
from curvexp.quantities import QUANTITIES
from curvexp.record import Record
from curvexp.store import files

SUMMARY = (  # keys that every summary has, null where they have no meaning
    *("status", "problem", "preprocess", "optim", "operator", "seed", "steps", "parameters", "reason"),
    *(quantity.name for quantity in QUANTITIES if quantity.summary),
    *(f"{quantity.name}_start" for quantity in QUANTITIES if quantity.summary and quantity.start),
    "versions",
)
ENDINGS = ("completed", "diverged", "interrupted", "failed", "skipped")
LARGEST = 2**24  # bytes of a config or summary that is gone on from
DEEPEST = 50  # levels of it


class RecordError(OSError):
    """A record or the summary could not be written: a full disk, a folder turned read-only."""


class RunFolder:
    """A run's folder while the run lives: `start` or `take_up`, then `append` and `update`, then `finish`.

    While it lives it holds a lock on the folder, which the system takes back when the process dies.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.summary: dict[str, Any] = dict.fromkeys(SUMMARY)
        self._metrics: int | None = None
        self._spectrum: int | None = None
        self._sizes: dict[str, int] = {}  # of the files that grow by a line
        self._refused = False
        self._lock = filelock.FileLock(self.path / ".lock", timeout=0)

    def start(self, config: Mapping[str, Any], summary: Mapping[str, Any]) -> None:
        """Makes the folder and writes config and summary, with status `running`.

        Raises:
            ConfigError: the folder cannot be written, holds a run already, or config has a value that JSON has no form for.
        """
        plain = jsonable(config)
        self._refused = True
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._hold()
            self._metrics = self._grows(files.METRICS, os.O_EXCL)
            self.update(**{**summary, "status": "running"})
            _replace(self.path / files.CONFIG, plain)
            self._refused = False
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

    def take_up(self, config: Mapping[str, Any]) -> None:
        """Goes on in a folder that holds a run: its summary stays, with status `running`, and config takes the place of the recorded one.

        Raises:
            ConfigError: another process writes it, or it cannot be written.
        """
        plain = jsonable(config)
        self._refused = True
        try:
            self._hold()
            self.summary |= read_object(self.path / files.SUMMARY) or {}
            self.update(status="running", reason=None)
            _replace(self.path / files.CONFIG, plain)
            for name in files.RECORDS:
                if (self.path / name).exists():
                    self._sizes[name] = (self.path / name).stat().st_size
            self._metrics = self._grows(files.METRICS)
            self._refused = False
        except OSError as error:
            raise ConfigError(
                f"resume={self.path}: cannot be written ({error.strerror}). Make the folder writable, or copy it."
            ) from error

    def cut(self, sizes: Mapping[str, int]) -> None:
        """Takes the records' files back to these sizes in bytes, those not named to nothing, and what only an end leaves away."""
        for name in files.RECORDS:
            path, size = self.path / name, sizes.get(name, 0)
            if size == 0 and name != files.METRICS:
                path.unlink(missing_ok=True)
                self._sizes.pop(name, None)
            elif path.exists():
                os.truncate(path, size)
                self._sizes[name] = size
        for name in files.OF_AN_END:
            (self.path / name).unlink(missing_ok=True)

    def sizes(self) -> dict[str, int]:
        """Bytes of the records' files, for `cut`."""
        return dict(self._sizes)

    @property
    def left(self) -> bool:
        """Whether nothing is written."""
        return self._refused

    def leave(self) -> None:
        """Nothing will be written: what is in the folder is another's, and stays as it is."""
        self._refused = True

    def _hold(self) -> None:
        try:
            self._lock.acquire()
        except filelock.Timeout as error:
            raise ConfigError(
                f"{self.path}: another process writes this run; expected a folder of its own, or that process to end first."
            ) from error

    def _grows(self, name: str, flags: int = 0) -> int:
        """A file that grows by a line, opened."""
        file = _open(self.path / name, flags)
        self._sizes[name] = os.fstat(file).st_size
        return file

    def _append(self, name: str, file: int, line: dict[str, Any]) -> None:
        self._sizes[name] += _append(file, line)

    def append(self, record: Record) -> None:
        """Writes a record; on return it survives the death of this process.

        Raises:
            RecordError: it could not be written as a whole; the files then end with the record before.
        """
        assert self._metrics is not None, "append() comes after start()"
        reading = record.reading
        if reading is not None:
            line = {"step": record.step, "eigenvalues": reading.eigenvalues, "residuals": reading.residuals}
            if reading.gradient_overlaps is not None:
                line["gradient_overlaps"] = reading.gradient_overlaps
            if self._spectrum is None:
                with _recording():
                    self._spectrum = self._grows(files.SPECTRUM)
            self._append(files.SPECTRUM, self._spectrum, {**line, "complete": reading.complete, **reading.extra})
        self._append(files.METRICS, self._metrics, {"step": record.step, "seconds": record.seconds, **record.scalars})

    def keep(self, name: str, value: Mapping[str, Any]) -> None:
        """Writes a JSON file of this name into the folder, replaced as a whole.

        Raises:
            OSError: it cannot be written.
        """
        _replace(self.path / name, jsonable(value), indent=None)

    def update(self, **fields: Any) -> None:
        """Sets these keys of the summary, and replaces the file as a whole."""
        self.summary |= jsonable(fields)
        with _recording():
            _replace(self.path / files.SUMMARY, self.summary)

    def finish(self, *, status: str, **fields: Any) -> dict[str, Any]:
        """The summary as it was written for good: with this status, one of ENDINGS, and these keys.

        A run that ends before it was started is recorded too; one whose start was refused leaves the folder as it was.
        """
        if status not in ENDINGS:
            raise ValueError(f"status={status!r}: expected one of {', '.join(ENDINGS)}")
        if self._metrics is None and not self._refused:
            self.start({}, {})
        if self._refused:
            self.summary |= {"status": status, **jsonable(fields)}
        else:
            self.update(status=status, **fields)
        for file in (self._metrics, self._spectrum):
            if file is not None:
                os.close(file)
        self._metrics = self._spectrum = None
        self._refused = True
        self._lock.release()
        return dict(self.summary)


def read_object(path: Path) -> dict[str, Any] | None:
    """The JSON object in a file, or None: a link, a pipe, what is too large or too deep, or no object."""
    try:
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode) or facts.st_size > LARGEST:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) and _shallow(found) else None


def _shallow(value: Any) -> bool:
    """Whether no part lies deeper than DEEPEST levels."""
    level = [value]
    for _ in range(DEEPEST):
        inner = [part.values() if isinstance(part, dict) else part for part in level if isinstance(part, dict | list)]
        level = [part for parts in inner for part in parts]
    return not level


@contextlib.contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """A new file beside this one, to be written, which then takes its place as a whole; a link that stands at either is not followed.

    Raises:
        OSError: it cannot be made or put in place; what was written is gone then.
    """
    beside, file = _new(path)
    os.close(file)
    with _put(beside, path):
        yield beside


def _new(path: Path) -> tuple[Path, int]:
    """A new file beside this one, opened; one of a killed process, or a stranger's, that stands there is taken away."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
    try:
        return beside, os.open(beside, flags, 0o666)
    except FileExistsError:
        beside.unlink()
        return beside, os.open(beside, flags, 0o666)


@contextlib.contextmanager
def _put(beside: Path, path: Path) -> Iterator[None]:
    """Puts a file in the place of another once it is written; it goes where that fails."""
    try:
        yield
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _open(path: Path, flags: int) -> int:
    flags |= os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    return os.open(path, flags, 0o666)


def _append(file: int, line: dict[str, Any]) -> int:
    """One line in one write, and its bytes; a partial one (a full disk) is taken back, so that the next cannot run into it."""
    data = _encoded(line) + b"\n"
    with _recording():
        written = os.write(file, data)
        if written != len(data):
            os.ftruncate(file, os.fstat(file).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return written


def _encoded(line: dict[str, Any]) -> bytes:
    """JSON in one line: by orjson, in a tenth of the time. It writes NaN and Infinity as null, has no integers of more than 64 bits, and
    leaves what is not ASCII as it is: such lines are left to json."""
    with contextlib.suppress(TypeError):
        data = orjson.dumps(line, default=_part)
        if data.count(b"null") == _nones(line) and data.isascii():
            return data
    return json.dumps(jsonable(line)).encode()


def _part(value: Any) -> Any:
    """What orjson has no form for: arrays, NaN and Infinity in them as the standard library writes them."""
    found = value.item() if isinstance(value, np.floating | np.integer | np.bool_) else jsonable(value)
    if isinstance(value, np.ndarray | np.generic) and value.dtype.kind == "f" and not np.isfinite(value).all():
        infinite = np.isinf(value).any()
        text = json.dumps(found).encode() if infinite else orjson.dumps(found).replace(b"null", b"NaN")
        return orjson.Fragment(text)
    return found


def _nones(value: Any) -> int:
    if isinstance(value, dict):
        return sum(map(_nones, value.values()))
    return sum(map(_nones, value)) if isinstance(value, list | tuple) else value is None


@contextlib.contextmanager
def _recording() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise RecordError(error.errno, error.strerror, error.filename) from error


def _replace(path: Path, value: dict[str, Any], indent: int | None = 2) -> None:
    """Writes JSON beside the file and puts it in its place, so that a reader sees the old one or the new one."""
    text = json.dumps(value, indent=indent, ensure_ascii=False) + "\n"
    beside, file = _new(path)
    with _put(beside, path), open(file, "wb") as opened:
        opened.write(text.encode("utf-8", "backslashreplace"))


def jsonable(value: Any, key: str = "") -> Any:
    """The value in JSON's types: arrays as lists, paths as text.

    Raises:
        ConfigError: naming the key of a value that has no such form.
    """
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): jsonable(item, f"{key}.{name}" if key else str(name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item, f"{key}[{position}]") for position, item in enumerate(value)]
    if hasattr(value, "tolist"):
        array = np.asarray(value)
        if array.dtype.kind in "biuf" or array.dtype.name.startswith(("bfloat", "float")):
            return array.tolist()
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ConfigError(f"{key}={value!r}: expected what JSON can hold, got {type(value).__name__}. Change {key}.")
