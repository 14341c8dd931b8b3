"""The tables over all runs of a folder, from a shell: python -m curvexp.report DIR"""

import argparse
import sys

from curvexp import console
from curvexp.errors import ConfigError
from curvexp.report import aggregate, render, write_tables
from curvexp.report.terminal import render_exceptions
from curvexp.store import load_runs


def main(arguments: list[str] | None = None) -> int:
    """The exit code: 0, or 2 where there is no such folder, no run in it, or no file can be written."""
    parser = argparse.ArgumentParser(
        prog="python -m curvexp.report", description="Tables over all runs under a folder."
    )
    parser.add_argument("folder", metavar="DIR", help="a run's folder, a sweep's, or any above them")
    for form in ("csv", "parquet"):
        parser.add_argument(
            f"--{form}",
            metavar="FILE|DIR",
            help=f"write the table to a file *.{form}, or the table and the runs, metrics and spectra into a folder",
        )
    options = parser.parse_args(arguments)
    try:
        runs = load_runs(options.folder)
        if runs.runs.empty:
            raise ConfigError(f"{options.folder}: no runs in it; expected folders with a summary.json")
        table = aggregate(runs.runs)
        render(table, console.out())
        render_exceptions(runs.runs, console.out())
        for form in ("csv", "parquet"):
            if target := getattr(options, form):
                for path in write_tables({"report": table, **runs._asdict()}, target, form=form):
                    console.out().print(f"wrote {console.printable(path)}")
    except ConfigError as error:
        console.refuse(str(error))
        return 2
    except OSError as error:
        console.refuse(f"{error.filename}: cannot be written ({error.strerror})")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
