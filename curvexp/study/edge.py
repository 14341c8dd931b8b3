"""The edge of stability: sharpness rises to the optimizer's threshold and hovers there.

The runs stand in the studies' files. Sharpness and threshold are what the probe and the optimizer of such a run record.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from curvexp import theory
from curvexp.study.claim import Claim, Result, at_most, equal, not_applicable
from curvexp.study.recorded import Recorded, recorded

if TYPE_CHECKING:
    from curvexp.store import Runs

REACHED = 0.9  # of the threshold: a run whose sharpness never got so far is not at the edge
HOVERING = (
    "the late median may differ from the threshold by 10 %: at the edge the sharpness oscillates about it, and the threshold is that of "
    "the quadratic model; a factor 2, or 1+β left out, would miss by 30 % or more"
)
ROUNDED = "in float32 the step size is rounded by up to 6e-8 of it, and the threshold with it"


def edge_of_stability(runs: "Runs") -> Result:
    """Full-batch gradient descent of a tanh network on the digits, squared error: sharpness against 2/lr over the last half."""
    claims: list[Claim] = []
    found: dict[str, Any] = {}
    for run in recorded(runs, "gradient_descent"):
        lr = run.config["optim.lr"]
        threshold = float(theory.gradient_descent_threshold(lr=lr))
        claims += hovers(f"gradient descent, lr {lr:g}: sharpness hovers at 2/lr", run, threshold)
        claims.append(_rises(f"lr {lr:g}", run, threshold))
        found |= _curves(f"lr {lr:g}", run, threshold)
    return Result(claims, found)


def edge_momentum(runs: "Runs") -> Result:
    """The same with momentum, on a Chebyshev polynomial: 2(1+β)/lr for heavy ball, 2(1+β)/(lr(1+2β)) for Nesterov."""
    claims: list[Claim] = []
    found: dict[str, Any] = {}
    kinds = (
        ("heavy ball", theory.heavy_ball_threshold, "2(1+β)/lr"),
        ("Nesterov", theory.nesterov_threshold, "2(1+β)/(lr(1+2β))"),
    )
    for name, threshold_of, formula in kinds:
        for run in recorded(runs, name.lower().replace(" ", "_")):
            lr, momentum = run.config["optim.lr"], run.config["optim.momentum"]
            threshold = float(threshold_of(lr=lr, momentum=momentum))
            claims += hovers(f"{name}, lr {lr:g}, β {momentum:g}: sharpness hovers at {formula}", run, threshold)
            found |= _curves(f"{name} lr {lr:g}", run, threshold)
    return Result(claims, found)


def adaptive_edge(runs: "Runs") -> Result:
    """Full-batch Adam on the digits: the sharpness of P^(-1/2) H P^(-1/2) against 2(1+β₁)/((1−β₁)lr), 38/lr at β₁ = 0.9."""
    claims: list[Claim] = []
    found: dict[str, Any] = {}
    for run in recorded(runs, "adam"):
        lr, b1 = run.config["optim.lr"], run.config["optim.b1"]
        threshold = float(theory.adam_threshold(lr=lr, b1=b1))
        claims += hovers(
            f"Adam, lr {lr:g}, β₁ {b1:g}: preconditioned sharpness hovers at 2(1+β₁)/((1−β₁)lr)", run, threshold
        )
        found |= _curves(f"lr {lr:g}", run, threshold)
    return Result(claims, found)


def hovers(statement: str, run: Recorded, threshold: float) -> list[Claim]:
    """The median of sharpness/threshold over the last half is 1; not applicable where the training never sharpened that far.

    Args:
        threshold: theory's; that it is the one which the run records is claimed beside.
    """
    sharpness = run.scalars["sharpness"]
    began = int(np.isnan(sharpness[0]))  # an adaptive method has no preconditioner before its first step
    ratio = sharpness[began:] / threshold
    late = ratio[len(ratio) // 2 :]
    if np.isfinite(ratio).all() and not run.diverged and ratio.max() < REACHED:
        reached = f"not at the edge: sharpness/threshold never reached {REACHED:g}"
        return [not_applicable(statement, measurement=float(ratio.max()), because=reached)]
    return [
        equal(
            f"{statement} (late median of the ratio)",
            1,
            np.nan if run.diverged else float(np.median(late)),
            absolute=0.1,
            because=HOVERING,
            interval=(float(np.percentile(late, 2.5)), float(np.percentile(late, 97.5))),
        ),
        equal(
            f"{statement.split(':')[0]}: the run records this threshold",
            threshold,
            run.scalars["threshold"],
            relative=1e-6,
            because=ROUNDED,
        ),
    ]


def _rises(where: str, run: Recorded, threshold: float) -> Claim:
    """Progressive sharpening: the start lies below the late median; not applicable where it lies above the threshold already."""
    statement = f"{where}: from below the threshold the sharpness rises (start against late median)"
    sharpness = run.scalars["sharpness"]
    start, late = float(sharpness[0]), float(np.median(sharpness[len(sharpness) // 2 :]))
    if start >= threshold:
        return not_applicable(statement, measurement=start, because="it starts above the threshold, and falls to it")
    return at_most(statement, late, start, because="no tolerance: a comparison")


def _curves(where: str, run: Recorded, threshold: float) -> dict[str, Any]:
    """The data of a figure: steps, losses and sharpness of a run, and the threshold."""
    curves = {"steps": run.steps, "losses": run.scalars["loss"], "sharpness": run.scalars["sharpness"]}
    return {f"{where} {name}": value for name, value in {**curves, "threshold": threshold}.items()}
