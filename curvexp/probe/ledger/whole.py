"""The ledger's figures of the whole: Taylor model of the coming step, stability, and what the tracked directions leave out."""

import math
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from curvexp import theory
from curvexp.optim import Optimizer
from curvexp.probe.conditioning import condition_number_bound, condition_numbers
from curvexp.probe.ledger.directions import predicted_contraction
from curvexp.probe.ledger.operator import Spectrum
from curvexp.record import Reading

LEAST_REST = 1e-4  # of the gradient's energy; less is the float32 rounding of what is tracked


def gradient_and_step(forms: dict[str, float]) -> dict[str, float]:
    """Directional curvature along the gradient, and what the coming step does to the loss beside its Taylor model."""
    gg, ghg, gs, shs = (forms[name] for name in ("gg", "ghg", "gs", "shs"))
    return {
        "gradient_curvature": ghg / gg if gg > 0 else math.nan,
        "best_lr_gradient": float(theory.best_step_along_gradient(gg, ghg)),
        "change_predicted": float(theory.taylor_change(gs, shs)),
        "change_actual": forms["change"],
        "best_step": float(theory.best_step_length(gs, shs)),
    }


def mean_of_batches(name: str, values: ArrayLike, exact: bool) -> dict[str, float]:
    values = np.asarray(values, np.float64)
    stderr = 0.0 if exact else float(values.std(ddof=1) / math.sqrt(len(values)))
    return {name: float(values.mean()), f"{name}_stderr": stderr}


def stability(
    spectrum: Spectrum,
    reading: Reading,
    divided: bool,
    hyper: dict[str, float],
    optimizer: Optimizer,
    *,
    eps: float,
) -> dict[str, Any]:
    """Sharpness beside its threshold, and the condition numbers of the operator that it belongs to; nothing where that is not known."""
    scalars: dict[str, Any] = {}
    if optimizer.operator is None:
        return scalars
    if divided:
        scalars = {"sharpness": spectrum.eigenvalues[-1], "sharpness_residual": spectrum.residuals[-1]}
        if spectrum.missed is not None:
            scalars["sharpness_missed"] = spectrum.missed[1]
    elif "lambda_max" in reading.scalars:
        scalars = {"sharpness": reading.scalars["lambda_max"]}
        if "lambda_max_missed" in reading.scalars:
            scalars["sharpness_missed"] = reading.scalars["lambda_max_missed"]
    if optimizer.threshold is not None and "sharpness" in scalars:
        with np.errstate(divide="ignore", invalid="ignore"):  # an lr of a schedule may be infinite, its threshold 0
            margin = np.float64(scalars["sharpness"]) / np.float64(optimizer.threshold(hyper))
        scalars["stability_margin"] = float(margin)
    if len(spectrum.eigenvalues) and np.isfinite(spectrum.eigenvalues).all():
        if spectrum.complete:
            names = ("condition_number", "condition_number_positive")
            known = not divided and all(name in reading.scalars for name in names)
            found = reading.scalars if known else condition_numbers(spectrum.eigenvalues, eps=eps)
            scalars |= {f"effective_{name}": found[name] for name in names}
        elif len(spectrum.eigenvalues) > 1:
            bound = condition_number_bound(spectrum.eigenvalues, spectrum.residuals)
            scalars["effective_condition_number_bound"] = bound
    return scalars


def ends_and_bottleneck(ledger: dict[str, Any], *, lower: bool) -> dict[str, float]:
    """Rows of the ledger: the ends (the lower where it was looked for), and of those that curve upwards the one with the most loss."""
    values, columns = ledger["eigenvalues"], ("contraction", "contraction_theory")
    scalars = {"gradient_share_tracked": float(ledger["gradient_share"].sum())}
    scalars |= {
        f"{end}_{name}": ledger[name][row] for end, row in (("top", -1), *[("bottom", 0)] * lower) for name in columns
    }
    along = np.where((values > ledger["residuals"]) & np.isfinite(ledger["loss_along"]), ledger["loss_along"], -np.inf)
    most = int(along.argmax())
    if along[most] > -np.inf:
        names = ("loss_share", "gradient_share", *columns)
        scalars |= {"bottleneck_eigenvalue": values[most]} | {
            f"bottleneck_{name}": ledger[name][most] for name in names
        }
    return scalars


def outside_tracked(
    optimizer: Optimizer, ledger: dict[str, Any], used: dict[str, Any], shrinking: float, curvature: float
) -> dict[str, float]:
    """What the gradient has outside the tracked directions, from its Rayleigh quotient `curvature`."""
    share = 1 - float(ledger["gradient_share"].sum())
    if not share > LEAST_REST:
        return {}
    outside = (curvature - float(ledger["gradient_share"] @ ledger["eigenvalues"])) / share
    predicted, iteration = predicted_contraction(optimizer, used, np.array([outside]))
    return {
        "rest_gradient_share": share,
        "rest_curvature": outside,
        "rest_contraction": shrinking,
        # momentum's rate is no function of a mean curvature, and the norm of a gradient is not its mode's
        "rest_contraction_theory": float(predicted[0]) if iteration.shape[-1] == 1 else math.nan,
    }


def without_nan(scalars: dict[str, Any]) -> dict[str, Any]:
    return {
        name: None if isinstance(value, float) and math.isnan(value) else value if value is None else _plain(value)
        for name, value in scalars.items()
    }


def _plain(value: Any) -> float | int:
    return value if isinstance(value, int | float) else float(value)
