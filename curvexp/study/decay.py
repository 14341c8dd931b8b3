"""Convergence along each eigenvector of a quadratic, as the records of runs tell of it: decay, the best step, the escape from a saddle.

The gradient of a quadratic along an eigenvector v is λ⟨v, θ − θ*⟩. So a probe that measures every eigenpair and the gradient along it
measures the distance from the minimum along it, up to its sign.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float64

from curvexp import theory
from curvexp.study.claim import Result, at_least, equal
from curvexp.study.recorded import Recorded, recorded

if TYPE_CHECKING:
    from curvexp.store import Runs

VISIBLE = (
    1e-9  # of the largest component: rounding leaks 1e-16 of that into the others, so 1e-7 of one that is still visible
)
ROUNDING = (
    "float64 rounding: the eigenvectors are computed, so that components leak into each other by eps, and the gradient along the "
    "smallest eigenvalue is divided by it"
)


def decay_rates(runs: "Runs") -> Result:
    """Each eigencomponent of a run: the slope of its logarithm against |1 − αλ|, and the whole trajectory with momentum.

    Args:
        runs: gradient_descent, heavy_ball and nesterov, one of each, with a reading of the whole spectrum at each step.
    """
    names = ("gradient_descent", "heavy_ball", "nesterov")
    plain, heavy, nesterov = (recorded(runs, name)[0] for name in names)
    k = plain.readings[:, None]
    values, lr = plain.eigenvalues[0], plain.config["optim.lr"]
    expected = [
        theory.gradient_descent_trajectory(values, lr=lr, steps=k),
        *(
            form(values, lr=run.config["optim.lr"], momentum=run.config["optim.momentum"], steps=k)
            for form, run in ((theory.heavy_ball_trajectory, heavy), (theory.nesterov_trajectory, nesterov))
        ),
    ]
    measured = [components(run) for run in (plain, heavy, nesterov)]
    scales = [np.abs(form) * found[0] for form, found in zip(expected, measured, strict=True)]
    fitted = "the slope is fitted while a component is above 1e-9 of the largest, so that what rounding leaks into it (1e-16) is below 1e-7"
    allowed = 1e-12 * max(found.max() for found in measured)
    claims = [
        equal(
            "each eigencomponent decays as |1 − αλ|^k",
            theory.gradient_descent_contraction(values, lr=lr),
            [_decay(one, measured[0].max(axis=1)) for one in measured[0].T],
            absolute=1e-6,
            because=fitted,
        )
    ]
    for statement, scale, found in zip(
        (
            "gradient descent's components are |1 − αλ|^k times those at the start",
            "heavy ball's are those of its 2x2 iteration",
            "Nesterov's are those of its 2x2 iteration",
        ),
        scales,
        measured,
        strict=True,
    ):
        claims.append(equal(statement, scale, found, absolute=allowed, because=ROUNDING))
    return Result(claims, {"eigenvalues": values, **dict(zip(names, measured, strict=True))})


def best_step(runs: "Runs") -> Result:
    """Worst contraction of runs against their step: it falls along one straight line and rises along another, which cross at the best.

    Args:
        runs: for each condition number κ a sweep of lr, kappa_κ, and a run with lr=auto, best_κ; with a reading of the whole spectrum at
            the start and at the end.
    """
    names = dict.fromkeys(run.split("/")[0] for run in runs.runs["run"])
    valleys = {name: _valley(recorded(runs, name)) for name in names if name.startswith("kappa_")}
    found = list(valleys.values())
    auto = [recorded(runs, name.replace("kappa", "best"))[0] for name in valleys]
    optima = [theory.gradient_descent_optimum(*one.ends) for one in found]
    predicted = [theory.gradient_descent_contraction(one.ends[:, None], lr=one.lr).max(axis=0) for one in found]
    rounding = "rounding, over the steps of a run"
    straight = f"the lines are fitted to contractions that are exact to {rounding}"
    claims = [
        equal(
            "the worst contraction of a run is max |1 − αλ|, beyond the stable steps too",
            np.concatenate(predicted),
            np.concatenate([one.worst for one in found]),
            relative=1e-9,
            because=rounding,
        ),
        equal(
            "the best fixed step, where the falling and the rising line cross, is 2/(λmin + λmax)",
            [one.lr for one in optima],
            [one.best for one in found],
            relative=1e-8,
            because=straight,
        ),
        equal(
            "its contraction is (κ − 1)/(κ + 1)",
            [one.rate for one in optima],
            [one.least for one in found],
            relative=1e-8,
            because=straight,
        ),
        equal(
            "the largest stable step, where the rising line comes to 1, is 2/λmax",
            [theory.gradient_descent_threshold(lr=one.ends[1]) for one in found],
            [one.limit for one in found],
            relative=1e-8,
            because=straight,
        ),
        equal(
            "lr=auto takes the best step",
            [one.lr for one in optima],
            [run.scalars["lr"][0] for run in auto],
            relative=1e-12,
            because="rounding",
        ),
        at_least(
            "and no run contracts faster (least contraction of the sweep over that with lr=auto)",
            1 - 1e-9,
            [one.worst.min() / _factors(run).max() for one, run in zip(found, auto, strict=True)],
            because=rounding,
        ),
    ]
    curves = {f"lr {name}": one.lr for name, one in valleys.items()}
    return Result(claims, curves | {f"contraction {name}": one.worst for name, one in valleys.items()})


class _Valley(NamedTuple):
    """Worst contraction against lr, and what follows from its two arms.

    Attributes:
        ends: λmin and λmax. lr, worst: of each run. best, least: where the arms cross. limit: the lr at which the rising arm comes to 1.
    """

    ends: np.ndarray
    lr: np.ndarray
    worst: np.ndarray
    best: float
    least: float
    limit: float


def _valley(swept: Sequence[Recorded]) -> _Valley:
    lr = np.array([run.config["optim.lr"] for run in swept])
    factors = np.array([_factors(run) for run in swept])
    slowest, worst = factors.argmax(axis=1), factors.max(axis=1)
    falling, rising = (
        slowest == 0,
        slowest == factors.shape[1] - 1,
    )  # λmin's direction is the slowest below the best step
    if min(falling.sum(), rising.sum()) < 2:
        raise ValueError(f"lr={lr.tolist()}: expected two below the best step and two above it. Change study.lrs_*.")
    (a, b), (c, d) = (np.polyfit(lr[arm], worst[arm], 1) for arm in (falling, rising))
    best = (d - b) / (a - c)
    return _Valley(swept[0].eigenvalues[0][[0, -1]], lr, worst, best, a * best + b, (1 - d) / c)


def negative_curvature(runs: "Runs") -> Result:
    """Gradient descent from near a saddle: each direction of negative curvature grows as (1 + α|λ|)^k.

    Args:
        runs: saddle, with a reading of the whole spectrum at each step.
    """
    slopes, rates, escapes, expected, curves = [], [], [], [], {}
    for run in recorded(runs, "saddle"):
        values, k = run.eigenvalues[0], run.readings
        down, late = values < 0, slice(len(k) // 4, None)
        rate = theory.gradient_descent_contraction(values[down], lr=run.config["optim.lr"])
        distance = components(run)
        slopes.append(np.exp(np.polyfit(k[late], np.log(distance[late][:, down]), 1)[0]))
        rates.append(rate)
        escapes.append(int(k[np.argmax(distance[:, 0] >= 1)]))
        expected.append(int(np.ceil(np.log(1 / distance[0, 0]) / np.log(rate.max()))))
        curves[run.name] = distance
    fit = "a straight line through noise-free logarithms; rounding leaks 1e-16 of the fastest component into the slower one"
    claims = [
        equal(
            "along negative curvature the distance grows by 1 + α|λ| a step", rates, slopes, relative=1e-6, because=fit
        ),
        equal(
            "steps until the distance is 1: ln(1/c₀)/ln(1 + α|λ|)",
            expected,
            escapes,
            absolute=1,
            because="one step: where it is rounded up",
        ),
    ]
    return Result(claims, {"eigenvalues": values, **curves})


def components(run: Recorded) -> Float64[np.ndarray, "r k"]:
    """Distance from the critical point along each eigenvector at each reading, |⟨v, θ − θ*⟩| = |⟨v, g⟩/λ|."""
    return run.gradient_along / np.abs(run.eigenvalues)


def _factors(run: Recorded) -> np.ndarray:
    """Factor a step of each component from the first reading to the last, (k,)."""
    found = components(run)
    return (found[-1] / found[0]) ** (1 / (run.readings[-1] - run.readings[0]))


def _decay(component: np.ndarray, largest: np.ndarray) -> float:
    """Factor a step of a component, by least squares on its logarithm while it stands above VISIBLE times the largest."""
    kept = component > VISIBLE * largest
    end = len(kept) if kept.all() else int(np.argmin(kept))
    return float(np.exp(np.polyfit(np.arange(end), np.log(component[:end]), 1)[0]))
