"""What a sweep says, computed: each preprocessing and optimizer against the first one, run against run with all else equal."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from curvexp.quantities import label
from curvexp.report.frames import SETTING, short, varying
from curvexp.report.tables import interval
from curvexp.store import Runs
from curvexp.store.untrusted import Unreadable, named, read

MEASURES = {
    "lambda_max_start": f"{label('lambda_max')} at the start",
    "lambda_max": f"{label('lambda_max')} at the end",
    "steps_to_target": label("steps_to_target"),
}
CLAIM = (
    "statement",
    "relation",
    "prediction",
    "measurement",
    "low",
    "high",
    "allowed",
    "values",
    "verdict",
    "tolerance",
)
LARGEST_STUDY = 2**22  # bytes of a finding.json that is still read
MOST_CLAIMS = 500  # of a study


def comparisons(runs: pd.DataFrame) -> pd.DataFrame:
    """Ratios to the first preprocessing, and to the first optimizer, of each problem, over pairs of runs that agree in all else.

    Returns:
        A row a comparison and measure: problem, factor (preprocess | optim), level, baseline, measure (a key of MEASURES), operator (whose
        λmax it is), ratio:
        the median over the pairs of level / baseline, low, high: its 95 % bootstrap interval (NaN for a single pair), pairs, and for
        steps_to_target reached, reached_baseline: how many of the pairs' runs reached the target. A pair in which
        neither reached it has no ratio.
    """
    ended = short(runs[runs["status"].isin(["completed", "diverged"])])
    others = [name for name in _differing(runs) if name in ended]
    rows = []
    wanted = {"problem", "preprocess", "optim", "operator", "seed", "target_loss", *MEASURES, *others}
    ended = ended[[name for name in ended if name in wanted]]
    for problem, group in ended.groupby("problem", sort=False):
        for factor in ("preprocess", "optim"):
            levels = list(dict.fromkeys(group[factor].dropna()))
            keys = [name for name in ("preprocess", "optim", "seed", *others) if name != factor]
            base = group[group[factor] == levels[0]] if levels else group
            for level in levels[1:]:
                pairs = base.merge(group[group[factor] == level], on=keys, suffixes=("_0", "_1"))
                for measure in MEASURES:
                    row = _ratio(pairs, measure)
                    if row and not (factor == "optim" and measure == "lambda_max_start"):
                        names = {"problem": problem, "factor": factor, "level": level, "baseline": levels[0]}
                        if measure.startswith("lambda_max"):
                            names["operator"] = _operators(pairs)
                        rows.append({**names, "measure": measure, **row})
    columns = [
        "problem",
        "factor",
        "level",
        "baseline",
        "measure",
        "operator",
        "ratio",
        "low",
        "high",
        "pairs",
        "reached",
        "reached_baseline",
    ]
    return pd.DataFrame(rows, columns=columns)


def sentences(runs: pd.DataFrame) -> list[str]:
    """One sentence a comparison: `mlp, normalized against raw: λmax at the start 14.2x lower [13, 15.3], ...`."""
    found = []
    for (problem, _, level, baseline), rows in comparisons(runs).groupby(
        ["problem", "factor", "level", "baseline"], sort=False
    ):
        parts = []
        for row in rows.to_dict("records"):
            if row["measure"] == "steps_to_target":
                parts.append(_steps(row))
            elif row["measure"] == "lambda_max_start" or rows["factor"].iloc[0] == "optim":
                parts.append(_curvature(row))
        parts = [part for part in parts if part]
        if parts:
            pairs = int(rows["pairs"].max())
            found.append(
                f"{problem}, {level} against {baseline}: {', '.join(parts)} ({pairs} pair{'s' * (pairs != 1)} of runs)."
            )
    return found


@np.errstate(all="ignore")  # whatever numbers a folder holds
def compare(a: Runs, b: Runs, by: Sequence[str] = SETTING) -> pd.DataFrame:
    """Two sweeps beside each other, run against run of the same setting and seed.

    Returns:
        A row a setting and measure: the columns of `by`, measure (loss, lambda_max, sharpness, steps_to_target), pairs, a, b: medians over
        the pairs; difference: the median of b − a, low, high: its 95 % bootstrap interval, NaN for a single pair. Steps to a target that
        was not reached count as inf in a and b, and their pair in no difference.
    """
    sides = [short(runs.runs[runs.runs["status"].isin(["completed", "diverged"])]) for runs in (a, b)]
    keys = list(dict.fromkeys([*by, "seed"]))
    keys += [
        name
        for name in dict.fromkeys([*_differing(a.runs), *_differing(b.runs)])
        if all(name in s for s in sides) and name not in keys
    ]
    texts = [key for key in keys if not all(pd.api.types.is_numeric_dtype(side[key]) for side in sides)]
    sides = [side.astype(dict.fromkeys(texts, str)) for side in sides]  # a number here, `auto` there
    pairs = sides[0].merge(sides[1], on=keys, suffixes=("_0", "_1"))
    rows = []
    for setting, group in pairs.groupby(list(by), sort=False, dropna=False):
        for measure in ("loss", "lambda_max", "sharpness", "steps_to_target"):
            first, second = _pair(group, measure)
            if np.isnan(first).all() or np.isnan(second).all():
                continue
            both = np.isfinite(first) & np.isfinite(second)
            change = second[both] - first[both]
            low, high = interval(change)
            values = {
                "a": np.nanmedian(first),
                "b": np.nanmedian(second),
                "difference": np.median(change) if len(change) else np.nan,
            }
            rows.append(
                {
                    **dict(zip(by, setting, strict=True)),
                    "measure": measure,
                    "pairs": int(both.sum()),
                    **values,
                    "low": low,
                    "high": high,
                }
            )
    return pd.DataFrame(rows, columns=[*by, "measure", "pairs", "a", "b", "difference", "low", "high"])


def studies(folder: str | Path) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
    """The studies under a folder, by number, and the finding.json files that are not of one, with the reason.

    Each has study (its name), number, statement, source, verdict, seconds, and claims: a frame with the columns of CLAIM, a row a claim;
    low, high: its interval.
    """
    found, refused = [], []
    for path in named(Path(folder), "finding.json"):
        name = os.path.relpath(path, folder)
        try:
            found.append(_study(json.loads(read(path, largest=LARGEST_STUDY))))
        except (Unreadable, ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
            refused.append((name, f"not a study's finding: {type(error).__name__}: {error}"))
    return sorted(found, key=lambda study: (study["number"] is None, study["number"] or 0, study["study"])), refused


def _study(value: Any) -> dict[str, Any]:
    rows = []
    if len(value["claims"]) > MOST_CLAIMS:
        raise ValueError(f"more than {MOST_CLAIMS} claims")
    for claim in value["claims"]:
        low, high = claim.get("interval") or (None, None)
        row = {**claim, "low": low, "high": high}
        texts = {key: _text(row[key]) for key in ("statement", "relation", "verdict", "tolerance")}
        rows.append({**{key: _json_number(row.get(key)) for key in CLAIM}, **texts})
    number = value.get("number")
    return {
        "study": _text(value["study"]),
        "number": number if isinstance(number, int) else None,
        **{key: _text(value.get(key) or "") for key in ("statement", "source")},
        "verdict": _text(value["verdict"]),
        "seconds": _json_number(value.get("seconds")),
        "claims": pd.DataFrame(rows, columns=list(CLAIM)),
    }


def _text(value: Any) -> str:
    """The value as valid Unicode, as `curvexp.store` has it of runs."""
    return str(value).encode("utf-8", "replace").decode()


def _json_number(value: Any) -> float:
    """A number as JSON has it (inf and nan are texts there), NaN where it is none."""
    if isinstance(value, str):
        return float(value) if value in ("inf", "-inf", "nan") else np.nan
    return np.nan if value is None or isinstance(value, bool) or not isinstance(value, int | float) else float(value)


def _differing(runs: pd.DataFrame) -> list[str]:
    """Swept keys other than those of a setting, under the names that `short` gives them."""
    return [name.rsplit(".", 1)[-1] for name in varying(runs)]


def _pair(pairs: pd.DataFrame, measure: str) -> tuple[np.ndarray, np.ndarray]:
    sides = []
    for side in ("_0", "_1"):
        values = pd.to_numeric(pairs[f"{measure}{side}"], errors="coerce") if f"{measure}{side}" in pairs else np.nan
        array = np.broadcast_to(np.asarray(values, np.float64), len(pairs)).copy()
        if measure == "steps_to_target" and f"target_loss{side}" in pairs:
            target = pd.to_numeric(pairs[f"target_loss{side}"], errors="coerce").notna().to_numpy()
            array[np.isnan(array) & target] = np.inf
        sides.append(array)
    if measure.startswith("lambda_max") and "operator_0" in pairs and "operator_1" in pairs:
        own, other = (pairs[f"operator{side}"].astype(object).fillna("hessian") for side in ("_0", "_1"))
        sides[1][(own != other).to_numpy()] = (
            np.nan
        )  # eigenvalues of different operators have no ratio and no difference
    return sides[0], sides[1]


def _operators(pairs: pd.DataFrame) -> str:
    """Whose eigenvalues the pairs compare, in words."""
    column = next((name for name in ("operator", "operator_0") if name in pairs), None)
    found = [] if column is None else sorted(set(pairs[column].astype(object).fillna("hessian")))
    return " and ".join(map(str, found)) or "hessian"


def _ratio(pairs: pd.DataFrame, measure: str) -> dict[str, float] | None:
    if not len(pairs):
        return None
    base, level = _pair(pairs, measure)
    row: dict[str, float] = {"reached": int(np.isfinite(level).sum()), "reached_baseline": int(np.isfinite(base).sum())}
    known = ~np.isnan(base) & ~np.isnan(level) & ~(np.isinf(base) & np.isinf(level))
    if measure != "steps_to_target":
        known &= (base > 0) & (level > 0)
    base, level = base[known], level[known]
    if not len(base):
        return (
            {"ratio": np.nan, "low": np.nan, "high": np.nan, "pairs": len(pairs), **row}
            if measure == "steps_to_target"
            else None
        )
    with np.errstate(divide="ignore"):
        ratios = level / np.where(base == 0, np.nan, base)
    ratios = ratios[~np.isnan(ratios)]
    low, high = interval(ratios)
    return {
        "ratio": float(np.median(ratios)) if len(ratios) else np.nan,
        "low": low,
        "high": high,
        "pairs": len(ratios),
        **row,
    }


def _curvature(row: Mapping[Any, Any]) -> str:
    ratio, low, high = row["ratio"], row["low"], row["high"]
    what = MEASURES[row["measure"]]
    if row["operator"] != "hessian":
        what = f"{what} of the {row['operator']}"
    if not np.isfinite(ratio) or ratio <= 0:
        return ""
    if ratio < 1:
        ratio, low, high = 1 / ratio, 1 / high if high else np.nan, 1 / low if low else np.nan
        return f"{what} {_number(ratio)}x lower{_interval(low, high)}"
    if ratio < 1.005:
        return f"{what} the same"
    return f"{what} {_number(ratio)}x higher{_interval(low, high)}"


def _steps(row: Mapping[Any, Any]) -> str:
    reached, before = row["reached"], row["reached_baseline"]
    if np.isnan(row["ratio"]):
        return ""
    if row["ratio"] == 0 or (before == 0 and reached):
        return f"target reached in {reached} of {row['pairs']} runs, by the other in none"
    if np.isinf(row["ratio"]):
        return f"target reached in {reached} of {row['pairs']} runs, by the other in {before}"
    return f"target reached in {_number(row['ratio'])}x the steps{_interval(row['low'], row['high'])}"


def _interval(low: float, high: float) -> str:
    if not np.isfinite(low) or not np.isfinite(high) or _number(low) == _number(high):
        return ""
    return f" [{_number(low)}, {_number(high)}]"


def _number(value: float) -> str:
    if value >= 1e5:
        mantissa, _, exponent = f"{value:.1e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"
