"""The aggregate: one row for each problem, preprocessing and optimizer, over the runs that differ in all the rest."""

import functools
from collections.abc import Sequence

import numpy as np
import pandas as pd

from curvexp.record import SURE
from curvexp.report.frames import SETTING, short

MOST_RESAMPLED = (
    2000  # values that are resampled; of more, as of a folder with the same runs many times over, gigabytes
)
RESAMPLES = 5000  # of the bootstrap: the ends of a 95 % interval then rest on 125 resamples each
NAMES = {"running": "unfinished", "interrupted": "unfinished"}  # statuses that are counted under another name
SEVERAL = "several"  # in place of an operator, of runs that measured different ones
COUNTS = ["completed", "diverged", "skipped", "failed", "unfinished"]


def aggregate(runs: pd.DataFrame, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """One row for each (problem, preprocess, optim) of `load_runs(...).runs`, in their order; unreadable runs are left out.

    Args:
        runs: a row a run. by: other columns to group by, also the last names of config keys, such as lr for config.optim.lr.

    What holds at the start is the median over the runs that completed or diverged. What holds at the end is the median over those that
    completed, or, where none did, over those that diverged.

    Returns:
        The columns of `by`: problem, preprocess, optim.
        operator: hessian, ggn or fisher, of which all curvatures of the row are; `several` where runs differ in it: then λmax and condition
            numbers are NaN, as those of different operators have no median.
        runs, and of them completed, diverged, skipped, failed, unfinished (running, killed or interrupted).
        condition_number_start, condition_number: medians, with a run's lower bound in place of an unknown value; then the median is a
            lower bound too, and condition_number_start_is_bound, condition_number_is_bound are True.
        condition_number_positive_start, condition_number_positive: medians of λmax over the smallest eigenvalue above rounding.
        lambda_max_start, lambda_max, sharpness, threshold: medians; sharpness_ratio: median of a run's sharpness / threshold.
            lambda_max_start_unchecked, lambda_max_unchecked, sharpness_unchecked: True where of one of these runs a larger eigenvalue
            may have been missed, with a probability above 1e-3.
        steps_to_target: median over the runs that completed or diverged, where one that never reached the target counts as inf; NaN
            where there was no target. steps_to_target_low, steps_to_target_high: its 95 % percentile bootstrap interval over the
            runs (Efron and Tibshirani 1993, ch. 13), NaN for a single run. reached: how many reached it.
        steps: the most steps that a completed run made.
        loss, rate, rate_theory: medians.
    """
    readable = short(runs[runs["status"] != "unreadable"])
    groups = readable.groupby(list(by), sort=False, dropna=False)
    with np.errstate(all="ignore"):  # whatever numbers a folder holds
        rows = [{**dict(zip(by, setting, strict=True)), **_row(group)} for setting, group in groups]
    columns = list(_row(readable.iloc[:0]))
    return pd.DataFrame(rows, columns=[*by, *columns])


def interval(values: np.ndarray) -> tuple[float, float]:
    """95 % percentile bootstrap interval of the median, over +inf as over any other value; NaN for fewer than two values.

    The percentiles are resampled medians themselves, not interpolated between two, so that an infinite one stays infinite. Inexact by
    the resampling, which is seeded: the same values give the same interval.
    """
    count = len(values)
    if count < 2:
        return np.nan, np.nan
    if (
        count > MOST_RESAMPLED
    ):  # the order statistics that the bootstrap's percentiles tend to: Efron and Tibshirani 1993, sec. 13.3
        ordered, half = np.sort(values), 0.98 * np.sqrt(count)
        return float(ordered[int(count / 2 - half)]), float(ordered[int(count / 2 + half)])
    ordered = np.sort(values[_resamples(len(values))], axis=1)  # half the time of np.median
    medians = (ordered[:, (len(values) - 1) // 2] + ordered[:, len(values) // 2]) / 2
    low, high = np.percentile(medians, [2.5, 97.5], method="inverted_cdf")
    return float(low), float(high)


@functools.lru_cache(maxsize=16)
def _resamples(size: int) -> np.ndarray:
    """Indices of every resample of `size` values, (RESAMPLES, size)."""
    return np.random.default_rng(0).integers(0, size, (RESAMPLES, size))


def _row(group: pd.DataFrame) -> dict[str, float | int | bool | str]:
    status = group["status"].replace(NAMES)
    ended = group[status.isin(["completed", "diverged"])]
    completed = ended[ended["status"] == "completed"]
    final = completed if len(completed) else ended
    row: dict[str, float | int | bool | str] = {"runs": len(group)}
    row |= {name: int((status == name).sum()) for name in COUNTS}
    row["operator"] = operators_of(ended)
    for suffix, chosen in (("_start", ended), ("", final)):
        if row["operator"] == SEVERAL:
            chosen = chosen.drop(
                columns=[name for name in chosen if str(name).startswith(("lambda_max", "condition_"))]
            )
        known, bound = (
            _numbers(chosen, f"condition_number{suffix}"),
            _numbers(chosen, f"condition_number_bound{suffix}"),
        )
        row[f"condition_number{suffix}"] = _median(np.where(np.isnan(known), bound, known))
        row[f"condition_number{suffix}_is_bound"] = bool((np.isnan(known) & ~np.isnan(bound)).any())
        row[f"condition_number_positive{suffix}"] = _median(_numbers(chosen, f"condition_number_positive{suffix}"))
        row[f"lambda_max{suffix}"] = _median(_numbers(chosen, f"lambda_max{suffix}"))
        row[f"lambda_max{suffix}_unchecked"] = _unchecked(chosen, f"lambda_max_missed{suffix}")
    sharpness, threshold = _numbers(final, "sharpness"), _numbers(final, "threshold")
    row |= {"sharpness": _median(sharpness), "threshold": _median(threshold)}
    row["sharpness_unchecked"] = _unchecked(final, "sharpness_missed")
    row["sharpness_ratio"] = _median(sharpness / np.where(threshold == 0, np.nan, threshold))
    steps = _steps_to_target(ended)
    low, high = interval(steps)
    row |= {"steps_to_target": _median(steps), "steps_to_target_low": low, "steps_to_target_high": high}
    row["reached"] = int(np.isfinite(steps).sum())
    made = np.nanmax(_numbers(completed, "steps"), initial=-1)
    row["steps"] = np.nan if made < 0 else made
    return row | {name: _median(_numbers(final, name)) for name in ("loss", "rate", "rate_theory")}


def operators_of(runs: pd.DataFrame) -> str:
    """The operator that all of the runs measured, SEVERAL where they differ; the Hessian where a run with a λmax records none."""
    if "operator" not in runs:
        return "hessian"
    measured = runs["operator"].notna() | ~np.isnan(_numbers(runs, "lambda_max"))
    found = set(runs["operator"].astype(object)[measured].fillna("hessian"))
    return str(found.pop()) if len(found) == 1 else SEVERAL if found else "hessian"


def _steps_to_target(ended: pd.DataFrame) -> np.ndarray:
    """Each run's steps to the target, inf where it was not reached; only of runs that had a target."""
    steps = _numbers(ended, "steps_to_target")
    if "target_loss" in ended:
        steps = steps[~np.isnan(_numbers(ended, "target_loss"))]
    return np.where(np.isnan(steps), np.inf, steps)


def _unchecked(frame: pd.DataFrame, name: str) -> bool:
    """Whether in one of the runs the probability of a miss stands above SURE; of a whole spectrum, and of a folder of an earlier version,
    none is recorded."""
    return bool((_numbers(frame, name) > SURE).any())


def _numbers(frame: pd.DataFrame, name: str) -> np.ndarray:
    """A column as float64, NaN where it is missing or no number."""
    if name not in frame:
        return np.full(len(frame), np.nan)
    column = frame[name]
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in "fiu":
        return column.to_numpy(np.float64)
    return pd.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)


def _median(values: np.ndarray) -> float:
    """The median of what is not NaN; NaN where nothing is."""
    values = values[~np.isnan(values)]
    return float(np.median(values)) if len(values) else np.nan
