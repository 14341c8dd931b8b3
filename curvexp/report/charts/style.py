"""What all charts share: a setting's colour, axes on which zero and negative values have a place, and names that are only names."""

import html
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import plotly.graph_objects as go

from curvexp.quantities import OPERATORS

# Okabe and Ito 2008, without black and yellow, which vanish on one of the two backgrounds
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
DASHES = ("solid", "dash", "dot")
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "triangle-down", "x")
MOST_NAMED = len(COLOURS) * len(
    DASHES
)  # settings with a line of their own; more are drawn in grey, under one entry of the legend
MOST_POINTS = 200  # of a line; a longer one is thinned
GREY = "#8A8A8A"
GRID = "rgba(128,128,128,0.25)"
AXIS: dict[str, Any] = {
    "gridcolor": GRID,
    "linecolor": GRID,
    "zerolinecolor": "rgba(128,128,128,0.5)",
    "automargin": True,
    "exponentformat": "power",
}
LEGEND_BELOW = {"orientation": "h", "yanchor": "top", "y": -0.22, "xanchor": "left", "x": 0}


class Look(NamedTuple):
    """How a setting is drawn: the same in every chart of the same settings."""

    colour: str
    dash: str
    symbol: str
    named: bool  # False for one of many in grey


def looks(settings: Iterable[str]) -> dict[str, Look]:
    """The look of each setting, in their order; beyond MOST_NAMED all are grey."""
    names = list(dict.fromkeys(settings))
    found = {}
    for index, name in enumerate(names):
        turn, colour = divmod(
            index, len(COLOURS)
        )  # the dash changes from line to line too: two that coincide both show
        named = index < MOST_NAMED
        found[name] = (
            Look(COLOURS[colour], DASHES[(index + turn) % len(DASHES)], SYMBOLS[colour], True)
            if named
            else Look(GREY, "solid", "circle", False)
        )
    return found


def name(text: object, longest: int = 60) -> str:
    """A name from a config as Plotly shows it: its letters, whatever they are, and never markup."""
    shown = str(text)
    shown = shown if len(shown) <= longest else shown[: longest - 1] + "…"
    return html.escape(shown, quote=False)


def rgba(colour: str, alpha: float) -> str:
    """#RRGGBB with an opacity."""
    return f"rgba({int(colour[1:3], 16)},{int(colour[3:5], 16)},{int(colour[5:7], 16)},{alpha})"


def figure(*, title: str, x: str, y: str, height: int = 420, notes: Sequence[str] = ()) -> go.Figure:
    """An empty figure that reads on light and on dark; notes stand under it in `layout.meta.notes`, for whoever shows it."""
    axes = {f"{name}axis": {**AXIS, "title": {"text": text}} for name, text in (("x", x), ("y", y))}
    return go.Figure(layout={**layout(title=title, height=height), **axes, "meta": {"notes": list(notes)}})


def layout(*, title: str, height: int) -> dict[str, Any]:
    """What every figure's layout has, axes aside."""
    return {
        "template": go.layout.Template(),  # the default one has a white background, and 7 kB
        "title": {"text": title, "font": {"size": 16}, "x": 0, "xanchor": "left", "xref": "paper"},
        "height": height,
        "margin": {"l": 70, "r": 16, "t": 48, "b": 56},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, sans-serif", "size": 13, "color": "#777777"},
        "legend": LEGEND_BELOW,
        "colorway": list(COLOURS),
        "meta": {"notes": []},
        "hoverlabel": {"namelength": -1},
    }


def note(drawn: go.Figure, *texts: str) -> None:
    """Adds to the notes of a figure."""
    drawn.layout.meta = {"notes": [*(drawn.layout.meta or {}).get("notes", []), *(text for text in texts if text)]}


def operator(frame: Any) -> str:
    """The operator whose eigenvalues a frame of a run holds; the Hessian where it has no such column."""
    found = [] if "operator" not in frame else frame["operator"].dropna().tolist()
    return str(found[0]) if found else "hessian"


def whose(frame: Any) -> str:
    """A note on whose eigenvalues are shown, where they are not the Hessian's."""
    found = operator(frame)
    return "" if found == "hessian" else f"Eigenvalues of the {name(OPERATORS.get(found, found))}, not of the Hessian."


def empty(title: str, why: str) -> go.Figure:
    """A figure that says why there is nothing to draw: a missing probe leaves no hole unexplained."""
    drawn = figure(title=title, x="", y="", height=160)
    drawn.add_annotation(text=name(why, 200), showarrow=False, x=0.5, y=0.5, xref="paper", yref="paper")
    drawn.update_xaxes(visible=False)
    drawn.update_yaxes(visible=False)
    drawn.layout.meta = {"notes": [], "empty": why}
    return drawn


def log_or_linear(drawn: go.Figure, values: np.ndarray, *, axis: str, what: str) -> np.ndarray:
    """Sets an axis to log where the values are positive, says how many are not and have no place there; the mask of what is drawn.

    Where more than one value in ten is zero or negative the axis is linear, and all finite values are drawn.
    """
    finite = np.isfinite(values)
    positive = finite & (values > 0)
    if not positive.any() or (finite & ~positive).sum() > 0.1 * finite.sum():
        return finite
    log_axis(drawn, axis, values[positive])
    masked = int((finite & ~positive).sum())
    if masked:
        note(drawn, f"{masked} of {len(values)} values of {what} are zero or negative and have no place on a log axis.")
    return positive


def log_axis(drawn: go.Figure, axis: str, values: np.ndarray) -> None:
    """A log axis whose ticks are powers of ten where it spans two of them or more."""
    decades = np.log10(values.max()) - np.log10(values.min()) if len(values) else 0.0
    ticks = {"dtick": max(1, int(decades // 8 + 1))} if decades > 2 else {}
    drawn.update_layout({f"{axis}axis": {"type": "log", **ticks}})


class Symlog:
    """A scale that is linear within ±`small` and logarithmic beyond, with ticks to match: both signs and zero have a place."""

    def __init__(self, values: np.ndarray, decades: float = 6) -> None:
        sizes = np.abs(values[np.isfinite(values) & (values != 0)])
        largest = float(sizes.max()) if len(sizes) else 1.0
        smallest = float(np.quantile(sizes, 0.02)) if len(sizes) else 1.0
        self.small = 10.0 ** np.floor(np.log10(max(smallest, largest * 10.0**-decades, 1e-300)))
        self.values = values

    def __call__(self, values: Any) -> np.ndarray:
        array = np.asarray(values, np.float64)
        return np.sign(array) * np.log10(1 + np.abs(array) / self.small)

    def ticks(self) -> dict[str, Any]:
        """The axis settings that label this scale."""
        finite = self.values[np.isfinite(self.values)]
        found: list[float] = [0.0]
        for sign in (1, -1):
            side = sign * finite[sign * finite > 0]
            if len(side):
                high = int(np.ceil(np.log10(max(side.max(), self.small))))
                low = int(np.log10(self.small))
                every = max(1, (high - low + 4) // 5)
                found += [sign * 10.0**power for power in range(high, low - 1, -every)]
        found.sort()
        return {"tickmode": "array", "tickvals": list(self(found)), "ticktext": [power_text(value) for value in found]}


def power_text(value: float) -> str:
    """A tick's text: 0, ±1, ±10, ±10ⁿ."""
    if value == 0:
        return "0"
    power = round(np.log10(abs(value)))
    sign = "−" if value < 0 else ""
    return f"{sign}{10**power}" if 0 <= power <= 3 else f"{sign}10<sup>{power}</sup>"


def thin(count: int, most: int = MOST_POINTS) -> np.ndarray:
    """Indices of at most `most` of `count` points, evenly spaced, first and last among them."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int)) if count else np.empty(0, int)


def number(value: float) -> str:
    """A number in three digits."""
    return f"{value:.3g}"
