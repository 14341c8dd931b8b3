"""What each section of the page shows, those of single problems aside."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import plotly.graph_objects as go

from curvexp.quantities import QUANTITIES, plain
from curvexp.report import charts, findings, frames
from curvexp.report.formats import KINDS, brief, cut
from curvexp.report.frames import SETTING
from curvexp.report.page import tables
from curvexp.report.page.figures import Drawing, Figures
from curvexp.report.page.parts import Fact, Gallery, Section, Table
from curvexp.report.page.sources import Sources

MOST_LISTED = 500  # runs without an end that are listed, of a kind
MOST_FINDINGS = 30  # sentences

SIGNS = {  # of the tables, beside the symbols of quantities
    "setting": "problem, preprocessing of the inputs, and optimizer. Runs of one setting differ in the random seed, "
    "and in what is named as different",
    "median [low, high]": "over the runs of a setting, with its 95 % bootstrap interval",
    "(n/m)": "n of m runs reached the target",
    "≥": "a lower bound: only a part of the spectrum was measured",
    "⁺": "some eigenvalue is zero to rounding; the number is taken over the positive ones",
    "ggn, fisher": "beside a number: of the generalized Gauss-Newton matrix or the Fisher information, in place of the "
    "Hessian. Of runs that measured different operators no median is taken",
    "?": "unchecked: in one of the runs a larger eigenvalue may have been missed, with a probability above 0.001",
}


# ---- the runs -------------------------------------------------------------------------------------------------------------------


class WhatWasRun(NamedTuple):
    """How many runs ended how, what they were set to, and the words of the page."""

    runs: int
    ended: str
    facts: list[Fact]
    glossary: list[Fact]


def what_was_run(sources: Sources) -> Section:
    """The runs counted, and what they were set to; with the glossary."""
    statuses = sources.runs["status"].value_counts()
    texts = {"completed": "completed", **KINDS}
    ended = ", ".join(f"{statuses[status]} {text}" for status, text in texts.items() if status in statuses)
    facts = []
    for column, term in (
        ("problem", "problems"),
        ("preprocess", "preprocessings"),
        ("optim", "optimizers"),
        ("seed", "seeds"),
    ):
        values = [brief(value) for value in dict.fromkeys(sources.readable[column].dropna())]
        facts.append(Fact(term, _listed(values, 12) or "–"))
    if keys := frames.varying(sources.runs, sources.by):
        facts.append(Fact("runs of one setting differ in", f"{_listed(keys, 8)}, and the seed"))
    shown = WhatWasRun(len(sources.runs), ended, facts, _glossary(sources.readable))
    return Section("run", "What was run", "what_was_run", shown)


def _listed(values: Sequence[str], most: int) -> str:
    return ", ".join(values[:most]) + (f" and {len(values) - most} more" if len(values) > most else "")


def _glossary(runs: pd.DataFrame) -> list[Fact]:
    """The words of the tables, and the quantities of people's own probes, as their runs describe them."""
    terms = {quantity.label: quantity.meaning for quantity in QUANTITIES if quantity.overview} | SIGNS
    for column in map(str, runs):
        if column.startswith("quantities."):
            terms[brief(column.removeprefix("quantities."))] = str(next(iter(runs[column].dropna()), ""))
    return [Fact(term, plain(meaning)) for term, meaning in terms.items()]


class WhatWasFound(NamedTuple):
    """Comparisons in sentences, and how many further ones are left out."""

    sentences: list[str]
    left_out: int


def what_was_found(sources: Sources) -> Section:
    """The comparisons between the settings of a problem."""
    found = findings.sentences(sources.readable)
    shown = WhatWasFound([cut(text) for text in found[:MOST_FINDINGS]], max(0, len(found) - MOST_FINDINGS))
    return Section("findings", "What was found", "what_was_found", shown)


def of_table(key: str, heading: str, table: Table) -> Section:
    """A section that is one table."""
    return Section(key, heading, "table", table)


def across(sources: Sources, figures: Figures) -> Section:
    """The figures in which each run is a point, and the planes of several problems side by side."""
    drawings = [
        Drawing(
            charts.condition_steps(sources.readable, looks=sources.looks),
            "Condition number against steps to the target",
            "one point a run, both axes logarithmic",
        ),
        Drawing(
            charts.rate(sources.readable, looks=sources.looks),
            "Convergence rate, measured against theory",
            "one point a run",
        ),
    ]
    planes = [plane for plane in sources.planes if plane["name"] == "parameters"]
    if len({plane["problem"] for plane in planes}) > 1:
        drawings.append(
            Drawing(
                charts.forms(planes),
                "The forms of curvature side by side",
                "contours of the loss with the way of a run",
            )
        )
    return Section("across", "Across all runs", "gallery", figures.gallery(*drawings))


def own_charts(charts: Sequence[go.Figure], figures: Figures) -> Section:
    """Charts of the person's own, under their titles."""
    drawings = [Drawing(chart, str(chart.layout.title.text or "Own chart"), "a chart of your own") for chart in charts]
    return Section("own", "Own charts", "gallery", figures.gallery(*drawings))


# ---- runs without an end ----------------------------------------------------------------------------------------------------------


class Exceptional(NamedTuple):
    """A run that did not complete: its name, its setting and seed, and why."""

    run: str
    about: str
    reason: str


class Kind(NamedTuple):
    """The runs that ended in one way: how many, the first of them, and how many further ones are left out."""

    text: str
    runs: int
    listed: list[Exceptional]
    left_out: int


def exceptions(sources: Sources) -> Section:
    """The runs that did not complete, by the way in which they ended."""
    kinds = []
    for status, text in KINDS.items():
        rows = sources.runs[sources.runs["status"] == status]
        if len(rows):
            listed = [_exceptional(row) for row in rows.head(MOST_LISTED).to_dict("records")]
            kinds.append(Kind(text, len(rows), listed, len(rows) - len(listed)))
    return Section("exceptions", "Runs that did not complete", "exceptions", kinds)


def _exceptional(row: dict[Any, Any]) -> Exceptional:
    about = " ".join(brief(row[name]) for name in SETTING if isinstance(row[name], str))
    seed = f" seed {row['seed']:.0f}" if pd.notna(row["seed"]) else ""
    reason = row["reason"] if isinstance(row["reason"], str) else "no reason was recorded"
    return Exceptional(brief(row["run"]), about + seed, cut(" ".join(reason.split())))


# ---- studies ----------------------------------------------------------------------------------------------------------------------


class Study(NamedTuple):
    """A study's statement of theory, its claims, the reasons for what they are allowed, and its figure."""

    statement: str
    source: str
    claims: Table
    reasons: list[str]
    gallery: Gallery


class Refused(NamedTuple):
    """A file that is no study's finding, and why."""

    file: str
    reason: str


def studies(folder: str | Path, figures: Figures) -> list[Section]:
    """A section a study under the folder, and one of the files that cannot be read."""
    found, refused = findings.studies(folder)
    sections = [_study(study, index, figures) for index, study in enumerate(found)]
    if refused:
        shown = [Refused(file, cut(reason)) for file, reason in refused]
        sections.append(Section("studies-refused", "Studies that cannot be read", "studies_refused", shown))
    return sections


def _study(study: dict[str, Any], index: int, figures: Figures) -> Section:
    claims = study["claims"]
    drawing = Drawing(charts.verdicts(claims), "Theory and measurement in one picture", "measured over predicted")
    shown = Study(
        statement=cut(study["statement"], 2000),
        source=cut(study["source"]),
        claims=tables.claims(f"claims-{index}", claims),
        reasons=[cut(text) for text in dict.fromkeys(claims["tolerance"])],
        gallery=figures.gallery(drawing),
    )
    return Section(f"study-{index}", cut(f"Study {study['study']}: {study['verdict']}", 80), "study", shown)
