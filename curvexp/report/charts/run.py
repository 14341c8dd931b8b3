"""Charts of one run: its spectrum, its ledger along the eigenvectors, and what its steps did."""

import itertools
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go
from plotly.subplots import make_subplots

from curvexp import theory
from curvexp.quantities import OPERATORS
from curvexp.report.charts import style
from curvexp.report.frames import metrics_of, spectra_of
from curvexp.store import Runs

MOST_LINES = 20  # eigenvalues followed: the ends of the spectrum, evenly
MOST_RUG = 1000  # eigenvalues of a rug


def eigenvalues(frame: Any) -> go.Figure:
    """All tracked eigenvalues of one run against step, on a scale with room for both signs; bars are the residuals.

    Args:
        frame: Runs, or their spectra: run, step, index, eigenvalue, residual. Of several runs the first is drawn.
    """
    spectra = _first_run(spectra_of(frame))
    title = f"Tracked eigenvalues of the {OPERATORS.get(style.operator(spectra), 'measured operator')}"
    if spectra.empty or not np.isfinite(spectra["eigenvalue"]).any():
        return style.empty(title, "No spectrum was recorded: the probe was off, or no eigenvalue is finite.")
    scale = style.Symlog(spectra["eigenvalue"].to_numpy())
    drawn = style.figure(title=title, x="step", y="eigenvalue λ")
    ranks = np.sort(spectra["index"].unique())
    chosen = ranks[style.thin(len(ranks), MOST_LINES)]
    wide = spectra.pivot_table(index="step", columns="index", values=["eigenvalue", "residual"], dropna=False)
    steps = wide.index.to_numpy()
    keep = style.thin(len(steps))
    for position, rank in enumerate(chosen):
        values = wide["eigenvalue"][rank].to_numpy()[keep]
        drawn.add_trace(
            go.Scatter(
                x=steps[keep],
                y=scale(values),
                customdata=np.stack([values, _or_nan(wide, rank)[keep]], axis=1),
                mode="lines+markers" if len(keep) < 40 else "lines",
                marker={"size": 4},
                line={"color": _between(position, len(chosen)), "width": 1.5},
                name="largest"
                if rank == ranks[-1]
                else "smallest"
                if rank == ranks[0]
                else f"λ number {rank + 1} from below",
                showlegend=bool(rank in (ranks[0], ranks[-1])),
                hovertemplate="λ = %{customdata[0]:.4g} ± %{customdata[1]:.1g} at step %{x}",
            )
        )
    drawn.update_yaxes(**scale.ticks())
    dropped = len(ranks) - len(chosen)
    style.note(
        drawn,
        f"The axis is linear within ±{style.number(scale.small)} and logarithmic beyond.",
        f"{dropped} of {len(ranks)} eigenvalues are left out between those shown." if dropped else "",
        style.whose(spectra),
    )
    return drawn


def gradient_overlap(frame: Any) -> go.Figure:
    """Share of the gradient's energy along the leading eigenvectors of one run, ⟨g,v⟩²/‖g‖², and along all that are tracked.

    Args:
        frame: Runs, or their spectra: run, step, index, gradient_overlap. Of several runs the first is drawn.

    Source: Gur-Ari, Roberts, Dyer 2018.
    """
    title = "Gradient along the leading eigenvectors"
    spectra = _first_run(spectra_of(frame)).dropna(subset=["gradient_overlap"])
    if spectra.empty:
        return style.empty(title, "No gradient overlap was recorded: the probe was off, or it has no eigenvectors.")
    drawn = style.figure(title=title, x="step", y="share of ‖g‖²")
    wide = spectra.pivot_table(index="step", columns="index", values="gradient_overlap")
    steps, values = wide.index.to_numpy(), wide.to_numpy()
    keep = style.thin(len(steps))
    tops = (
        ("along the largest λ", values[:, -1:], "solid", 0),
        ("along the three largest", values[:, -3:], "dash", 1),
        (f"along all {values.shape[1]} tracked", values, "dot", 2),
    )
    for text, part, dash, colour in tops:
        drawn.add_trace(
            go.Scatter(
                x=steps[keep],
                y=np.nansum(part, axis=1)[keep],
                mode="lines+markers",
                name=text,
                line={"color": style.COLOURS[colour], "dash": dash},
                hovertemplate="%{y:.3f} at step %{x}",
            )
        )
    drawn.update_yaxes(range=[-0.02, 1.05])
    style.note(drawn, style.whose(spectra))
    return drawn


def spectrum(frame: Any, densities: pd.DataFrame | None = None) -> go.Figure:
    """The spectrum of one run at its start, middle and end: exact values as a rug, the density with its error band above, outliers ringed.

    An outlier is a measured eigenvalue beyond where the density, less two standard errors, has its last hundredth of the peak; without a
    density, one that stands apart from its inner neighbour by more than half of its own size.

    Args:
        frame: Runs, or their spectra: run, step, eigenvalue. densities: of `load_densities`: run, step, x, density, stderr.
    """
    title = "Spectrum at the start, in the middle and at the end"
    spectra = _first_run(spectra_of(frame))
    if spectra.empty:
        return style.empty(title, "No spectrum was recorded: the probe was off.")
    run = spectra["run"].iloc[0]
    curves = None if densities is None else densities[densities["run"] == run]
    steps = np.sort(spectra["step"].unique())
    chosen = sorted({int(steps[0]), int(steps[len(steps) // 2]), int(steps[-1])})
    scale = style.Symlog(spectra[spectra["step"].isin(chosen)]["eigenvalue"].to_numpy())
    drawn = make_subplots(
        rows=len(chosen), cols=1, shared_xaxes=True, vertical_spacing=0.08, subplot_titles=[f"step {s}" for s in chosen]
    )
    drawn.update_layout(style.layout(title=title, height=140 + 130 * len(chosen)))
    has_density = curves is not None and not curves.empty
    for row, step in enumerate(chosen, 1):
        values = np.sort(spectra[spectra["step"] == step]["eigenvalue"].to_numpy())
        bulk = None
        if has_density and curves is not None:
            bulk = _add_density(drawn, row, curves[curves["step"] == step].sort_values("x"), scale)
        _add_rug(drawn, row, values[style.thin(len(values), MOST_RUG)], bulk, scale)
    drawn.update_xaxes(gridcolor=style.GRID, zerolinecolor="rgba(128,128,128,0.5)", **scale.ticks())
    drawn.update_xaxes(title="eigenvalue λ", row=len(chosen), col=1)
    drawn.update_yaxes(
        gridcolor=style.GRID,
        showticklabels=False,
        range=[-0.18, 1.25] if has_density else [-1, 1],
        fixedrange=True,
    )
    complete = bool(spectra.get("complete", pd.Series([False])).all())
    style.note(
        drawn,
        "All eigenvalues are shown." if complete else "Only the eigenvalues at the two ends were measured.",
        f"The axis is linear within ±{style.number(scale.small)} and logarithmic beyond"
        + (
            "; the density is per unit of this axis, its peak set to 1."
            if has_density
            else ". No density was measured (probe=density)."
        ),
        style.whose(spectra),
    )
    return drawn


def density(frame: pd.DataFrame) -> go.Figure:
    """Spectral density of one run against step as a heatmap, log10 of the density per unit of eigenvalue.

    Args:
        frame: of `load_densities`: run, step, x, density. Of several runs the first is drawn.
    """
    title = "Spectral density against step"
    if frame is None or frame.empty:
        return style.empty(title, "No spectral density was recorded: probe=density measures it.")
    rows = _first_run(frame)
    scale = style.Symlog(rows["x"].to_numpy())
    edges = scale(np.array([rows["x"].min(), rows["x"].max()]))
    grid = np.linspace(edges[0], edges[1], 160)
    steps = np.sort(rows["step"].unique())
    steps = steps[style.thin(len(steps))]
    columns = []
    for step in steps:
        curve = rows[rows["step"] == step].sort_values("x")
        columns.append(np.interp(grid, scale(curve["x"]), curve["density"], left=0, right=0))
    values = np.array(columns).T
    floor = values.max() * 1e-6
    drawn = style.figure(title=title, x="step", y="eigenvalue λ")
    drawn.add_trace(
        go.Heatmap(
            x=[str(step) for step in steps], y=grid, z=np.log10(np.maximum(values, floor)), colorscale="Cividis",
            colorbar={"title": "log₁₀ density", "thickness": 12}, hovertemplate="step %{x}<br>log₁₀ density %{z:.2f}<extra></extra>",
        )
    )  # fmt: skip
    drawn.update_xaxes(type="category")
    drawn.update_yaxes(**scale.ticks())
    style.note(drawn, "Densities below a millionth of the largest are shown as that.", style.whose(rows))
    return drawn


def components(found: Runs) -> pd.DataFrame:
    """Spectra with what `eigencomponents` needs: gradient_component |⟨g,v⟩| = ‖g‖√overlap, and lr, momentum, optim at that step."""
    about = found.runs.drop_duplicates("run").set_index("run")["optim"]
    names = [name for name in ("grad_norm", "lr", "momentum") if name in found.metrics]
    frame = found.spectra.merge(
        found.metrics[["run", "step", *names]].drop_duplicates(["run", "step"]), on=["run", "step"], how="left"
    )
    norm = frame.get("grad_norm", np.nan)
    return frame.assign(gradient_component=np.sqrt(frame["gradient_overlap"]) * norm, optim=frame["run"].map(about))


def eigencomponents(frame: Any) -> go.Figure:
    """Decay of the gradient's components along the eigenvectors of one run, relative to the start, against theory's contraction (dashed).

    Theory multiplies the component of λ a step by |1 − αλ| for gradient descent, by the spectral radius of the iteration for heavy ball
    and Nesterov. It holds where the eigenvectors stay: a quadratic loss, with all of its spectrum measured.

    Args:
        frame: Runs, or of `components`: run, step, index, eigenvalue, gradient_component, lr, optim, and momentum where there is one.

    Source: Goodfellow et al. 2016, sec. 4.3; Polyak 1964.
    """
    title = "Components along the eigenvectors: measured and theory's decay"
    rows = _first_run(components(frame) if isinstance(frame, Runs) else frame)
    if rows.empty or not np.isfinite(rows["gradient_component"]).any():
        return style.empty(title, "No gradient overlap was recorded: the probe was off, or it has no eigenvectors.")
    if style.operator(rows) != "hessian":
        return style.empty(title, f"{style.whose(rows)} Theory's decay is along the eigenvectors of the Hessian.")
    if not rows["complete"].all():
        return style.empty(
            title,
            "Only a part of the spectrum was measured: a component has no name from step to step. probe=exact measures all.",
        )
    drawn = style.figure(title=title, x="step", y="|⟨g, v⟩| relative to the start")
    ranks = np.sort(rows["index"].unique())
    chosen = ranks[style.thin(len(ranks), 6)]
    optim = str(rows["optim"].iloc[0])
    for position, rank in enumerate(chosen):
        part = rows[rows["index"] == rank].sort_values("step")
        start = float(part["gradient_component"].iloc[0])
        if not start > 0:
            continue
        value = float(part["eigenvalue"].iloc[0])
        steps, measured = part["step"].to_numpy(), part["gradient_component"].to_numpy() / start
        measured = np.where(measured > 0, measured, np.nan)
        keep = style.thin(len(steps))
        colour = style.COLOURS[position % len(style.COLOURS)]
        text = f"λ = {style.number(value)}"
        drawn.add_trace(
            go.Scatter(
                x=steps[keep], y=measured[keep], mode="markers", name=text, legendgroup=text,
                marker={"size": 6, "color": colour}, hovertemplate="%{y:.3g} at step %{x}",
            )
        )  # fmt: skip
        factor = contraction(value, optim, part.iloc[0])
        if factor is not None:
            line = np.exp(np.clip(steps[keep] * np.log(max(factor, 1e-300)), -600, 600))
            drawn.add_trace(
                go.Scatter(
                    x=steps[keep], y=line, mode="lines", name=f"theory, {text}", legendgroup=text, showlegend=False,
                    line={"color": colour, "dash": "dash", "width": 1.2}, hovertemplate="theory %{y:.3g} at step %{x}",
                )
            )  # fmt: skip
    values = np.concatenate(
        [np.asarray(t.y, np.float64) for t in drawn.data if "theory" not in (t.name or "")] or [np.ones(1)]
    )
    finite = values[np.isfinite(values) & (values > 0)]
    finite = finite if len(finite) else np.ones(1)
    low, high = np.log10(finite.min()), np.log10(finite.max())
    style.log_axis(drawn, "y", finite)
    drawn.update_yaxes(range=[max(low - 0.7, -16), high + 0.5])
    left = len(ranks) - len(chosen)
    style.note(
        drawn,
        "Points: measured. Dashed: theory's contraction a step, for the eigenvalue at the start. A component at rounding stays where it is.",
        f"{left} of {len(ranks)} components are left out between those shown." if left else "",
    )
    return drawn


def contraction(value: float, optim: str, hyper: pd.Series) -> float | None:
    """Theory's factor a step for an eigenvalue, None where there is none for this optimizer."""
    lr, momentum = hyper.get("lr", np.nan), hyper.get("momentum", np.nan)
    if not np.isfinite(lr):
        return None
    if optim == "sgd":
        return float(theory.gradient_descent_contraction(value, lr=lr))
    if optim in ("momentum", "nesterov") and np.isfinite(momentum):
        form = theory.heavy_ball_contraction if optim == "momentum" else theory.nesterov_contraction
        return float(form(value, lr=lr, momentum=momentum))
    return None


def taylor(frame: Any) -> go.Figure:
    """Change of the loss over a step: what the second-order Taylor model g's + ½s'Hs predicts against what happened; one point a reading.

    Args:
        frame: Runs, or their metrics: run, step, change_predicted, change_actual.

    Source: Goodfellow et al. 2016, eq. 4.8.
    """
    title = "Change of the loss a step: predicted against actual"
    metrics = metrics_of(frame)
    names = ["change_predicted", "change_actual"]
    if not set(names) <= set(metrics.columns) or metrics[names].dropna().empty:
        return style.empty(title, "No change of the loss was measured: the probe was off.")
    rows = metrics.dropna(subset=names)
    total = len(rows)
    rows = rows.iloc[style.thin(total, 2000)]
    x, y = (rows[key].to_numpy(np.float64) for key in names)
    scale = style.Symlog(np.concatenate([x, y]))
    drawn = style.figure(title=title, x="predicted change of the loss", y="actual change")
    drawn.add_trace(
        go.Scatter(
            x=scale(x), y=scale(y), mode="markers", name="a step",
            marker={"color": rows["step"], "colorscale": "Cividis", "size": 7, "colorbar": {"title": "step", "thickness": 12}},
            customdata=np.stack([x, y, rows["step"].to_numpy(np.float64)], axis=1),
            hovertemplate="predicted %{customdata[0]:.3g}, actual %{customdata[1]:.3g} at step %{customdata[2]}<extra></extra>",
        )
    )  # fmt: skip
    ends = scale(np.array([min(x.min(), y.min()), max(x.max(), y.max(), 0)]))
    drawn.add_trace(
        go.Scatter(x=ends, y=ends, mode="lines", name="predicted = actual", line={"color": style.GREY, "dash": "dash"})
    )
    drawn.update_xaxes(**scale.ticks())
    drawn.update_yaxes(**scale.ticks())
    style.note(
        drawn,
        f"Below zero the step lowered the loss. The axes are linear within ±{style.number(scale.small)} and logarithmic beyond.",
        f"{len(rows)} of {total} steps are shown." if len(rows) < total else "",
    )
    return drawn


def _add_density(drawn: go.Figure, row: int, curve: pd.DataFrame, scale: style.Symlog) -> tuple[float, float] | None:
    """Draws a density, its peak at 1, and its error band; the interval in which it surely stands above a hundredth of the peak."""
    if curve.empty:
        return None
    x, y, error = (curve[key].to_numpy() for key in ("x", "density", "stderr"))
    at = scale(x)
    per_axis = np.abs(np.gradient(x, at)) if len(x) > 2 else np.ones(len(x))
    y, error = y * per_axis, np.nan_to_num(error) * per_axis
    peak = y.max() or 1.0
    y, error = y / peak, error / peak
    low, high = np.maximum(y - 2 * error, 0), y + 2 * error
    drawn.add_trace(
        go.Scatter(
            x=np.concatenate([at, at[::-1]]), y=np.concatenate([high, low[::-1]]), fill="toself", line={"width": 0},
            fillcolor=style.rgba(style.COLOURS[0], 0.2), hoverinfo="skip", name="density ± 2 standard errors",
            showlegend=row == 1, legendgroup="band",
        ), row=row, col=1,
    )  # fmt: skip
    drawn.add_trace(
        go.Scatter(
            x=at, y=y, mode="lines", line={"color": style.COLOURS[0]}, name="density (peak 1)", showlegend=row == 1,
            legendgroup="density", customdata=x, hovertemplate="λ = %{customdata:.3g}",
        ), row=row, col=1,
    )  # fmt: skip
    seen = np.flatnonzero(y - 2 * error > 0.01)
    return (x[seen[0]], x[seen[-1]]) if len(seen) else None


def _add_rug(
    drawn: go.Figure, row: int, values: np.ndarray, bulk: tuple[float, float] | None, scale: style.Symlog
) -> None:
    """Draws eigenvalues as a rug, those outside of the bulk ringed."""
    out = _outliers(values, bulk)
    for mask, text, marker in (
        (~out, "eigenvalue", {"symbol": "line-ns-open", "size": 16, "color": style.COLOURS[2]}),
        (out, "outlier", {"symbol": "circle-open", "size": 11, "color": style.COLOURS[1], "line": {"width": 2}}),
    ):
        if mask.any():
            drawn.add_trace(
                go.Scatter(
                    x=scale(values[mask]), y=np.zeros(mask.sum()), mode="markers", marker=marker, name=text,
                    legendgroup=text, showlegend=not any(t.name == text for t in drawn.data), customdata=values[mask],
                    hovertemplate="λ = %{customdata:.5g}",
                ), row=row, col=1,
            )  # fmt: skip


def _outliers(values: np.ndarray, edge: tuple[float, float] | None) -> np.ndarray:
    if edge is not None:
        return (values < edge[0]) | (values > edge[1])
    out = np.zeros(len(values), bool)
    for side in (1, -1):  # from an end inwards, as long as the gap to the next is large
        order = np.arange(len(values))[:: -1 if side > 0 else 1]
        for here, inner in itertools.pairwise(order):
            if (
                abs(values[here] - values[inner]) <= 0.5 * abs(values[here])
                or len(values) < 4
                or out.sum() >= len(values) // 3
            ):
                break
            out[here] = True
    return out


def _first_run(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[frame["run"] == frame["run"].iloc[0]] if len(frame) else frame


def _between(position: int, count: int) -> str:
    """A colour between blue (smallest) and vermilion (largest)."""
    share = position / max(count - 1, 1)
    low, high = (0, 114, 178), (213, 94, 0)
    return "rgb({},{},{})".format(*(round(a + share * (b - a)) for a, b in zip(low, high, strict=True)))


def _or_nan(wide: pd.DataFrame, rank: int) -> np.ndarray:
    return wide["residual"][rank].to_numpy() if ("residual", rank) in wide else np.full(len(wide), np.nan)
