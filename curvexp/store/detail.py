"""What some runs have beyond scalars and eigenvalues: ledgers, densities, spectra by block, the loss on planes through parameter space."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from curvexp.errors import ConfigError
from curvexp.store import files
from curvexp.store.untrusted import (
    LARGEST_JSON,
    Unreadable,
    clean,
    floats,
    operator_in,
    read,
    read_lines,
    run_folders,
    to_float,
)

if TYPE_CHECKING:
    import pandas as pd

MOST_GRID = 501  # points a side of a plane that is still read
MOST_PLANES = 8  # of a run that are still read


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
    for path, problem in run_folders(root):
        for row in read_lines(path / files.SPECTRUM)[0] if problem is None else []:
            found = row.get("ledger")
            if not isinstance(found, dict):
                continue
            arrays = [floats(found[key]) for key in LEDGER if isinstance(found.get(key), list)]
            sizes = {len(array) for array in arrays}
            if len(arrays) != len(LEDGER) or len(sizes) != 1 or 0 in sizes:
                continue
            name = clean(os.path.relpath(path, root))
            head = {"run": name, "step": row["step"], "since": to_float(found.get("since"))}
            head |= {key: clean(str(found.get(key))) for key in ("operator", "loss_from")}
            columns = dict(zip(LEDGER.values(), arrays, strict=True))
            frames.append(pd.DataFrame({**head, "index": np.arange(len(arrays[0])), **columns}))
    names = ["run", "step", "since", "operator", "loss_from", "index", *LEDGER.values()]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame(columns=names)


def load_densities(folder: str | Path) -> "pd.DataFrame":
    """The spectral densities of all runs under a folder, a row a point: run, step, x, density, stderr, operator.

    density is per unit of eigenvalue and integrates to 1; stderr is its standard error (NaN where not measured); operator is whose
    eigenvalues are meant: hessian, ggn or fisher. What is no density is passed over.

    Raises:
        ConfigError: there is no such folder.
    """
    parts = []
    for path, name in _runs(folder):
        for row in read_lines(path / files.SPECTRUM)[0]:
            if (curve := _curve(row.get("density"))) is not None:
                parts.append({"run": name, "step": row["step"], **curve, "operator": operator_in(row)})
    return _long(parts, ["run", "step", "x", "density", "stderr", "operator"])


def load_blocks(folder: str | Path) -> "pd.DataFrame":
    """The spectra by block of all runs under a folder (probe=blocks), a row an eigenvalue.

    run, step, block (its name), index (0 for the smallest that was measured), eigenvalue, residual, size (parameters of the block), missed
    (upper bound of the probability that one of the block's was missed), operator (hessian, ggn or fisher). What is no block is passed over.

    Raises:
        ConfigError: there is no such folder.
    """
    parts = []
    for name, row, block, found in _blocks(folder):
        arrays = [floats(found[key]) for key in ("eigenvalues", "residuals") if isinstance(found.get(key), list)]
        if len(arrays) == 2 and len(arrays[0]) == len(arrays[1]):
            columns = {"index": np.arange(len(arrays[0])), "eigenvalue": arrays[0], "residual": arrays[1]}
            facts = {key: to_float(found.get(key)) for key in ("size", "missed")}
            parts.append(
                {"run": name, "step": row["step"], "block": block, **columns, **facts, "operator": operator_in(row)}
            )
    return _long(parts, ["run", "step", "block", "index", "eigenvalue", "residual", "size", "missed", "operator"])


def load_block_densities(folder: str | Path) -> "pd.DataFrame":
    """The spectral densities of the blocks of all runs under a folder, a row a point: run, step, block, and then as `load_densities`.

    Raises:
        ConfigError: there is no such folder.
    """
    parts = []
    for name, row, block, found in _blocks(folder):
        if (curve := _curve(found.get("density"))) is not None:
            parts.append({"run": name, "step": row["step"], "block": block, **curve, "operator": operator_in(row)})
    return _long(parts, ["run", "step", "block", "x", "density", "stderr", "operator"])


def load_planes(folder: str | Path) -> list[dict[str, Any]]:
    """The planes of all runs under a folder, from their landscape.json.

    Returns:
        For each plane: run; name (`parameters`: the whole space of a problem with two parameters, `eigenvectors`, `random`);
        axes: two texts; x (n,), y (m,), loss (m, n) float64; path (p, 2) the points of the records with path_steps (p,), at least the
        final point; eigenvalues (2,) and eigenvectors (2, 2), in columns, of the Hessian at the final point, or None.

    Raises:
        ConfigError: there is no such folder.
    """
    planes = []
    for path, name in _runs(folder):
        if not os.path.lexists(path / files.LANDSCAPE):
            continue
        try:
            value = json.loads(read(path / files.LANDSCAPE, largest=LARGEST_JSON))
            for plane in value["planes"][:MOST_PLANES]:
                planes.append({"run": name, **_plane(plane)})
        except (Unreadable, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return planes


def _blocks(folder: str | Path) -> Iterator[tuple[str, dict[str, Any], str, dict[str, Any]]]:
    """Each block of each line of the runs: the run's name, the line, the block's name, and what was recorded of the block."""
    for path, name in _runs(folder):
        for row in read_lines(path / files.SPECTRUM)[0]:
            found = row.get("blocks")
            for block, entry in found.items() if isinstance(found, dict) else ():
                if isinstance(entry, dict):
                    yield name, row, clean(block), entry


def _curve(found: Any) -> dict[str, np.ndarray] | None:
    """x, density and stderr, each (points,), or None where it is no density."""
    if not isinstance(found, dict) or not all(isinstance(found.get(key), list) for key in ("x", "density")):
        return None
    x, y = floats(found["x"]), floats(found["density"])
    stderr = found.get("stderr")
    error = floats(stderr) if isinstance(stderr, list) else np.full(len(x), np.nan)
    return {"x": x, "density": y, "stderr": error} if len(x) == len(y) == len(error) else None


def _long(parts: list[dict[str, Any]], names: list[str]) -> "pd.DataFrame":
    """One frame of many parts, each a dict of columns and of values that hold for all of its rows."""
    import pandas as pd

    frames = [pd.DataFrame(part) for part in parts]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame({name: [] for name in names})


def _plane(plane: dict[str, Any]) -> dict[str, Any]:
    numbers = {key: np.array(plane[key], np.float64) for key in ("x", "y", "loss", "path", "path_steps")}
    x, y = numbers["x"], numbers["y"]
    if not all(side.ndim == 1 and np.isfinite(side).all() and (np.diff(side) > 0).all() for side in (x, y)):
        raise ValueError("not a grid")
    if numbers["loss"].shape != (len(y), len(x)) or max(len(x), len(y)) > MOST_GRID or min(len(x), len(y)) < 2:
        raise ValueError("not a plane")
    if numbers["path"].ndim != 2 or numbers["path"].shape != (len(numbers["path_steps"]), 2):
        raise ValueError("not a path")
    one, other = plane["axes"]
    found: dict[str, Any] = {"name": clean(str(plane["name"])), "axes": [clean(str(one)), clean(str(other))]}
    for key, shape in (("eigenvalues", (2,)), ("eigenvectors", (2, 2))):
        array = None if plane.get(key) is None else np.array(plane[key], np.float64)
        found[key] = array if array is not None and array.shape == shape and np.isfinite(array).all() else None
    return {**found, **numbers}


def _runs(folder: str | Path) -> list[tuple[Path, str]]:
    root = Path(folder)
    if not root.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected one with runs in it")
    root = root.resolve()
    return [(path, clean(os.path.relpath(path, root))) for path, problem in run_folders(root) if problem is None]
