"""Charts over many runs: a line or a point a setting, the spread over its runs as a band."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from curvexp.report.charts import style
from curvexp.report.frames import metrics_of, runs_of

Looks = dict[str, style.Look]
TARGET = 1e-3  # of the initial distance, where the config says `auto`


AXIS = (-1.0, 3.0)  # of measured over predicted
VERDICTS = {"pass": style.COLOURS[0], "fail": style.COLOURS[1]}


def loss(frame: Any, *, looks: Looks | None = None) -> go.Figure:
    """Loss against step by setting: the median over its runs, the band from its smallest to its largest; where runs diverged, a cross.

    Args:
        frame: Runs, or their metrics: run, step, loss; with problem, setting and status where `frames.joined` put them.
        looks: colour and dash by setting, for the same in every chart; as `style.looks` gives them.
    """
    return _lines(metrics_of(frame), "loss", title="Loss", y="training loss", looks=looks)


def sharpness(frame: Any, *, looks: Looks | None = None) -> go.Figure:
    """Sharpness against step by setting, and its threshold as a thin line of the same colour.

    Args:
        frame: Runs, or their metrics: run, step, sharpness, threshold. looks: as for `loss`.
    """
    metrics = metrics_of(frame)
    drawn = _lines(metrics, "sharpness", title="Sharpness and its threshold", y="sharpness", looks=looks)
    if "threshold" not in metrics or (drawn.layout.meta or {}).get("empty"):
        return drawn
    looks = looks or style.looks(metrics["setting"].dropna())
    shown = metrics[metrics["threshold"].gt(0) & np.isfinite(metrics["threshold"])]
    first = True
    for setting, rows in shown.groupby("setting", sort=False):
        look = looks.get(str(setting), style.Look(style.GREY, "solid", "circle", False))
        if not look.named:
            continue
        steps, middle, _, _ = _band(rows, "threshold")
        drawn.add_trace(
            go.Scatter(
                x=steps,
                y=middle,
                mode="lines",
                line={"color": look.colour, "width": 1, "dash": "longdashdot"},
                name="threshold of the same colour" if first else style.name(setting),
                legendgroup="threshold",
                showlegend=first,
                hovertemplate="threshold %{y:.3g} at step %{x}<extra></extra>",
            )
        )
        first = False
    style.note(
        drawn,
        "Thin dash-dotted lines: the largest curvature at which the step is stable. Above it a quadratic diverges.",
    )
    return drawn


def rate(frame: Any, *, looks: Looks | None = None) -> go.Figure:
    """Measured convergence rate against theory's, one point a run, as 1 − rate on log axes; on the line they agree.

    Args:
        frame: Runs, or their runs: rate, rate_theory, setting. looks: as for `loss`.
    """
    title = "Convergence rate: measured against theory"
    runs = runs_of(frame)
    x, y = 1 - _column(runs, "rate_theory"), 1 - _column(runs, "rate")
    keep = np.isfinite(x) & np.isfinite(y) & (x > 0) & (y > 0)
    if not keep.any():
        return style.empty(
            title,
            "No run has both a measured rate and one of theory's below 1: theory knows it on quadratic losses only.",
        )
    drawn = style.figure(title=title, x="theory: 1 − rate a step", y="measured: 1 − rate a step")
    _points(drawn, runs[keep], x[keep], y[keep], looks)
    span = [min(x[keep].min(), y[keep].min()) * 0.7, max(x[keep].max(), y[keep].max()) * 1.4]
    drawn.add_trace(_theory_line(span, span, "measured = theory", "dash"))
    style.log_axis(drawn, "x", x[keep])
    style.log_axis(drawn, "y", y[keep])
    left = int((np.isfinite(x) & np.isfinite(y) & ~keep).sum())
    style.note(drawn, f"{left} runs with a rate of 1 or more do not shrink and have no place here." if left else "")
    return drawn


def condition_steps(frame: Any, *, looks: Looks | None = None) -> go.Figure:
    """Condition number against steps to the target, log-log, one point a run; the fitted slope, and theory's two lines.

    Theory for the best step sizes and a target of ε of the initial loss: ln ε / (2 ln ρ) steps with ρ = (κ−1)/(κ+1) for gradient
    descent and (√κ−1)/(√κ+1) for heavy ball. A hollow point has a lower bound of κ only; an upward triangle never reached the target, and
    is at its last step.

    Args:
        frame: Runs, or their runs: condition_number, condition_number_positive, condition_number_bound, steps_to_target, steps.

    Source: Polyak 1964; Nesterov 2018, thm 2.1.15.
    """
    title = "Condition number against steps to the target"
    runs = runs_of(frame)
    exact, positive = _column(runs, "condition_number"), _column(runs, "condition_number_positive")
    bound = _column(runs, "condition_number_bound")
    kappa = np.where(np.isfinite(exact), exact, np.where(np.isfinite(positive), positive, bound))
    is_bound = ~np.isfinite(exact) & ~np.isfinite(positive)
    others = (
        runs["operator"].fillna("hessian").ne("hessian").to_numpy() if "operator" in runs else np.zeros(len(runs), bool)
    )
    kappa = np.where(others, np.nan, kappa)
    steps, last = _column(runs, "steps_to_target"), _column(runs, "steps")
    has_target = np.isfinite(_column(runs, "target_loss")) if "target_loss" in runs else np.isfinite(steps)
    censored = ~np.isfinite(steps) & has_target & (runs["status"] == "completed").to_numpy()
    y = np.where(censored, last, steps)
    keep = np.isfinite(kappa) & (kappa >= 1) & np.isfinite(y) & (y > 0)
    if not keep.any():
        return style.empty(
            title, "No run has both a condition number of the Hessian and a step at which it reached a target."
        )
    drawn = style.figure(title=title, x="condition number κ at the end", y="steps to the target")
    symbols = np.where(censored, "triangle-up", np.where(is_bound, "circle-open", "circle"))
    _points(drawn, runs[keep], kappa[keep], y[keep], looks, symbols[keep])
    fit = keep & ~censored & ~is_bound
    logs = np.log(np.where(fit, kappa, 1.0)), np.log(np.where(fit, y, 1.0))
    optims = runs["optim"].to_numpy(object) if "optim" in runs else np.full(len(runs), "")
    for optim in dict.fromkeys(optims[fit]):
        chosen = fit & (optims == optim)
        if len(np.unique(kappa[chosen])) >= 3:
            slope, offset = np.polyfit(logs[0][chosen], logs[1][chosen], 1)
            ends = np.array([kappa[chosen].min(), kappa[chosen].max()])
            text = f"{style.name(optim)}: steps ∝ κ^{slope:.2f}"
            drawn.add_trace(_theory_line(ends, np.exp(offset) * ends**slope, text, "solid"))
    exact_ones = keep & ~is_bound
    if exact_ones.any():
        fraction = _target_fraction(runs)
        grid = np.geomspace(max(kappa[exact_ones].min(), 1.5), max(kappa[exact_ones].max() * 1.2, 3), 60)
        for text, root, dash in (("gradient descent", 1.0, "dash"), ("heavy ball", 0.5, "dot")):
            k = grid**root
            line = math.log(fraction) / (2 * np.log((k - 1) / (k + 1)))
            drawn.add_trace(_theory_line(grid, np.maximum(line, 1), f"theory, best {text}", dash))
        style.note(
            drawn, f"Theory: best step sizes, loss down to {fraction:g} of its initial distance from the minimum."
        )
    style.log_axis(drawn, "x", kappa[keep])
    style.log_axis(drawn, "y", y[keep])
    notes = [
        "Hollow points: only a lower bound of κ was measured." if (keep & is_bound).any() else "",
        f"Triangles: {int((keep & censored).sum())} runs that never reached the target, at their last step; not in the fit."
        if (keep & censored).any()
        else "",
        f"{int((~keep).sum())} runs without a condition number of the Hessian or a target are not shown."
        if (~keep).any()
        else "",
    ]
    style.note(drawn, *notes)
    return drawn


def verdicts(frame: pd.DataFrame) -> go.Figure:
    """A study's claims: each measured value with its interval, divided by theory's prediction; within the grey band the claim holds.

    Args:
        frame: statement, relation (=, ≤ or ≥), prediction, measurement, low, high, allowed, verdict: a row a claim.
    """
    title = "Measured over predicted, claim by claim"
    prediction, measured = _column(frame, "prediction"), _column(frame, "measurement")
    good = np.isfinite(prediction) & (prediction != 0) & np.isfinite(measured)
    if not good.any():
        return style.empty(title, "No claim has a measured number beside a predicted one other than zero.")
    rows = frame[good]
    ratio = {key: _column(rows, key) / prediction[good] for key in ("measurement", "low", "high")}
    places = np.flatnonzero(good) + 1
    names = [f"{place}. {style.name(text, 24)}" for place, text in zip(places, rows["statement"], strict=True)]
    shown = np.clip(ratio["measurement"], *AXIS)
    beyond = shown != ratio["measurement"]
    drawn = style.figure(title=title, x="measured / predicted", y="", height=140 + 34 * len(rows))
    down = np.nan_to_num(shown - np.minimum(ratio["low"], ratio["high"]))
    up = np.nan_to_num(np.maximum(ratio["low"], ratio["high"]) - shown)
    verdict = rows["verdict"].astype(str)
    for kind in dict.fromkeys(verdict):
        mask = (verdict == kind).to_numpy()
        symbols = np.where(beyond, np.where(shown > 1, "triangle-right", "triangle-left"), "circle")
        drawn.add_trace(
            go.Scatter(
                x=shown[mask],
                y=[text for text, chosen in zip(names, mask, strict=True) if chosen],
                mode="markers",
                marker={"size": 10, "color": VERDICTS.get(kind, style.COLOURS[2]), "symbol": symbols[mask]},
                error_x={
                    "type": "data",
                    "array": np.where(beyond, 0, up)[mask],
                    "arrayminus": np.where(beyond, 0, down)[mask],
                    "symmetric": False,
                },
                customdata=ratio["measurement"][mask],
                hovertemplate="%{y}<br>measured / predicted %{customdata:.6g}<extra></extra>",
                name=style.name(kind),
            )
        )
    allowed = np.nan_to_num(_column(rows, "allowed") / np.abs(prediction[good]))
    for index, (wide, relation, sign) in enumerate(
        zip(allowed, rows["relation"], np.sign(prediction[good]), strict=True)
    ):
        ends = (
            (1 - wide, 1 + wide)
            if relation == "="
            else (AXIS[0], 1)
            if (relation == "≤") == (sign > 0)
            else (1, AXIS[1])
        )
        drawn.add_shape(
            type="rect", x0=max(ends[0], AXIS[0]), x1=min(ends[1], AXIS[1]), y0=index - 0.35, y1=index + 0.35, yref="y", layer="below",
            line={"width": 0}, fillcolor="rgba(128,128,128,0.25)",
        )  # fmt: skip
    drawn.add_vline(x=1, line={"color": style.GREY, "dash": "dash"})
    drawn.update_yaxes(categoryorder="array", categoryarray=names, autorange="reversed")
    style.note(
        drawn,
        f"Triangles: {int(beyond.sum())} beyond the axis." if beyond.any() else "",
        f"{int((~good).sum())} claims whose prediction is zero or open stand in the table alone."
        if (~good).any()
        else "",
    )
    return drawn


def _lines(metrics: pd.DataFrame, column: str, *, title: str, y: str, looks: Looks | None) -> go.Figure:
    if column not in metrics or not np.isfinite(metrics[column]).any():
        return style.empty(title, f"No record has a {column}: no probe measured it, or nothing was recorded.")
    looks = looks or style.looks(metrics["setting"].dropna())
    drawn = style.figure(title=title, x="step", y=y)
    rows = metrics[["step", column, "setting", "run", "status"]]
    mask = style.log_or_linear(drawn, rows[column].to_numpy(np.float64), axis="y", what=column)
    rows = rows[mask]
    thinned, others, crosses = False, 0, 0
    for setting, group in rows.groupby("setting", sort=False):
        look = looks.get(str(setting), style.Look(style.GREY, "solid", "circle", False))
        steps, middle, low, high = _band(group, column)
        chosen = style.thin(len(steps))
        thinned |= len(chosen) < len(steps)
        steps, middle, low, high = steps[chosen], middle[chosen], low[chosen], high[chosen]
        if look.named and (high > low).any():
            drawn.add_trace(
                go.Scatter(
                    x=np.concatenate([steps, steps[::-1]]),
                    y=np.concatenate([high, low[::-1]]),
                    fill="toself",
                    fillcolor=style.rgba(look.colour, 0.18),
                    line={"width": 0},
                    hoverinfo="skip",
                    showlegend=False,
                    legendgroup=str(setting),
                )
            )
        drawn.add_trace(
            go.Scatter(
                x=steps,
                y=middle,
                mode="lines+markers" if len(steps) == 1 else "lines",
                name=style.name(setting) if look.named else "further settings",
                legendgroup=str(setting) if look.named else "further",
                showlegend=look.named or others == 0,
                line={"color": look.colour, "dash": look.dash, "width": 2 if look.named else 0.7},
                text=[style.name(setting)] * (0 if look.named else len(steps)),
                hovertemplate="%{y:.4g} at step %{x}" + ("" if look.named else "<br>%{text}"),
            )
        )
        others += not look.named
        gone = group[group["status"] == "diverged"]
        if len(gone):
            ends = gone.loc[gone.groupby("run")["step"].idxmax()]
            drawn.add_trace(
                go.Scatter(
                    x=ends["step"],
                    y=ends[column],
                    mode="markers",
                    marker={"symbol": "x", "size": 10, "color": look.colour},
                    name="diverged here",
                    legendgroup="diverged",
                    showlegend=crosses == 0,
                    hovertemplate=f"{style.name(setting)} diverged after step %{{x}}<extra></extra>",
                )
            )
            crosses += 1
    runs = metrics.groupby("setting")["run"].nunique()
    style.note(
        drawn,
        "Lines: at each step the median over the runs that got there; bands: from their smallest to their largest."
        if (runs > 1).any()
        else "",
        f"Lines are thinned to {style.MOST_POINTS} points." if thinned else "",
        f"{others} further settings stand in grey under one entry; their names show on hover." if others else "",
    )
    return drawn


def _band(rows: pd.DataFrame, column: str) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Steps, and the median, smallest and largest of the runs that have a value there."""
    groups = rows.groupby("step", sort=True)[column]
    found = groups.agg(["median", "min", "max"])
    middle, low, high = (found[name].to_numpy(np.float64) for name in ("median", "min", "max"))
    return found.index.to_numpy(), middle, low, high


def _points(
    drawn: go.Figure,
    runs: pd.DataFrame,
    x: np.ndarray,
    y: np.ndarray,
    looks: Looks | None,
    symbols: np.ndarray | None = None,
) -> None:
    looks = looks or style.looks(runs["setting"])
    settings = runs["setting"].to_numpy(object)
    seen_further = False
    for setting in dict.fromkeys(settings):
        mask = settings == setting
        look = looks.get(setting, style.Look(style.GREY, "solid", "circle", False))
        drawn.add_trace(
            go.Scatter(
                x=x[mask],
                y=y[mask],
                mode="markers",
                marker={
                    "color": look.colour,
                    "size": 9,
                    "symbol": list(symbols[mask]) if symbols is not None else look.symbol,
                    "line": {"width": 1.5, "color": look.colour},
                },
                name=style.name(setting) if look.named else "further settings",
                legendgroup=setting if look.named else "further",
                showlegend=look.named or not seen_further,
                text=[style.name(text) for text in runs["run"].to_numpy(object)[mask]],
                hovertemplate="run %{text}<br>%{x:.4g}, %{y:.4g}",
            )
        )
        seen_further |= not look.named


def _theory_line(x: Iterable[float], y: Iterable[float], text: str, dash: str) -> go.Scatter:
    return go.Scatter(
        x=list(x), y=list(y), mode="lines", name=text, line={"color": style.GREY, "dash": dash, "width": 1.5}
    )


def _target_fraction(runs: pd.DataFrame) -> float:
    values = _column(runs, "config.target")
    values = values[np.isfinite(values) & (values > 0) & (values < 1)]
    return float(np.median(values)) if len(values) else TARGET


def _column(frame: pd.DataFrame, name: str) -> np.ndarray:
    if name not in frame:
        return np.full(len(frame), np.nan)
    return pd.to_numeric(frame[name], errors="coerce").to_numpy(np.float64, na_value=np.nan)
