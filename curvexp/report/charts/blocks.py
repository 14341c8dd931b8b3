"""The chart of a run's spectrum by block: what `load_blocks` and `load_block_densities` read."""

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from curvexp.report.charts import style

MOST_BLOCKS = 12  # with a line of their own: those of the largest eigenvalue


def blocks(frame: pd.DataFrame | None, densities: pd.DataFrame | None = None) -> go.Figure:
    """Largest eigenvalue of each block of one run against step; below, each block's spectral density at the last reading that has one.

    Args:
        frame: of `load_blocks`: run, step, block, eigenvalue, residual. Of several runs the first is drawn.
        densities: of `load_block_densities`: run, step, block, x, density.
    """
    title = "Largest eigenvalue by block"
    rows = _of_run(frame, None if frame is None or frame.empty else frame["run"].iloc[0])
    rows = rows[np.isfinite(rows["eigenvalue"].astype(float))] if len(rows) else rows
    if rows.empty:
        return style.empty(title, "No spectrum by block was recorded: probe=blocks measures it.")
    top = rows.loc[rows.groupby(["block", "step"], sort=False)["eigenvalue"].idxmax()]
    order = top.groupby("block", sort=False)["eigenvalue"].max().sort_values(ascending=False).index
    shown = [name for name in top["block"].drop_duplicates() if name in set(order[:MOST_BLOCKS])]
    curves = _of_run(densities, rows["run"].iloc[0])
    curves = curves[curves["block"].isin(shown)] if len(curves) else curves
    drawn = make_subplots(rows=2 if len(curves) else 1, cols=1, vertical_spacing=0.16)
    drawn.update_layout(style.layout(title=title, height=640 if len(curves) else 420))
    values = top["eigenvalue"].to_numpy(np.float64)
    scale = None if values.min() > 0 and values.max() < 100 * values.min() else style.Symlog(values)
    for index, name in enumerate(shown):
        _line(drawn, top[top["block"] == name].sort_values("step"), index, scale)
    drawn.update_xaxes(**style.AXIS)
    drawn.update_yaxes(**style.AXIS)
    drawn.update_xaxes(title="step", row=1, col=1)
    drawn.update_yaxes(title="largest eigenvalue", row=1, col=1, **(scale.ticks() if scale else {}))
    notes = ["Residuals show on hover."]
    if scale:
        notes.append(f"The axis is linear within ±{style.number(scale.small)} and logarithmic beyond.")
    if len(order) > len(shown):
        notes.append(f"{len(order) - len(shown)} of {len(order)} blocks, with smaller eigenvalues, are left out.")
    if len(curves):
        notes.append(_densities(drawn, curves, shown))
    style.note(drawn, *notes, style.whose(rows))
    return drawn


def _line(drawn: go.Figure, rows: pd.DataFrame, index: int, scale: style.Symlog | None) -> None:
    rows = rows.iloc[style.thin(len(rows))]
    name = style.name(rows["block"].iloc[0])
    drawn.add_trace(
        go.Scatter(
            x=rows["step"],
            y=scale(rows["eigenvalue"]) if scale else rows["eigenvalue"],
            customdata=rows[["eigenvalue", "residual"]].to_numpy(np.float64),
            mode="lines+markers" if len(rows) < 40 else "lines",
            marker={"size": 4},
            line=_look(index),
            name=name,
            legendgroup=name,
            hovertemplate="λ = %{customdata[0]:.4g} ± %{customdata[1]:.1g} at step %{x}",
        ),
        row=1,
        col=1,
    )


def _densities(drawn: go.Figure, curves: pd.DataFrame, shown: list[str]) -> str:
    """Draws the densities of the last step that has one, each with its peak at 1; what the panel shows, in a sentence."""
    step = curves["step"].max()
    curves = curves[curves["step"] == step]
    scale = style.Symlog(curves["x"].to_numpy(np.float64))
    for index, block in enumerate(shown):
        curve = curves[curves["block"] == block].sort_values("x")
        if len(curve) < 3:
            continue
        x = curve["x"].to_numpy(np.float64)
        at = scale(x)
        per_axis = curve["density"].to_numpy(np.float64) * np.abs(np.gradient(x, at))
        name = style.name(block)
        drawn.add_trace(
            go.Scatter(
                x=at, y=per_axis / (per_axis.max() or 1.0), mode="lines", line=_look(index), name=f"density, {name}",
                legendgroup=name, showlegend=False, customdata=x, hovertemplate="λ = %{customdata:.3g}",
            ), row=2, col=1,
        )  # fmt: skip
    drawn.update_xaxes(title="eigenvalue λ", row=2, col=1, **scale.ticks())
    drawn.update_yaxes(title="density (peak 1)", row=2, col=1, showticklabels=False)
    return f"Below: densities at step {int(step)} of the eigenvalues under the k largest, per unit of that axis, each with its peak at 1."


def _look(index: int) -> dict[str, object]:
    turn, colour = divmod(index, len(style.COLOURS))
    return {"color": style.COLOURS[colour], "dash": style.DASHES[turn % len(style.DASHES)], "width": 1.5}


def _of_run(frame: pd.DataFrame | None, run: object) -> pd.DataFrame:
    return pd.DataFrame() if frame is None or frame.empty else frame[frame["run"] == run]
