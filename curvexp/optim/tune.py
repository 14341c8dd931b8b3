"""Numbers for `auto`: theory's best step where a spectrum is known, else a share of the stability threshold."""

import math

import numpy as np
from numpy.typing import ArrayLike

from curvexp import theory
from curvexp.errors import ConfigError
from curvexp.optim.base import Hyper, Optimizer

FALLBACK_MOMENTUM = 0.9  # where momentum=auto and no spectrum is known


def resolve(
    optimizer: Optimizer,
    *,
    eigenvalues: ArrayLike | None = None,
    sharpness: float | None = None,
    eps: float = float(np.finfo(np.float64).eps),
) -> tuple[Optimizer, str | None]:
    """The optimizer with a number wherever `auto` stood, and a sentence on how it was chosen (None where nothing was auto).

    Args:
        eigenvalues: the constant Hessian's, where the problem knows it, (n,): theory's best step for the extreme ones above rounding.
        sharpness: largest eigenvalue measured at the start, else: `fraction` of the stability threshold.
        eps: machine epsilon of the run's precision: what cannot be told from zero in it is no part of the condition number.

    Raises:
        ConfigError: nothing positive to scale lr by.
    """
    hyper = dict(optimizer.hyper)
    if "auto" not in hyper.values():
        return optimizer, None
    if hyper[optimizer.lr_name] != "auto":
        hyper["momentum"] = FALLBACK_MOMENTUM
        return optimizer._replace(hyper=hyper), f"momentum={FALLBACK_MOMENTUM} (momentum=auto beside a given lr)"
    given = hyper.get("momentum")
    if eigenvalues is not None and optimizer.best is not None:
        nonzero = theory.above_rounding(eigenvalues, eps=eps)
        if len(nonzero) and nonzero.min() > 0:
            found = optimizer.best(nonzero.min(), nonzero.max(), None if given in (None, "auto") else given)
            hyper |= {"lr": found.lr} | ({"momentum": found.momentum} if "momentum" in hyper else {})
            return optimizer._replace(hyper=hyper), f"{_list(hyper)}: theory's best, worst contraction {found.rate:.6g}"
        sharpness = float(np.abs(nonzero).max()) if len(nonzero) else 0.0
    if given == "auto":
        hyper["momentum"] = FALLBACK_MOMENTUM
    if optimizer.threshold is None or sharpness is None or not (sharpness > 0 and math.isfinite(sharpness)):
        raise ConfigError(
            f"optim.lr=auto: no step can be derived (largest curvature {sharpness}); expected some curvature at the "
            "start. Give optim.lr a number."
        )
    unit = float(optimizer.threshold({**hyper, "lr": 1.0}))
    hyper["lr"] = optimizer.fraction * unit / sharpness
    return (
        optimizer._replace(hyper=hyper),
        f"{_list(hyper)}: {optimizer.fraction:g} of the stability threshold for the largest curvature {sharpness:.6g}",
    )


def _list(hyper: Hyper) -> str:
    return ", ".join(f"{name}={value:.6g}" for name, value in hyper.items() if name in ("lr", "momentum"))
