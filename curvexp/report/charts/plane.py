"""Charts of the loss on a plane: contours with the way of a run, and the surface itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from curvexp.report.charts import style

Plane = dict[str, Any]
FLAT = 1e-6  # of the largest |λ|: an eigenvalue under it is shown as zero


def contour(frame: Plane) -> go.Figure:
    """Contours of the loss on a plane, the way of the run on it, and the Hessian's eigenvectors at the end as the ellipse's axes.

    An axis is as long as 1/√|λ|, so that on a quadratic it ends on one level curve; a dashed one has λ < 0.

    Args:
        frame: a plane of `load_planes`.
    """
    drawn = style.figure(
        title=_title(frame, "Contours of the loss"),
        x=style.name(frame["axes"][0]),
        y=style.name(frame["axes"][1]),
        height=520,
    )
    _contours(drawn, frame)
    if frame["name"] == "parameters":
        drawn.update_yaxes(scaleanchor="x", scaleratio=1)
    return drawn


def surface(frame: Plane) -> go.Figure:
    """The loss over a plane as a surface that turns under the pointer, with the way of the run on it.

    Args:
        frame: a plane of `load_planes`.
    """
    heights, text = _heights(frame["loss"])
    drawn = style.figure(title=_title(frame, "Surface of the loss"), x="", y="", height=520)
    drawn.add_trace(
        go.Surface(
            x=frame["x"], y=frame["y"], z=heights, colorscale="Cividis", showscale=False, opacity=0.95, name="loss"
        )
    )
    path = _inside(frame)
    if len(path) > 1:
        on = _at(frame, heights, path)
        drawn.add_trace(
            go.Scatter3d(x=path[:, 0], y=path[:, 1], z=on, mode="lines+markers", name="way of the run",
                         line={"color": style.COLOURS[1], "width": 5}, marker={"size": 3, "color": style.COLOURS[1]})
        )  # fmt: skip
    axis = {"backgroundcolor": "rgba(0,0,0,0)", "gridcolor": style.GRID}
    drawn.update_layout(
        scene={
            "xaxis": {**axis, "title": {"text": "x"}},
            "yaxis": {**axis, "title": {"text": "y"}},
            "zaxis": {**axis, "title": {"text": text}},
        },
        margin={"l": 0, "r": 0, "t": 48, "b": 0},
    )
    style.note(drawn, f"x: {style.name(frame['axes'][0])}; y: {style.name(frame['axes'][1])}. Drag to turn it.")
    return drawn


def landscape(frame: Plane) -> go.Figure:
    """Contours of a network's loss around the point where its run ended, along two directions.

    Args:
        frame: a plane of `load_planes` named `eigenvectors` or `random`.
    """
    which = {"eigenvectors": "along the two leading eigenvectors", "random": "along two random directions"}
    drawn = contour(frame)
    drawn.layout.title.text = f"Loss around the final point, {which.get(frame['name'], '')}"
    if frame["name"] == "random":
        style.note(drawn, "At 1 each filter has moved by as much as it is long (filter-normalized, Li et al. 2018).")
    return drawn


def forms(frame: Sequence[Plane]) -> go.Figure:
    """Several planes side by side, one a problem: bowl, valley, saddle and dome tell the signs of the curvature apart.

    Args:
        frame: planes of `load_planes`, each with a `problem`; the first of each problem is drawn, at most four.
    """
    first: dict[str, Plane] = {}
    for plane in frame:
        first.setdefault(str(plane.get("problem", plane["run"])), plane)
    chosen = list(first.items())[:4]
    if not chosen:
        return style.empty("Forms side by side", "No run has the loss on a plane.")
    drawn = make_subplots(rows=(len(chosen) + 1) // 2, cols=min(len(chosen), 2), subplot_titles=[style.name(_eigen_text(n, p)) for n, p in chosen],
                          vertical_spacing=0.12, horizontal_spacing=0.12)  # fmt: skip
    drawn.update_layout(
        style.layout(title="The forms of curvature side by side", height=140 + 300 * ((len(chosen) + 1) // 2))
    )
    for index, (_, plane) in enumerate(chosen):
        _contours(drawn, plane, row=index // 2 + 1, col=index % 2 + 1, legend=index == 0, bar=False)
    drawn.update_xaxes(gridcolor=style.GRID)
    drawn.update_yaxes(gridcolor=style.GRID)
    style.note(
        drawn,
        "Orange: the way of a run from its start (hollow) to its end (filled). Black and white bars: eigenvectors, 1/√|λ| long.",
    )
    return drawn


def _contours(
    drawn: go.Figure,
    frame: Plane,
    *,
    row: int | None = None,
    col: int | None = None,
    legend: bool = True,
    bar: bool = True,
) -> None:
    heights, text = _heights(frame["loss"])
    place = {"row": row, "col": col} if row else {}
    drawn.add_trace(
        go.Contour(x=frame["x"], y=frame["y"], z=heights, customdata=frame["loss"], colorscale="Cividis", ncontours=18, opacity=0.9,
                   line={"width": 0.6}, showscale=bar, colorbar={"title": text, "thickness": 12}, name="loss",
                   hovertemplate="(%{x:.3g}, %{y:.3g})<br>loss %{customdata:.4g}<extra></extra>"), **place,
    )  # fmt: skip
    path = _inside(frame)
    end = path[-1] if len(path) else np.zeros(2)
    values, vectors = frame.get("eigenvalues"), frame.get("eigenvectors")
    if values is not None and vectors is not None:
        window = min(np.ptp(frame["x"]), np.ptp(frame["y"]))
        sizes = np.abs(values)
        lengths = 1 / np.sqrt(np.maximum(sizes, max(sizes.max(), 1e-300) * 1e-4))
        lengths = 0.4 * window * lengths / lengths.max()
        for value, length, vector in zip(values, np.maximum(lengths, 0.05 * window), vectors.T, strict=True):
            ends = np.array([end - length * vector, end + length * vector])
            shown = f"eigenvector of λ = {_eigenvalue(value, sizes.max())}"
            for colour, width in (("#000000", 4), ("#FFFFFF", 2)):
                drawn.add_trace(
                    go.Scatter(x=ends[:, 0], y=ends[:, 1], mode="lines", name=shown, showlegend=False, hovertemplate=shown,
                               line={"color": colour, "width": width, "dash": "dash" if value < -FLAT * sizes.max() else "solid"}), **place,
                )  # fmt: skip
        if not row:
            style.note(drawn, "Bars: the Hessian's eigenvectors at the end, 1/√|λ| long as an ellipse's axes; dashed where λ < 0: "
                       + ", ".join(f"λ = {_eigenvalue(value, sizes.max())}" for value in values) + ".")  # fmt: skip
    if len(path):
        symbols = ["circle-open"] + ["circle"] * (len(path) - 1)
        sizes = [10] + [4] * (len(path) - 2) + [10] * (len(path) > 1)
        drawn.add_trace(
            go.Scatter(x=path[:, 0], y=path[:, 1], mode="lines+markers" if len(path) > 1 else "markers",
                       name="way of the run, ○ to ●" if len(path) > 1 else "final point", showlegend=legend,
                       line={"color": style.COLOURS[1], "width": 2}, marker={"symbol": symbols if len(path) > 1 else "circle", "size": sizes, "color": style.COLOURS[1]}), **place,
        )  # fmt: skip
    drawn.update_xaxes(range=[frame["x"].min(), frame["x"].max()], **place)
    drawn.update_yaxes(range=[frame["y"].min(), frame["y"].max()], **place)
    if bar and not row:
        style.note(drawn, f"Colour: {text}.")


def _heights(loss: np.ndarray) -> tuple[np.ndarray, str]:
    """What is drawn for the loss, and what it is called: its logarithm where it is positive and spans much, else itself."""
    finite = loss[np.isfinite(loss)]
    if len(finite) and finite.min() >= 0 and finite.max() > 50 * max(float(np.median(finite)), 1e-300):
        floor = max(float(finite[finite > 0].min(initial=np.inf)), finite.max() * 1e-8)
        return np.log10(np.maximum(loss, floor)), "log₁₀ loss"
    return loss, "loss"


def _inside(frame: Plane) -> np.ndarray:
    """The points of the run's way that lie in the window, thinned, up to the first that does not."""
    path = np.asarray(frame["path"], np.float64)
    x, y = frame["x"], frame["y"]
    out = ~((path[:, 0] >= x.min()) & (path[:, 0] <= x.max()) & (path[:, 1] >= y.min()) & (path[:, 1] <= y.max()))
    path = path[: int(np.argmax(out))] if out.any() else path
    return path[style.thin(len(path))]


def _at(frame: Plane, heights: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Bilinear heights at points of the plane."""
    x, y = frame["x"], frame["y"]
    fx = np.clip((path[:, 0] - x[0]) / (x[1] - x[0]), 0, len(x) - 1.001)
    fy = np.clip((path[:, 1] - y[0]) / (y[1] - y[0]), 0, len(y) - 1.001)
    i, j = fx.astype(int), fy.astype(int)
    a, b = fx - i, fy - j
    return (1 - b) * ((1 - a) * heights[j, i] + a * heights[j, i + 1]) + b * (
        (1 - a) * heights[j + 1, i] + a * heights[j + 1, i + 1]
    )


def _eigenvalue(value: float, largest: float) -> str:
    return "0" if abs(value) <= FLAT * largest else style.number(value)


def _title(frame: Plane, text: str) -> str:
    return f"{text} of {style.name(frame['problem'])}" if "problem" in frame else text


def _eigen_text(problem: str, frame: Plane) -> str:
    values = frame.get("eigenvalues")
    return (
        problem
        if values is None
        else f"{problem}: λ = " + ", ".join(_eigenvalue(v, np.abs(values).max()) for v in values)
    )
