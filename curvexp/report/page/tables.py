"""The tables of the page, as texts and what they sort by: all settings, all runs, a study's claims."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from curvexp.quantities import QUANTITIES
from curvexp.report.formats import brief, cut, number, rate
from curvexp.report.frames import SETTING
from curvexp.report.page.parts import Cell, Table
from curvexp.report.page.sources import Sources
from curvexp.report.tables import COUNTS, aggregate

MOST_ROWS = 2000  # runs in the table of runs


def settings(sources: Sources) -> Table:
    """A row a setting: the aggregate over its runs."""
    head = [*sources.by, "runs", "κ start", "κ end", "λmax start", "λmax end", "sharpness / threshold"]
    head += ["steps to target", "loss", "rate", "theory"]
    rows = [
        [*(Cell(brief(row[name])) for name in sources.by), *_setting(row)]
        for row in aggregate(sources.found.runs, sources.by).to_dict("records")
    ]
    caption = "One row a setting; medians over its runs. The words are explained above."
    return Table("aggregate", caption, head, rows, texts=len(sources.by))


def runs(sources: Sources) -> Table:
    """A row a run: its setting, how it ended, and its scalars."""
    scalars = [quantity.name for quantity in QUANTITIES if quantity.overview]
    columns = [name for name in ("run", *SETTING, "seed", "status", "steps", *scalars) if name in sources.runs]
    shown = sources.runs[columns].head(MOST_ROWS)
    rows = [[_value(value) for value in row] for row in shown.itertuples(index=False, name=None)]
    total = len(sources.runs)
    caption = "One row a run." + (f" The first {MOST_ROWS} of {total}." if total > MOST_ROWS else "")
    return Table("all-runs", caption, columns, rows, texts=4)


def claims(key: str, found: pd.DataFrame) -> Table:
    """A row a claim of a study."""
    head = ["claim", "verdict", "theory", "measured", "95 % interval", "allowed", "compared"]
    rows = [_claim(place, row) for place, row in enumerate(found.to_dict("records"), 1)]
    return Table(key, "One row a claim; of many values the one furthest from theory.", head, rows, texts=2)


# ---- a row of the aggregate -------------------------------------------------------------------------------------------------------


def _setting(row: Mapping[Any, Any]) -> list[Cell]:
    """The numbers of a setting, in the order of the head."""
    operator = "" if row["operator"] == "hessian" else f" {brief(row['operator'])}"
    return [
        _runs(row),
        _condition_number(row, "_start", operator),
        _condition_number(row, "", operator),
        _curvature(row, "lambda_max_start", "lambda_max_start", operator),
        _curvature(row, "lambda_max", "lambda_max", operator),
        _curvature(row, "sharpness_ratio", "sharpness", ""),
        _steps_to_target(row),
        _number(number(row["loss"]), row["loss"]),
        _number(rate(row["rate"]), row["rate"]),
        _number(rate(row["rate_theory"]), row["rate_theory"]),
    ]


def _runs(row: Mapping[Any, Any]) -> Cell:
    others = ", ".join(f"{row[name]} {name}" for name in COUNTS[1:] if row[name])
    return _number(f"{row['runs']}" + (f" ({others})" if others else ""), row["runs"])


def _condition_number(row: Mapping[Any, Any], suffix: str, operator: str) -> Cell:
    value, positive = row[f"condition_number{suffix}"], row[f"condition_number_positive{suffix}"]
    text = number(value)
    if row[f"condition_number{suffix}_is_bound"]:
        text = f"≥ {text}"
    elif np.isinf(value) and not np.isnan(positive):
        text = f"∞ ({number(positive)}⁺)"
    return _number(text + (operator if text != "–" else ""), value)


def _curvature(row: Mapping[Any, Any], name: str, measured: str, operator: str) -> Cell:
    """A curvature or a ratio to one, with `?` where the eigenvalue that it is `measured` by was not checked."""
    if np.isnan(row[name]):
        return _number("–", row[name])
    return _number(number(row[name]) + "?" * row[f"{measured}_unchecked"] + operator, row[name])


def _steps_to_target(row: Mapping[Any, Any]) -> Cell:
    steps, low, high = (row[f"steps_to_target{suffix}"] for suffix in ("", "_low", "_high"))
    ended = row["completed"] + row["diverged"]
    text = "–" if np.isnan(steps) else f"{steps:.0f}" if np.isfinite(steps) else "not reached"
    if np.isfinite(low) and np.isfinite(high) and low < high:
        text += f" [{low:.0f}, {high:.0f}]"
    if row["reached"] < ended and not np.isnan(steps):
        text += f" ({row['reached']}/{ended})"
    return _number(text, steps)


# ---- other rows and cells ---------------------------------------------------------------------------------------------------------


def _claim(place: int, row: Mapping[Any, Any]) -> list[Cell]:
    relation = "" if row["relation"] == "=" else f"{brief(row['relation'])} "
    theory, measured, allowed = (
        "–" if np.isnan(row[key]) else number(row[key], 5) for key in ("prediction", "measurement", "allowed")
    )
    interval = "" if np.isnan(row["low"]) else f"[{number(row['low'], 4)}, {number(row['high'], 4)}]"
    return [
        Cell(f"{place}. {cut(row['statement'])}"),
        Cell(brief(row["verdict"])),
        _number(relation + theory, row["prediction"]),
        _number(measured, row["measurement"]),
        _number(interval, row["low"]),
        _number("" if allowed == "–" else f"± {allowed}", row["allowed"]),
        _value(row["values"]),
    ]


def _value(value: Any) -> Cell:
    """The cell of a text, a number or nothing."""
    if isinstance(value, bool) or not isinstance(value, int | float | np.number):
        return Cell("–" if value is None or value is pd.NA else brief(value))
    shown = float(value)
    whole = shown.is_integer() and abs(shown) < 1e6
    return _number(f"{shown:.0f}" if whole else number(shown, 4), shown)


def _number(text: str, value: Any) -> Cell:
    """The cell of a number, with what it sorts by; a cell without a number sorts before all others."""
    if not isinstance(value, int | float) or np.isnan(value):
        return Cell(text, "-1e308")
    if np.isinf(value):
        return Cell(text, "1e307" if value > 0 else "-1e307")
    return Cell(text, repr(float(value)))
