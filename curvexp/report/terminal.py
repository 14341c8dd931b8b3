"""The aggregate for a person at a terminal, or for a pipe; and the runs of which no number counts, with the reason."""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table

from curvexp.console import Stream, printable
from curvexp.report.files import write_tables
from curvexp.report.formats import KINDS, number, rate
from curvexp.report.frames import SETTING, short
from curvexp.report.tables import COUNTS, SEVERAL, aggregate
from curvexp.store import Runs, load_runs

LISTED = 10  # runs of a kind that are named; the rest is counted
LONGEST_NAME, LONGEST_REASON = 40, 200  # characters


BARS = "▁▂▃▄▅▆▇█"


SPARK = 8  # characters of a sparkline


POSITIVE = "⁺ some eigenvalues are zero to rounding; this is λmax over the smallest eigenvalue above it"


BOUND = "≥ only a part of the spectrum was measured: a lower bound"


UNCHECKED = "? unchecked: a larger eigenvalue may have been missed"


OF_OTHERS = "* of another operator than the Hessian: {}"


SEVERAL_MEASURED = "κ and λmax are left out where the runs of a row measured different operators (probe.operator)"


CENSORED = "> not reached within so many steps; (n/m): n of m runs reached the target"


def summarize(folder: str | Path, console: Console, *, page: bool = False, found: Runs | None = None) -> pd.DataFrame:
    """The runs under a folder, after printing their aggregate and writing it to <folder>/report.csv, and the page to report.html.

    Args:
        page: whether the page is written. found: of `load_runs`, where they were read already.

    Raises:
        ConfigError: there is no such folder.
    """
    found = found or load_runs(folder)
    runs = found.runs
    if runs.empty:
        console.print(f"No runs in {printable(folder)}.")
        return runs
    table = aggregate(runs)
    render(table, console, sparks=sparklines(found))
    render_exceptions(runs, console)
    try:
        write_tables({"report": table}, Path(folder) / "report.csv", form="csv")
    except OSError as error:
        console.print(f"report.csv was not written: {printable(error)}")
    if page:
        from curvexp.report.page import write_page

        try:
            target = write_page(found, folder, Path(folder) / "report.html")
            console.print(f"The report with its figures: {printable(target)}")
        except OSError as error:
            console.print(f"report.html was not written: {printable(error)}")
    return runs


def render(
    table: pd.DataFrame,
    console: Console,
    *,
    by: Sequence[str] = SETTING,
    sparks: Mapping[tuple[Any, ...], dict[str, str]] | None = None,
) -> None:
    """Prints an aggregate, a table a problem: at a terminal start over end, in 100 columns; on a pipe a line a row, as wide as it is.

    Args:
        by: the columns that the aggregate was grouped by. sparks: of `sparklines`, shown with loss and sharpness at a terminal.
    """
    notes: dict[str, None] = {}
    groups = table.groupby("problem", sort=False, dropna=False) if "problem" in by else [("all runs", table)]
    for problem, rows in groups:
        shown = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1, 0, 0), pad_edge=False)
        names = [name for name in by if name != "problem"]
        lines = sparks if sparks and console.is_terminal else {}
        columns = [
            column
            for column in _columns(rows, notes, by, lines)
            if column.header in names or set(column.cells) != {"–"}
        ]
        for column in columns:
            header = column.header if console.is_terminal else column.header.replace("\n", column.between)
            shown.add_column(header, justify="left" if column.header in names else "right")
        for line in zip(*(column.cells for column in columns), strict=True):
            if not console.is_terminal:
                line = tuple(cell.replace("\n", column.between) for cell, column in zip(line, columns, strict=True))
            shown.add_row(*line)
        console.print(f"[bold]{_name(problem)}[/]")
        _print(shown, console)
    for note in notes:
        console.print(note, style="dim")


def render_comparison(table: pd.DataFrame, console: Console, *, by: Sequence[str] = SETTING) -> None:
    """Prints what `findings.compare` gives: a row a setting and measure, with the paired difference and its interval."""
    shown = Table(box=box.SIMPLE_HEAD if console.is_terminal else None, padding=(0, 1, 0, 0), pad_edge=False)
    for name in (*by, "measure"):
        shown.add_column(name)
    for name in ("pairs", "A", "B", "B − A", "95 %"):
        shown.add_column(name, justify="right")
    for row in table.to_dict("records"):
        low, high = number(row["low"]), number(row["high"])
        between = escape(f"[{low}, {high}]") if low != "–" else "–"
        about = [_name(_value(row[name])) for name in by]
        shown.add_row(
            *about,
            row["measure"],
            str(row["pairs"]),
            number(row["a"]),
            number(row["b"]),
            number(row["difference"]),
            between,
        )
    _print(shown, console)
    console.print(
        "medians over pairs of runs with the same setting and seed; the interval is the bootstrap's, of the median difference",
        style="dim",
    )


def sparklines(found: Runs, by: Sequence[str] = SETTING) -> dict[tuple[Any, ...], dict[str, str]]:
    """A line of loss and one of sharpness for each setting, of its first run with records: log scale where all is positive."""
    runs = short(found.runs)
    first = runs[(runs["records"] > 0) & (runs["status"] != "unreadable")].drop_duplicates(list(by))
    records = dict(tuple(found.metrics[found.metrics["run"].isin(set(first["run"]))].groupby("run", sort=False)))
    lines = {}
    for row in first.to_dict("records"):
        metrics = records.get(row["run"])
        if metrics is not None:
            key = tuple(str(row[name]) for name in by)
            lines[key] = {
                name: sparkline(metrics[name].to_numpy(np.float64)) for name in ("loss", "sharpness") if name in metrics
            }
    return lines


def sparkline(values: np.ndarray, width: int = SPARK) -> str:
    """The values as bars, `width` characters at most; × where one is not finite; empty where none is."""
    values = values[~np.isnan(values)]
    if not np.isfinite(values).any():
        return ""
    values = values[np.unique(np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int))]
    finite = np.isfinite(values)
    heights = np.log10(np.where(finite, values, 1)) if (values[finite] > 0).all() else np.where(finite, values, 0) / 4
    if not finite.any():
        return "×" * len(values)
    low, high = heights[finite].min(), heights[finite].max()
    levels = np.round((heights - low) / (high - low) * 7) if high > low else np.full(len(values), 3)
    return "".join(BARS[int(level)] if ok else "×" for level, ok in zip(levels, finite, strict=True))


def render_exceptions(runs: pd.DataFrame, console: Console) -> None:
    """Prints how many runs ended how, and names those that did not complete, with the reason."""
    counts = runs["status"].value_counts()
    kinds = {"completed": "completed", **KINDS}
    parts = ", ".join(f"{counts[status]} {text}" for status, text in kinds.items() if status in counts)
    console.print(f"{len(runs)} run{'s' * (len(runs) != 1)}: {parts}")
    for status, text in KINDS.items():
        chosen = runs[runs["status"] == status]
        if chosen.empty:
            continue
        console.print(f"[bold]{text}[/]")
        for _, run in chosen.head(LISTED).iterrows():
            about = [_name(run[key]) for key in ("run", *SETTING) if isinstance(run[key], str)]
            about += [f"seed {run['seed']:.0f}"] if pd.notna(run["seed"]) else []
            at = f", last record at step {run['last_step']:.0f}" if status == "running" and run["records"] > 0 else ""
            console.print(
                f"  {' '.join(about)}: {_reason(run['reason'])}{at}{_over(run) if status == 'diverged' else ''}"
            )
        if len(chosen) > LISTED:
            console.print(f"  … and {len(chosen) - LISTED} more")


def render_studies(found: Sequence[Mapping[str, Any]], refused: Sequence[tuple[str, str]], console: Console) -> None:
    """Prints each study's verdict with how many of its claims passed, and the files that are not of one."""
    for study in found:
        verdicts = study["claims"]["verdict"].value_counts()
        counts = ", ".join(f"{count} {_name(verdict)}" for verdict, count in verdicts.items())
        console.print(f"study [bold]{_name(study['study'])}[/]: {_name(study['verdict'])} ({counts})", soft_wrap=True)
    for name, reason in refused:
        console.print(f"  {_name(name)}: {_reason(reason)}", soft_wrap=True)


class _Column(NamedTuple):
    """A printed column: its cells have two lines at a terminal, which stand side by side on a pipe with this text between."""

    header: str
    between: str
    cells: list[str]


def _columns(
    rows: pd.DataFrame, notes: dict[str, None], by: Sequence[str], sparks: Mapping[tuple[Any, ...], dict[str, str]]
) -> list[_Column]:
    """The columns of a problem's rows; one whose cells are all – has nothing to say."""
    records = rows.to_dict("records")

    def line(row: dict[Any, Any], name: str) -> str:
        drawn = sparks.get(tuple(str(row[key]) for key in by), {}).get(name, "")
        return f"\n{drawn}" if drawn else ""

    return [
        *(_Column(name, "", [_name(_value(row[name])) for row in records]) for name in by if name != "problem"),
        _Column("runs", ", ", [_runs(row) for row in records]),
        _Column("κ start\nend", " → ", [_condition(row, notes) for row in records]),
        _Column("λmax start\nend", " → ", [_largest(row, notes) for row in records]),
        _Column("sharp/\nthr", "", [_ratio(row, notes) + line(row, "sharpness") for row in records]),
        _Column("steps\nto target", " ", [_steps(row, notes) for row in records]),
        _Column("loss", "", [number(row["loss"]) + line(row, "loss") for row in records]),
        _Column("rate\ntheory", " / ", [_pair(row["rate"], row["rate_theory"], rate) for row in records]),
    ]


def _runs(row: dict[Any, Any]) -> str:
    """How many runs, and how many of them did not complete."""
    return "\n".join([str(row["runs"]), *(f"{row[name]} {name}" for name in COUNTS[1:] if row[name])])


def _pair(first: float, second: float, text: Callable[[float], str] | None = None) -> str:
    if math.isnan(first) and math.isnan(second):
        return "–"
    return "\n".join(map(text or number, (first, second)))


def _largest(row: dict[Any, Any], notes: dict[str, None]) -> str:
    names = ("lambda_max_start", "lambda_max")
    if row["operator"] == SEVERAL:
        notes[SEVERAL_MEASURED] = None
    if all(math.isnan(row[name]) for name in names):
        return "–"
    texts = [_marked(number(row[name]), row[f"{name}_unchecked"], notes) for name in names]
    return "\n".join(_of_operator(text, row, notes) for text in texts)


def _ratio(row: dict[Any, Any], notes: dict[str, None]) -> str:
    text = number(row["sharpness_ratio"])
    return text if text == "–" else _marked(text, row["sharpness_unchecked"], notes)


def _of_operator(text: str, row: dict[Any, Any], notes: dict[str, None]) -> str:
    """The text with a star where the number is not the Hessian's."""
    if text == "–" or row["operator"] == "hessian":
        return text
    notes[OF_OTHERS.format(_name(row["operator"]))] = None
    return f"{text}*"


def _marked(text: str, unchecked: bool, notes: dict[str, None]) -> str:
    if not unchecked:
        return text
    notes[UNCHECKED] = None
    return f"{text}?"


def _condition(row: dict[Any, Any], notes: dict[str, None]) -> str:
    """Condition numbers at the start and at the end, as they are known: exact, infinite with that of the positive part, or a bound."""
    pair = [_one_condition(row, suffix, notes) for suffix in ("_start", "")]
    return "–" if set(pair) == {"–"} else "\n".join(_of_operator(text, row, notes) for text in pair)


def _one_condition(row: dict[Any, Any], suffix: str, notes: dict[str, None]) -> str:
    value, positive = row[f"condition_number{suffix}"], row[f"condition_number_positive{suffix}"]
    if row[f"condition_number{suffix}_is_bound"]:
        notes[BOUND] = None
        return f"≥ {number(value)}"
    if math.isinf(value) and not math.isnan(positive):
        notes[POSITIVE] = None
        return f"∞ ({number(positive)}⁺)"
    return number(value)


def _steps(row: dict[Any, Any], notes: dict[str, None]) -> str:
    """The median with its interval, and how many runs reached the target where not all did."""
    ended = row["completed"] + row["diverged"]
    if math.isnan(row["steps_to_target"]):
        return "–"

    def steps(value: float) -> str:
        if math.isfinite(value):
            return f"{value:.0f}"
        return "never" if math.isnan(row["steps"]) else f"> {row['steps']:.0f}"

    text = steps(row["steps_to_target"])
    if row["reached"] < ended:
        notes[CENSORED] = None
        text += f" ({row['reached']}/{ended})"
    low, high = row["steps_to_target_low"], row["steps_to_target_high"]
    if math.isfinite(low) and low < high:
        text += f"\n[{steps(low)}, {steps(high)}]"
    return escape(text)


def _name(value: object) -> str:
    """A name from a config, safe and short."""
    text = value if isinstance(value, str) else "?"
    return printable(text if len(text) <= LONGEST_NAME else text[: LONGEST_NAME - 1] + "…")


def _value(value: object) -> object:
    """A value of a setting as text; a number in a few digits."""
    if isinstance(value, str) or value is None or (isinstance(value, float) and math.isnan(value)):
        return value
    return f"{value:.6g}" if isinstance(value, int | float | np.number) and not isinstance(value, bool) else str(value)


def _reason(value: object) -> str:
    text = " ".join(value.split()) if isinstance(value, str) else "no reason was recorded"
    return printable(text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…")


def _over(run: pd.Series) -> str:
    """How far the sharpness of the last reading stood above the threshold, where it did."""
    margin = float(run.get("stability_margin", math.nan))
    return f"; sharpness {number(margin)}× the threshold" if margin >= 1.005 else ""


def _print(table: Table, console: Console) -> None:
    if console.is_terminal:
        console.print(table)
        return
    width = Measurement.get(console, console.options.update(max_width=10_000), table).maximum
    Stream(file=console.file, width=max(width, 20), no_color=True, highlight=False).print(table)
