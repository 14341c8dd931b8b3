"""The frames that tables and charts are made from: runs chosen and named, and what holds of a run put beside its records."""

from collections.abc import Sequence

import pandas as pd

from curvexp.errors import ConfigError
from curvexp.store import Runs

SETTING = ["problem", "preprocess", "optim"]
ABOUT = [*SETTING, "seed", "status", "rate_theory"]  # what `joined` puts beside a record


def short(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs with each leaf of the config under shorter names too: `optim.lr` for `config.optim.lr`, and `lr` where that name is free and
    the only one."""
    names = [str(name) for name in runs.columns if str(name).startswith("config.")]
    leaves = [name.rsplit(".", 1)[-1] for name in names]
    free = {
        leaf: runs[name]
        for name, leaf in zip(names, leaves, strict=True)
        if leaf not in runs.columns and leaves.count(leaf) == 1 and not leaf.startswith("_")
    }
    free |= {name.removeprefix("config."): runs[name] for name in names if name.count(".") > 1}
    free = {name: values for name, values in free.items() if name not in runs.columns}
    return pd.concat([runs, pd.DataFrame(free, index=runs.index)], axis=1) if free else runs


def where(found: Runs, condition: str) -> Runs:
    """The runs for which a condition over the columns of `runs` holds, with their records; unreadable runs stay, to be listed.

    Args:
        condition: as pandas.DataFrame.query takes it: "optim == 'momentum' and lr > 0.1".

    Raises:
        ConfigError: it names no column, or is no condition.
    """
    named = short(found.runs)
    if "@" in condition or "__" in condition:
        raise ConfigError(f"--where={condition}: expected a condition over columns, without @ and __. Change --where.")
    try:
        chosen = named.eval(condition, engine="python")
        chosen = pd.Series(chosen, index=named.index).astype("boolean").fillna(False).astype(bool)
    except Exception as error:  # pandas raises what Python's own parser and operators raise
        columns = ", ".join(str(name) for name in named.columns if str(name).isidentifier())
        raise ConfigError(
            f"--where={condition}: {str(error).splitlines()[0] if str(error) else type(error).__name__}; expected a condition over "
            f"{columns}. Change --where."
        ) from error
    kept = found.runs[chosen | (found.runs["status"] == "unreadable")]
    names = set(kept["run"])
    return Runs(kept, found.metrics[found.metrics["run"].isin(names)], found.spectra[found.spectra["run"].isin(names)])


def grouping(runs: pd.DataFrame, by: str | None) -> list[str]:
    """The columns that make a setting: `by` split at commas, or problem, preprocess and optim.

    Raises:
        ConfigError: there is no such column.
    """
    names = [name.strip() for name in by.split(",")] if by else list(SETTING)
    named = short(runs)
    for name in names:
        if name not in named.columns:
            columns = ", ".join(str(c) for c in named.columns if str(c).isidentifier())
            raise ConfigError(f"--by={by}: no column {name!r}; expected some of {columns}. Change --by.")
    return names


def label(row: pd.Series, by: Sequence[str] = SETTING) -> str:
    """The name of a run's setting within its problem: `normalized · momentum`."""
    parts = [_text(row[name]) if name in SETTING else f"{name} {_text(row[name])}" for name in by if name != "problem"]
    return " · ".join(parts) or "all"


def labels(runs: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.Series:
    """`label` of every run."""
    named = short(runs)[list(by)].astype(object)
    keys = list(named.itertuples(index=False, name=None))
    found = {key: label(pd.Series(dict(zip(by, key, strict=True))), by) for key in dict.fromkeys(keys)}
    return pd.Series([found[key] for key in keys], index=runs.index, dtype=object)


def joined(records: pd.DataFrame, runs: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """Records (metrics, spectra, densities ...) with their run's problem, preprocess, optim, seed, status, rate_theory and setting."""
    about = runs.drop_duplicates("run").set_index("run")
    found = records.copy()
    for name in ABOUT:
        if name in about:
            found[name] = records["run"].map(about[name])
    found["setting"] = records["run"].map(labels(about.reset_index(), by).set_axis(about.index))
    return found


def metrics_of(frame: "pd.DataFrame | Runs") -> pd.DataFrame:
    """Metrics with settings: of Runs, of a joined frame as it is, or of bare metrics, where each run is a setting of its own."""
    return _joined_or_bare(frame, "metrics")


def spectra_of(frame: "pd.DataFrame | Runs") -> pd.DataFrame:
    """Spectra with settings, likewise."""
    return _joined_or_bare(frame, "spectra")


def runs_of(frame: "pd.DataFrame | Runs", by: Sequence[str] = SETTING) -> pd.DataFrame:
    """Runs with their setting."""
    runs = frame.runs if isinstance(frame, Runs) else frame
    return runs if "setting" in runs.columns else runs.assign(setting=labels(runs, by))


def varying(runs: pd.DataFrame, by: Sequence[str] = SETTING) -> list[str]:
    """The config's keys, seed aside, that differ between runs of one setting: over these the aggregate is taken too."""
    readable = short(runs[runs["status"] != "unreadable"])
    aside = ("config.seed", "config.track", "config.sinks")
    inside = [c for c in runs.columns if str(c).startswith("config.") and c not in aside]
    groups = readable.groupby(list(by), dropna=False, sort=False)
    found = []
    for column in inside:
        if (
            readable[column].astype(str).nunique() > 1
            and (groups[column].agg(lambda v: v.astype(str).nunique()) > 1).any()
        ):
            found.append(str(column).removeprefix("config."))
    return found


def _joined_or_bare(frame: "pd.DataFrame | Runs", kind: str) -> pd.DataFrame:
    if isinstance(frame, Runs):
        return joined(getattr(frame, kind), frame.runs)
    missing = {"setting": frame["run"], "problem": "", "status": "completed"}
    return frame.assign(**{name: value for name, value in missing.items() if name not in frame.columns})  # type: ignore[arg-type]


def _text(value: object) -> str:
    if isinstance(value, float):
        return "?" if value != value else f"{value:.4g}"
    return str(value)
