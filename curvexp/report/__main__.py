"""The tables over all runs of a folder, and the page with the charts, from a shell: python -m curvexp.report DIR"""

import argparse
import pkgutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
from rich.live import Live
from rich.text import Text

from curvexp import console, home
from curvexp.errors import ConfigError
from curvexp.report import aggregate, findings, frames, render, write_tables
from curvexp.report.terminal import render_comparison, render_exceptions, render_studies, sparklines
from curvexp.store import Runs, files, load_runs

if TYPE_CHECKING:
    import plotly.graph_objects as go

WATCH_SECONDS = 2.0


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 where there is no such folder, no run in it, or no file can be written; 130 for Ctrl-C."""
    options = _options(arguments)
    try:
        if options.compare:
            return _compare(options)
        if options.watch:
            _watch(options)
        found, by = _studies_alone(options.folder) or _load(options.folder, options)
        own = [_own_chart(name, found) for name in options.chart]
        _print(found, by, options.folder)
        if not options.no_page:
            from curvexp.report.page import write_page

            target = options.html or Path(options.folder) / "report.html"
            try:
                written = write_page(found, options.folder, target, by=by, own=own)
                console.out().print(f"wrote {console.printable(written)}")
            except OSError as error:
                if options.html:
                    raise
                console.err().print(f"the page was not written ({error.strerror}); --html FILE writes it elsewhere")
        table = aggregate(found.runs, by)
        for form in ("csv", "parquet"):
            if target := getattr(options, form):
                for path in write_tables({"report": table, **found._asdict()}, target, form=form):
                    console.out().print(f"wrote {console.printable(path)}")
    except ConfigError as error:
        console.refuse(str(error))
        return 2
    except OSError as error:
        console.refuse(f"{error.filename}: cannot be written ({error.strerror})")
        return 2
    except KeyboardInterrupt:
        return 130
    return 0


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m curvexp.report",
        description="Tables over all runs under a folder, and one page with their charts.",
    )
    parser.add_argument("folder", metavar="DIR", nargs="?", help="a run's folder, a sweep's, or any above them")
    parser.add_argument(
        "--watch", action="store_true", help="follow a sweep that runs, until its last run ends; then the page"
    )
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help="two sweeps beside each other, run against run")
    parser.add_argument(
        "--where", metavar="CONDITION", help="only runs for which it holds: \"optim == 'momentum' and lr > 0.1\""
    )
    parser.add_argument(
        "--by", metavar="COLUMNS", help="group by these instead of problem,preprocess,optim: problem,lr"
    )
    parser.add_argument(
        "--chart",
        metavar="MODULE.FUNCTION",
        action="append",
        default=[],
        help="a function of yours from the runs (curvexp.Runs) to a Plotly figure, for the page; may be given several times",
    )
    parser.add_argument("--html", metavar="FILE", help="where the page goes; else DIR/report.html")
    parser.add_argument("--no-page", action="store_true", help="tables only")
    for form in ("csv", "parquet"):
        parser.add_argument(
            f"--{form}",
            metavar="FILE|DIR",
            help=f"write the table to a file *.{form}, or the table and the runs, metrics and spectra into a folder",
        )
    options = parser.parse_args(arguments)
    if (options.folder is None) == (options.compare is None):
        parser.error("expected DIR, or --compare A B")
    return options


def _load(folder: str, options: argparse.Namespace) -> tuple[Runs, list[str]]:
    found = load_runs(folder)
    if found.runs.empty:
        raise ConfigError(f"{folder}: no runs in it; expected folders with a summary.json, or a study's finding.json")
    by = frames.grouping(found.runs, options.by)
    measured = set(aggregate(found.runs.iloc[:0]).columns) - set(frames.SETTING)
    if clash := measured.intersection(by):
        raise ConfigError(
            f"--by={options.by}: {', '.join(sorted(clash))} is measured and stands in the table; expected what a run was set to, such as "
            "problem.condition_number. Change --by."
        )
    if options.where:
        found = frames.where(found, options.where)
        if not (found.runs["status"] != "unreadable").any():
            raise ConfigError(
                f"--where={options.where}: holds for no run; expected a condition that holds for some. Change --where."
            )
    return found, by


def _own_chart(name: str, found: Runs) -> "go.Figure":
    """The figure that a person's function makes of the runs.

    Raises:
        ConfigError: it cannot be imported, raises, or returns something else.
    """
    import plotly.graph_objects as go

    try:
        function = pkgutil.resolve_name(name)
    except Exception as error:  # an ImportError, or what the person's module raises
        raise ConfigError(
            f"--chart={name}: cannot be imported ({type(error).__name__}: {error}); expected the import path of a function. Change --chart."
        ) from error
    try:
        figure = function(found)
    except Exception as error:
        raise ConfigError(
            f"--chart={name}: raised {type(error).__name__}: {error}. Mend it, or leave --chart out."
        ) from error
    if not isinstance(figure, go.Figure):
        raise ConfigError(
            f"--chart={name}: returned {type(figure).__name__}; expected a plotly.graph_objects.Figure. Change --chart."
        )
    if not figure.layout.title.text:
        figure.update_layout(title=name.rpartition(".")[2].replace("_", " "))
    return figure


def _studies_alone(folder: str) -> tuple[Runs, list[str]] | None:
    """No runs, for a folder that has studies and no runs."""
    found = load_runs(folder)
    return (found, list(frames.SETTING)) if found.runs.empty and findings.studies(folder)[0] else None


def _print(found: Runs, by: list[str], folder: str) -> None:
    out = console.out()
    if not found.runs.empty:
        render(aggregate(found.runs, by), out, by=by, sparks=sparklines(found, by))
        render_exceptions(found.runs, out)
    render_studies(*findings.studies(folder), out)


def _compare(options: argparse.Namespace) -> int:
    (a, by), (b, _) = (_load(folder, options) for folder in options.compare)
    table = findings.compare(a, b, by)
    if table.empty:
        raise ConfigError(
            f"--compare {options.compare[0]} {options.compare[1]}: no run of the one has its setting and seed in the other; expected two "
            "sweeps over the same settings. Change --compare, or --by."
        )
    render_comparison(table, console.out(), by=by)
    for form in ("csv", "parquet"):
        if target := getattr(options, form):
            for path in write_tables({"compare": table}, target, form=form):
                console.out().print(f"wrote {console.printable(path)}")
    return 0


def _watch(options: argparse.Namespace) -> None:
    """Shows the table of a sweep, anew every few seconds, until none of its runs goes on."""
    out = console.out()
    with Live(console=out, refresh_per_second=2, transient=True) as live:
        while True:
            try:
                found, by = _load(options.folder, options)
            except ConfigError:
                found = None
            if found is not None:
                live.update(Text.from_ansi(_captured(found, by)))
                if not _going(found.runs, Path(options.folder)):
                    return
            time.sleep(WATCH_SECONDS)


def _going(runs: pd.DataFrame, folder: Path, quiet: float = 60.0) -> bool:
    """Whether a run has no end and its files changed within the last `quiet` seconds; a killed run's do not."""
    for name in runs.loc[runs["status"] == "running", "run"]:
        written = [folder / str(name) / file for file in (files.METRICS, files.SUMMARY)]
        if any(path.exists() and time.time() - path.stat().st_mtime < quiet for path in written):
            return True
    return False


def _captured(found: Runs, by: list[str]) -> str:
    shown = console.out()
    with shown.capture() as capture:
        render(aggregate(found.runs, by), shown, by=by, sparks=sparklines(found, by))
        counts = found.runs["status"].value_counts()
        shown.print(", ".join(f"{count} {status}" for status, count in counts.items()))
    return capture.get()


def command() -> int:
    """`python -m curvexp.report`: `main` on what was typed, for any stream and any user."""
    home.ensure()
    with console.any_stream():
        return main()


if __name__ == "__main__":
    sys.exit(command())
