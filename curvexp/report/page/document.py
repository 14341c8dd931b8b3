"""The page as a whole: its sections in their order, put through the templates."""

import functools
import importlib.resources
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import plotly.graph_objects as go

from curvexp import __version__
from curvexp.report.frames import SETTING
from curvexp.report.page import assets, problems, sections, tables
from curvexp.report.page.figures import Figures
from curvexp.report.page.parts import Section
from curvexp.report.page.sources import Sources, gather
from curvexp.store import Runs, replaced


def write_page(
    found: Runs, folder: str | Path, target: str | Path, *, by: Sequence[str] = SETTING, own: Sequence[go.Figure] = ()
) -> Path:
    """The page over these runs of `folder`, written to `target`, replaced as a whole.

    Args:
        own: charts of the person's, for a section of their own; their titles become headings.

    Raises:
        OSError: it cannot be written.
    """
    target = Path(target)
    text = page(found, folder, by=by, own=own)
    with replaced(target) as beside:
        beside.write_text(text, encoding="utf-8")
    return target


def page(found: Runs, folder: str | Path, *, by: Sequence[str] = SETTING, own: Sequence[go.Figure] = ()) -> str:
    """The HTML of the page over `found`; densities, planes and studies are read from `folder`."""
    figures = Figures()
    with np.errstate(all="ignore"):  # whatever numbers a folder holds
        shown = _sections(gather(found, folder, by), figures)
    if own:
        shown.append(sections.own_charts(own, figures))
    path = os.path.abspath(folder)
    return (
        _environment()
        .get_template("page.html.j2")
        .render(
            title=f"curvexp: {os.path.basename(path)}",
            path=path,
            sections=shown,
            version=__version__,
            figures=figures.as_json(),
            plotly=assets.plotly(),
            datatables_css=assets.datatables("css"),
            datatables_js=assets.datatables("js"),
            page_css=assets.own("page.css"),
            page_js=assets.own("page.js"),
        )
    )


def _sections(sources: Sources, figures: Figures) -> list[Section]:
    """The sections in the order of the page, which is the order in which their figures are numbered."""
    if sources.runs.empty:
        return sections.studies(sources.folder, figures)
    return [
        sections.what_was_run(sources),
        sections.what_was_found(sources),
        sections.of_table("settings", "All settings", tables.settings(sources)),
        *problems.problems(sources, figures),
        sections.across(sources, figures),
        *sections.studies(sources.folder, figures),
        sections.of_table("runs", "All runs", tables.runs(sources)),
        sections.exceptions(sources),
    ]


@functools.cache
def _environment() -> jinja2.Environment:
    """Templates that escape every value, and stop at a name that they are not given."""
    return jinja2.Environment(
        loader=jinja2.FunctionLoader(_source),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _source(name: str) -> str:
    return importlib.resources.files("curvexp.report.page").joinpath("templates", name).read_text(encoding="utf-8")


def _visible(value: Any) -> Any:
    """A value as its template shows it: control characters, and marks that turn the direction of text, as their escapes."""
    if hasattr(value, "__html__"):  # a macro's HTML, or what a template marks as safe
        return value
    text = str(value)
    if text.isprintable():  # nearly always: spares a loop over the characters
        return text
    return "".join(c if c.isprintable() or c in "\n\t" else c.encode("unicode_escape").decode() for c in text)
