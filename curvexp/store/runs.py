"""The reading side: all runs of a folder as tidy data frames.

A stranger's folder is data: no link in it is followed, nothing in it is run, and what cannot be read is told, not raised.
"""

import contextlib
import gc
import operator
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from curvexp.errors import ConfigError
from curvexp.store import files
from curvexp.store.folder import ENDINGS, SUMMARY
from curvexp.store.untrusted import (
    MOST_KEYS,
    Unreadable,
    clean,
    floats,
    operator_in,
    read_json,
    read_lines,
    run_folders,
)

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
        for path, problem in run_folders(root):
            name = clean(os.path.relpath(path, root))
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
            runs[key] = _whole(floats(runs[key].tolist()))
    return Runs(runs, metrics.frame(), spectra.frame())


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
        rows, damage = read_lines(path / files.METRICS)
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
            {clean(key): floats(column) for key, column in zip(names, _columns_of(rows, names), strict=True)}
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
        rows, damage = read_lines(path / files.SPECTRUM)
        odd = 0
        for row in rows:
            parts = [row.get(key) for key in ("eigenvalues", "residuals", "gradient_overlaps")]
            arrays = [floats(part) for part in parts if isinstance(part, list)]
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


def _read_run(path: Path) -> dict[str, Any]:
    """A run's summary, and its config as config.<key>: status `unreadable` and the reason where one of them is not readable."""
    row: dict[str, Any] = {}
    try:
        row = read_json(path / files.SUMMARY)
        if row.get("status") not in (*ENDINGS, "running"):
            raise Unreadable(f"summary.json: not of a run, its status is {str(row.get('status'))[:50]!r}")
        if row["status"] == "running" and row.get("reason") is None:
            row["reason"] = UNFINISHED
        row |= {f"config.{key}": value for key, value in read_json(path / files.CONFIG).items()}
    except Unreadable as error:
        row |= {"status": "unreadable", "reason": str(error)}
    return row


def _columns(rows: list[dict[str, Any]]) -> list[str]:
    """Who it is and how it went first, the config last."""
    keys = dict.fromkeys(["run", *SUMMARY[:-1], "records", "last_step", *(key for row in rows for key in row)])
    return sorted(keys, key=lambda key: key.startswith("config."))


def _whole(values: np.ndarray) -> np.ndarray:
    """The values as int64 where that loses nothing."""
    exact = np.isfinite(values).all() and (np.abs(values) < 2**53).all() and (values == np.floor(values)).all()
    return values.astype(np.int64) if exact else values
