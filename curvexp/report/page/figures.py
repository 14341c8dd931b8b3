"""The figures of the page: numbered as they come, with their texts for the template, and as JSON for plotly.js."""

import html
from typing import NamedTuple

import plotly.graph_objects as go

from curvexp.report.page.parts import Figure, Gallery

HEIGHT = 420  # pixels, of a chart that says none
MOST_TRACES = 8  # named in a figure's alternative text


class Drawing(NamedTuple):
    """A chart, the heading over it, and what it shows in a few words."""

    chart: go.Figure
    heading: str
    about: str


class Figures:
    """The figures of one page so far."""

    def __init__(self) -> None:
        self._packed: list[str] = []

    def gallery(self, *drawings: Drawing, level: int = 3) -> Gallery:
        """The charts as figures, numbered on from those before; a chart without marks gets a sentence in place of a figure."""
        figures = []
        missing: dict[str, None] = {}
        for drawing in drawings:
            why = (drawing.chart.layout.meta or {}).get("empty")
            if why:
                missing[f"{drawing.heading}: {why}"] = None
            else:
                figures.append(_figure(drawing, len(self._packed), level))
                self._packed.append(_packed(drawing.chart))
        return Gallery(figures, list(missing))

    def as_json(self) -> str:
        """The list of all charts, without a `<`: it stands in a script element, which it cannot end."""
        return f"[{','.join(self._packed)}]"


def _figure(drawing: Drawing, number: int, level: int) -> Figure:
    chart, heading, about = drawing
    names = [html.unescape(str(trace.name)) for trace in chart.data if trace.showlegend is not False and trace.name]
    label = f"{heading}: {about}."
    if names:
        label += f" Shows {', '.join(dict.fromkeys(names[:MOST_TRACES]))}."
    # A chart's texts are escaped as Plotly's markup. The template escapes as HTML, so that markup is undone here.
    notes = " ".join(html.unescape(text) for text in (chart.layout.meta or {}).get("notes", []) if text)
    return Figure(number, heading, level, label, chart.layout.height or HEIGHT, notes)


def _packed(chart: go.Figure) -> str:
    """A chart as JSON, without the title, which the heading has, and without a `<` or `>`."""
    chart.layout.title.text = None
    chart.layout.margin.t = 30 if chart.layout.annotations else 16
    chart.layout.template = None  # 7 kB a figure, and a white background
    return (
        str(chart.to_json())
        .replace("<", "\\u003c")
        .replace(">", "\\u003e")
        .replace("\u2028", "\\u2028")
        .replace("\u2029", "\\u2029")
    )
