"""The frames that the page's sections read: the runs, and their records with the run's setting beside them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from curvexp.report import charts, frames
from curvexp.report.charts.style import Look
from curvexp.store import Runs, load_block_densities, load_blocks, load_densities, load_planes


class Sources(NamedTuple):
    """What one page is made from.

    Attributes:
        found: as `load_runs` gave it.
        folder: where densities, planes and studies lie.
        by: the columns that make a setting.
        runs: found.runs with a column `setting`; readable: without the unreadable ones.
        looks: how each setting is drawn, the same in every chart.
        metrics, spectra, densities, blocks, block_densities: records of all runs; of the first two with their run's setting.
        planes: as `load_planes` gives them, with their run's problem.
    """

    found: Runs
    folder: str | Path
    by: list[str]
    runs: pd.DataFrame
    readable: pd.DataFrame
    looks: dict[str, Look]
    metrics: pd.DataFrame
    spectra: pd.DataFrame
    densities: pd.DataFrame
    blocks: pd.DataFrame
    block_densities: pd.DataFrame
    planes: list[dict[str, Any]]


def gather(found: Runs, folder: str | Path, by: Sequence[str]) -> Sources:
    """What the page over `found` is made from; of what lies in `folder`, the part that belongs to these runs."""
    runs = found.runs.assign(setting=frames.labels(found.runs, by))
    readable = runs[runs["status"] != "unreadable"]
    names = set(runs["run"])
    densities, blocks, block_densities = (
        records[records["run"].isin(names)]
        for records in (load(folder) for load in (load_densities, load_blocks, load_block_densities))
    )
    problems = runs.drop_duplicates("run").set_index("run")["problem"]
    planes = [
        {**plane, "problem": str(problems[plane["run"]])} for plane in load_planes(folder) if plane["run"] in names
    ]
    return Sources(
        found=found,
        folder=folder,
        by=list(by),
        runs=runs,
        readable=readable,
        looks=charts.looks(readable["setting"]),
        metrics=frames.joined(found.metrics, found.runs, by),
        spectra=frames.joined(found.spectra, found.runs, by),
        densities=densities,
        blocks=blocks,
        block_densities=block_densities,
        planes=planes,
    )


def of_run(records: pd.DataFrame, run: str) -> pd.DataFrame:
    """The records of one run."""
    return records[records["run"] == run]
