"""The reading side: all runs of a folder as tidy data frames.

A stranger's folder is data: no link in it is followed, nothing in it is run, and what cannot be read is told, not raised.
"""

import contextlib
import errno
import gc
import itertools
import json
import operator
import os
import re
import stat
from collections.abc import Iterator, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import orjson

from curvexp.errors import ConfigError
from curvexp.store.folder import ENDINGS, SUMMARY

if TYPE_CHECKING:
    import pandas as pd

TEXTS = (
    "status",
    "problem",
    "preprocess",
    "optim",
    "operator",
    "reason",
)  # the summary's texts; the rest of SUMMARY is numbers
UNFINISHED = "running or killed: no end was recorded"
MARKS = ("summary.json", "config.json", "metrics.jsonl")  # a folder with one of these is a run
PARTS_OF_A_RUN = frozenset({".hydra", "wandb", "checkpoints"})  # its folders in which no other run is looked for
LARGEST_JSON = 2**24  # bytes of a summary or config that is still read
LARGEST_RECORDS = 2**30  # bytes of a .jsonl file that is still read
MOST_KEYS = (
    10_000  # keys of a summary, a config or a metrics file that are still read; and of all runs of a folder together
)
LONGEST_KEY = 1000  # characters of one, with those above it
MOST_LINES = 10**7  # of a .jsonl file that are still read
MOST_NUMBERS = 2**29  # of the metrics of a folder: records times scalars


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
            gradient_overlap (NaN where not measured), complete (whether the reading holds all eigenvalues, or the ends only),
            operator (whose eigenvalues they are: hessian, ggn or fisher).
    """

    runs: "pd.DataFrame"
    metrics: "pd.DataFrame"
    spectra: "pd.DataFrame"


def load_runs(folder: str | Path) -> Runs:
    """All runs under a folder, of whatever depth, finished or not; `Runs` tells the columns.

    A run is a folder with a summary.json, config.json or metrics.jsonl. A torn last line is passed over: its record was never
    acknowledged. A damaged or foreign run is a row with status `unreadable` and the reason; its readable records are there.

    Raises:
        ConfigError: there is no such folder.
    """
    import pandas as pd

    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one with runs in it")
    root = root.resolve()
    rows, metrics, spectra = [], _Metrics(), _Spectra()
    keys: set[str] = set()
    with _uncollected():
        for path, problem in _folders(root):
            name = _clean(os.path.relpath(path, root))
            row: dict[str, Any] = {"status": "unreadable", "reason": problem}
            if problem is None:
                row = _read_run(path)
                if len(keys | row.keys()) > MOST_KEYS:
                    row = {"status": "unreadable", "reason": f"with it the runs have more than {MOST_KEYS} keys"}
                keys |= row.keys()
                steps, damage = metrics.read(path, name)
                damage += spectra.read(path, name)
                if damage and row["status"] != "unreadable":
                    row |= {"status": "unreadable", "reason": f"{'; '.join(damage)} (the summary says {row['status']})"}
                row |= {"records": len(steps), "last_step": int(steps[-1]) if len(steps) else None}
            rows.append(row | {"run": name})
    runs = pd.DataFrame(rows, columns=_columns(rows))
    for key in runs.columns.intersection([*SUMMARY, "records", "last_step"]):
        if key in TEXTS:
            runs[key] = runs[key].map(str, na_action="ignore").astype("str")
        else:
            runs[key] = _whole(_floats(runs[key].tolist()))
    return Runs(runs, metrics.frame(), spectra.frame())


LEDGER = {  # keys of a reading's ledger, and the columns that they become
    "eigenvalues": "eigenvalue",
    "residuals": "residual",
    **{name: name for name in ("gradient_share", "loss_along", "loss_share", "contraction", "contraction_theory")},
}


def load_ledger(folder: str | Path) -> "pd.DataFrame":
    """The ledgers of all runs under a folder, a row a tracked direction of a reading; docs/ledger.md tells the columns.

    run, step, since (the record that the contraction is measured from), operator, loss_from, index (0 for the smallest eigenvalue that was
    measured), and the columns of LEDGER, NaN where unknown. A line without a ledger, or with a damaged one, has no row.

    Raises:
        ConfigError: there is no such folder.
    """
    import pandas as pd

    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one with runs in it")
    root, frames = root.resolve(), []
    for path, problem in _folders(root):
        for row in _read_lines(path / "spectrum.jsonl")[0] if problem is None else []:
            found = row.get("ledger")
            if not isinstance(found, dict):
                continue
            arrays = [_floats(found[key]) for key in LEDGER if isinstance(found.get(key), list)]
            sizes = {len(array) for array in arrays}
            if len(arrays) != len(LEDGER) or len(sizes) != 1 or 0 in sizes:
                continue
            name = _clean(os.path.relpath(path, root))
            head = {"run": name, "step": row["step"], "since": _float(found.get("since"))}
            head |= {key: _clean(str(found.get(key))) for key in ("operator", "loss_from")}
            columns = dict(zip(LEDGER.values(), arrays, strict=True))
            frames.append(pd.DataFrame({**head, "index": np.arange(len(arrays[0])), **columns}))
    names = ["run", "step", "since", "operator", "loss_from", "index", *LEDGER.values()]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=names)


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without garbage collection: parsed JSON has no cycles, and looking for them costs a third of the reading."""
    on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if on:
            gc.enable()


class _Metrics:
    """The metrics of many runs, gathered and then put into one frame."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[np.ndarray] = []
        self.columns: list[dict[str, np.ndarray]] = []
        self.keys: set[str] = set()
        self.records = 0

    def read(self, path: Path, name: str) -> tuple[np.ndarray, list[str]]:
        """The steps of a run's records, and what is wrong with its file."""
        rows, damage = _read_lines(path / "metrics.jsonl")
        keys = dict.fromkeys(rows[0] if rows else ()) | dict.fromkeys(sorted(set().union(*rows)))
        if len(keys) > MOST_KEYS:
            return np.empty(0, np.int64), [f"metrics.jsonl: {len(keys)} scalars, more than {MOST_KEYS}"]
        together = self.keys | keys.keys()
        if len(together) > MOST_KEYS or (self.records + len(rows)) * len(together) > MOST_NUMBERS:
            return np.empty(0, np.int64), ["metrics.jsonl: with it the folder has more numbers than are read"]
        self.keys, self.records = together, self.records + len(rows)
        self.names.append(name)
        self.steps.append(np.array([row["step"] for row in rows], np.int64))
        names = [key for key in keys if key != "step"]
        self.columns.append(
            {_clean(key): _floats(column) for key, column in zip(names, _columns_of(rows, names), strict=True)}
        )
        return self.steps[-1], damage

    def frame(self) -> "pd.DataFrame":
        """The columns run, step, seconds, and one a scalar."""
        import pandas as pd

        counts = [len(steps) for steps in self.steps]
        ends = np.cumsum(counts)
        runs = np.repeat(np.array(self.names, object), counts)
        frame = {"run": runs, "step": np.concatenate([*self.steps, np.empty(0, np.int64)])}
        for key in dict.fromkeys(["seconds", *(key for columns in self.columns for key in columns)]):
            frame[key] = np.full(len(runs), np.nan)
            for columns, count, end in zip(self.columns, counts, ends, strict=True):
                if key in columns:
                    frame[key][end - count : end] = columns[key]
        return pd.DataFrame(frame | {"run": runs})


def _columns_of(rows: list[dict[str, Any]], names: list[str]) -> list[Sequence[Any]]:
    """The values of each name, None where a row has it not."""
    try:  # as a rule each row has every name
        return [list(map(operator.itemgetter(name), rows)) for name in names]
    except KeyError:
        return [[row.get(name) for row in rows] for name in names]


class _Spectra:
    """The spectra of many runs, gathered and then put into one frame, a row an eigenvalue."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.steps: list[int] = []
        self.complete: list[bool] = []
        self.operators: list[str] = []
        self.values: list[np.ndarray] = []

    def read(self, path: Path, name: str) -> list[str]:
        """Gathers a run's readings; what is wrong with its file."""
        rows, damage = _read_lines(path / "spectrum.jsonl")
        odd = 0
        for row in rows:
            parts = [row.get(key) for key in ("eigenvalues", "residuals", "gradient_overlaps")]
            arrays = [_floats(part) for part in parts if isinstance(part, list)]
            if not isinstance(parts[0], list) or len({len(array) for array in arrays}) != 1:
                odd += 1
                continue
            missing = np.full(len(arrays[0]), np.nan)
            found = iter(arrays)
            self.values.append(np.stack([next(found) if isinstance(part, list) else missing for part in parts]))
            self.names.append(name)
            self.steps.append(row["step"])
            self.complete.append(row.get("complete") is True)
            self.operators.append(operator_in(row))
        return [*damage, *([f"spectrum.jsonl: {odd} lines without a spectrum"] if odd else [])]

    def frame(self) -> "pd.DataFrame":
        """The columns run, step, index, eigenvalue, residual, gradient_overlap, complete, operator."""
        import pandas as pd

        counts = [values.shape[1] for values in self.values]
        values = np.concatenate([*self.values, np.empty((3, 0))], axis=1)
        return pd.DataFrame(
            {
                "run": np.repeat(np.array(self.names, object), counts),
                "step": np.repeat(np.array(self.steps, np.int64), counts),
                "index": np.concatenate([*map(np.arange, counts), np.empty(0, np.int64)]),
                "eigenvalue": values[0],
                "residual": values[1],
                "gradient_overlap": values[2],
                "complete": np.repeat(np.array(self.complete, bool), counts),
                "operator": np.repeat(np.array(self.operators, object), counts),
            }
        )


def operator_in(row: dict[str, Any]) -> str:
    """The operator that a line of spectrum.jsonl is of; the Hessian where the line does not say it."""
    found = row.get("operator")
    return _clean(found) if isinstance(found, str) else "hessian"


# ---- one run --------------------------------------------------------------------------------------------------------------------


def _folders(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Every run's folder under root in natural order, and every folder that cannot be listed, with the reason."""
    for folder, found, problem in _listed(root):
        if problem is not None or not found.isdisjoint(MARKS):
            yield folder, problem


def named(root: Path, name: str) -> Iterator[Path]:
    """Every file of this name under root, in natural order of folders; it may be a link, or no file at all."""
    for folder, found, _ in _listed(root):
        if name in found:
            yield folder / name


def _listed(root: Path) -> Iterator[tuple[Path, Set[str], str | None]]:
    """Every folder under root with the names in it, or why it cannot be listed; no link is followed, however deep it goes."""
    waiting = [str(root)]
    while waiting:
        folder = waiting.pop()
        try:
            with os.scandir(folder) as entries:
                found = {entry.name: entry.is_dir(follow_symlinks=False) for entry in entries}
        except OSError as error:
            yield Path(folder), set(), f"cannot be listed: {error.strerror}"
            continue
        run = not found.keys().isdisjoint(MARKS)
        yield Path(folder), found.keys(), None
        inner = [name for name, is_folder in found.items() if is_folder and not (run and name in PARTS_OF_A_RUN)]
        waiting.extend(os.path.join(folder, name) for name in sorted(inner, key=_natural, reverse=True))


def _natural(name: str) -> list[tuple[int, str]]:
    """A sort key that puts 10 after 9."""
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"([0-9]{1,18})", name)]


def _read_run(path: Path) -> dict[str, Any]:
    """A run's summary, and its config as config.<key>: status `unreadable` and the reason where one of them is not readable."""
    row: dict[str, Any] = {}
    try:
        row = _read_json(path / "summary.json")
        if row.get("status") not in (*ENDINGS, "running"):
            raise Unreadable(f"summary.json: not of a run, its status is {str(row.get('status'))[:50]!r}")
        if row["status"] == "running" and row.get("reason") is None:
            row["reason"] = UNFINISHED
        row |= {f"config.{key}": value for key, value in _read_json(path / "config.json").items()}
    except Unreadable as error:
        row |= {"status": "unreadable", "reason": str(error)}
    return row


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Who it is and how it went first, the config last."""
    keys = dict.fromkeys(["run", *SUMMARY[:-1], "records", "last_step", *(key for row in rows for key in row)])
    return sorted(keys, key=lambda key: key.startswith("config."))


class Unreadable(Exception):
    """A file that is damaged, or not of a run; the text is the reason."""


def read(path: Path, *, largest: int) -> bytes:
    """The bytes of a regular file; no link is followed, no pipe waited for."""
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        file = os.open(path, flags)
    except OSError as error:
        why = "is a link, and links are not followed" if error.errno == errno.ELOOP else error.strerror
        raise Unreadable(f"{path.name}: {why}") from error
    about = os.fstat(file)
    if not stat.S_ISREG(about.st_mode) or about.st_size > largest:
        os.close(file)
        regular = stat.S_ISREG(about.st_mode)
        raise Unreadable(f"{path.name}: " + (f"over {largest} bytes" if regular else "not a regular file"))
    with open(file, "rb") as stream:
        return stream.read()


def _read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file, flattened: {"a": {"b": 1}} as {"a.b": 1}, lists as JSON text."""
    try:
        value = json.loads(read(path, largest=LARGEST_JSON))
        if not isinstance(value, dict):
            raise Unreadable(f"{path.name}: expected a JSON object, got {type(value).__name__}")
        flat = dict(itertools.islice(_leaves(value, ""), MOST_KEYS + 1))
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"{path.name}: not JSON ({type(error).__name__})") from error
    if len(flat) > MOST_KEYS:
        raise Unreadable(f"{path.name}: more than {MOST_KEYS} keys")
    return flat


def _leaves(value: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, item in value.items():
        name = prefix + _clean(key)
        if len(name) > LONGEST_KEY:
            raise Unreadable(f"the key {name[:50]}… has more than {LONGEST_KEY} characters")
        if isinstance(item, dict):
            yield from _leaves(item, f"{name}.")
        elif isinstance(item, list):
            yield name, _clean(json.dumps(item, ensure_ascii=False))
        else:
            huge = type(item) is int and not -(2**63) <= item < 2**63
            yield name, _clean(item) if isinstance(item, str) else _float(item) if huge else item


def _read_lines(path: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The whole lines of a .jsonl file that are objects with a step, and what is wrong with it."""
    if not os.path.lexists(path):
        return [], []
    try:
        content = read(path, largest=LARGEST_RECORDS)
        if content.count(b"\n") > MOST_LINES:
            raise Unreadable(f"{path.name}: over {MOST_LINES} lines")
        *lines, _ = content.split(b"\n")
    except Unreadable as error:
        return [], [str(error)]
    try:  # as one document: many times as fast as line by line; orjson takes no NaN and no half of a surrogate pair, json does
        rows = orjson.loads(b"[" + b",".join(lines) + b"]")
    except (ValueError, RecursionError):
        rows = []
    if len(rows) != len(lines):
        rows = [_line(line) for line in lines]
    whole = rows if _all_whole(rows) else [row for row in rows if _all_whole([row])]
    damaged = len(lines) - len(whole)
    return whole, [f"{path.name}: {damaged} damaged line{'s' * (damaged > 1)}"] if damaged else []


def _all_whole(rows: list[Any]) -> bool:
    """Whether all are objects with a step that 64 bits hold."""
    if not set(map(type, rows)) <= {dict}:
        return False
    try:
        steps = list(map(operator.itemgetter("step"), rows))
    except KeyError:
        return False
    return set(map(type, steps)) <= {int} and (not steps or -(2**62) < min(steps) <= max(steps) < 2**62)


def _line(line: bytes) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


# ---- values ---------------------------------------------------------------------------------------------------------------------


def _clean(text: str) -> str:
    """The text as valid Unicode: file names and JSON escapes can hold halves of surrogate pairs, which no writer accepts."""
    return text.encode("utf-8", "replace").decode()


def _floats(values: Sequence[Any]) -> np.ndarray:
    """float64, (len(values),): NaN for what is no number."""
    try:
        array = np.array(values, np.float64)  # None becomes NaN
        if array.ndim == 1:
            return array
    except (ValueError, TypeError, OverflowError):
        pass
    return np.array([_float(value) for value in values], np.float64)


def _whole(values: np.ndarray) -> np.ndarray:
    """The values as int64 where that loses nothing."""
    exact = np.isfinite(values).all() and (np.abs(values) < 2**53).all() and (values == np.floor(values)).all()
    return values.astype(np.int64) if exact else values


def _float(value: Any) -> float:
    if not isinstance(value, int | float):
        return np.nan
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf
