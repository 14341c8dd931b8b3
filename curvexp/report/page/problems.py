"""The section of each problem: its settings in one figure, and some of its runs closely."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pandas as pd

from curvexp.report import charts
from curvexp.report.formats import brief, cut
from curvexp.report.page.figures import Drawing, Figures
from curvexp.report.page.parts import Gallery, Section
from curvexp.report.page.sources import Sources, of_run
from curvexp.store import Runs

MOST_CLOSE = 12  # runs that are shown closely, one a setting


class Panel(NamedTuple):
    """A run shown closely: the panel's id, the name by which a reader chooses the run, and its figures."""

    key: str
    name: str
    gallery: Gallery


class Problem(NamedTuple):
    """A problem's figures over all settings, and the panels of single runs.

    Attributes:
        number: of the problem on the page, which its ids carry.
        settings: how many settings the problem has.
        most_close: how many runs the page shows closely.
    """

    number: int
    gallery: Gallery
    panels: list[Panel]
    settings: int
    most_close: int


def problems(sources: Sources, figures: Figures) -> list[Section]:
    """A section a problem; one for all, where runs are not grouped by problem."""
    close = _close(sources.readable)
    if "problem" not in sources.by:
        return [_problem(0, "all problems", sources.readable, close, sources, figures)]
    problem_of = sources.readable["problem"].fillna("?")
    return [
        _problem(number, problem, sources.readable[problem_of == problem], close, sources, figures)
        for number, problem in enumerate(dict.fromkeys(problem_of))
    ]


def _close(readable: pd.DataFrame) -> list[str]:
    """The runs that are shown closely, spread over the problems.

    Of each setting the first run that completed, or diverged, or has records.
    """
    rows = readable[readable["records"] > 0]
    order = rows["status"].map({"completed": 0, "diverged": 1}).fillna(2)
    first = (
        rows.assign(_order=order)
        .sort_values("_order", kind="stable")
        .drop_duplicates(["problem", "setting"])
        .sort_index()
    )
    turn = first.groupby("problem", dropna=False).cumcount()
    return first.assign(_turn=turn).sort_values("_turn", kind="stable").head(MOST_CLOSE)["run"].tolist()


def _problem(
    number: int, name: str, runs: pd.DataFrame, close: list[str], sources: Sources, figures: Figures
) -> Section:
    metrics = sources.metrics[sources.metrics["run"].isin(set(runs["run"]))]
    gallery = figures.gallery(
        Drawing(charts.loss(metrics, looks=sources.looks), "Loss against step", "one line a setting"),
        Drawing(
            charts.sharpness(metrics, looks=sources.looks), "Sharpness against its threshold", "one line a setting"
        ),
    )
    shown_closely = runs[runs["run"].isin(close)].to_dict("records")
    panels = [
        Panel(f"panel-{number}-{position}", _name(row), figures.gallery(*_of_one_run(row["run"], sources), level=4))
        for position, row in enumerate(shown_closely)
    ]
    shown = Problem(number, gallery, panels, runs["setting"].nunique(), MOST_CLOSE)
    return Section(f"problem-{number}", cut(name, 60), "problem", shown)


def _name(row: Mapping[Any, Any]) -> str:
    end = "" if row["status"] == "completed" else f" ({row['status']})"
    return f"{brief(row['setting'])}, run {brief(row['run'])}{end}"


def _of_one_run(run: str, sources: Sources) -> Iterator[Drawing]:
    """The charts of one run: its planes first, then its eigenvalues, densities, blocks and predictions."""
    for plane in sources.planes:
        if plane["run"] == run:
            yield from _of_plane(plane)
    metrics, spectra = of_run(sources.metrics, run), of_run(sources.spectra, run)
    densities, blocks = of_run(sources.densities, run), of_run(sources.blocks, run)
    alone = Runs(*(of_run(records, run) for records in sources.found))
    yield Drawing(charts.eigenvalues(spectra), "All tracked eigenvalues", "against step")
    yield Drawing(
        charts.spectrum(spectra, densities),
        "Spectrum at the start, middle and end",
        "a rug of eigenvalues, and the density where it was measured",
    )
    yield Drawing(charts.density(densities), "Spectral density against step", "a heatmap")
    yield Drawing(
        charts.blocks(blocks, of_run(sources.block_densities, run)),
        "Top eigenvalue by block",
        "one line a block, and the densities where they were measured",
    )
    yield Drawing(charts.gradient_overlap(spectra), "Gradient along the leading eigenvectors", "share of its energy")
    yield Drawing(
        charts.eigencomponents(charts.components(alone)),
        "Decay of the components along the eigenvectors",
        "measured, and theory dashed",
    )
    yield Drawing(charts.taylor(metrics), "Predicted against actual change of the loss", "one point a reading")


def _of_plane(plane: dict[str, Any]) -> Iterator[Drawing]:
    if plane["name"] == "parameters":
        yield Drawing(
            charts.contour(plane),
            "Way of the run over the loss",
            "contours, and the Hessian's eigenvectors at the end",
        )
        yield Drawing(charts.surface(plane), "The surface itself", "drag to turn it")
    else:
        which = "the two leading eigenvectors" if plane["name"] == "eigenvectors" else "two random directions"
        yield Drawing(charts.landscape(plane), f"Loss around the final point along {which}", "contours")
