"""Large learning rates end where it is flatter: the catapult of a two-layer linear network, and warm-up on the digits."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float64

from curvexp import optim, probe, theory, training
from curvexp.problem import two_layers
from curvexp.problem.linear_network import two_layers_curvature, two_layers_eigenvalues
from curvexp.study.claim import Claim, Result, at_least, at_most, equal
from curvexp.study.recorded import Recorded, recorded
from curvexp.training import Run, run_many

if TYPE_CHECKING:
    from curvexp.store import Runs

COMPARED = "no tolerance: a comparison"


def catapult(
    runs: "Runs",
    *,
    width: int = 1000,
    inside: Sequence[float] = (0.5, 2.5, 3.0, 3.5),
    outside: Sequence[float] = (4.2, 5.0),
    steps: int = 2000,
    seeds: int = 5,
    start_scale: float = 2.0,
) -> Result:
    """½f² of f = u'v/√n, whose curvature is (‖u‖² + ‖v‖²)/n: where it ends for each lr·λ₀; then the digits: final sharpness against lr.

    Args:
        runs: on the digits: larger_steps; from weights times `start_scale` large_start, warm_up and small_step.
        inside, outside: lr·λ₀ that is claimed to end, and to diverge. steps, seeds: of the linear network's runs.
    """
    claims, data = _linear_network(width, inside, outside, steps, seeds)
    steeper, curves = _digits(runs, start_scale)
    return Result([*claims, *steeper], data | curves)


class Catapults(NamedTuple):
    """Runs of the linear network: loss, lr·λ and whether it diverged (1, 0) at the end; λ₀ as the probe
    measured it and by its closed form."""

    losses: Float64[np.ndarray, "multiples seeds"]
    ends: Float64[np.ndarray, "multiples seeds"]
    diverged: Float64[np.ndarray, "multiples seeds"]
    starts: Float64[np.ndarray, "multiples seeds"]
    starts_exact: Float64[np.ndarray, "multiples seeds"]


def _linear_network(
    width: int, inside: Sequence[float], outside: Sequence[float], steps: int, seeds: int
) -> tuple[list[Claim], dict[str, Any]]:
    low, high = theory.catapult_range(1.0)
    found = _catapults(width, [*inside, *outside], steps, seeds)
    times, beyond = np.asarray(inside, np.float64), np.asarray(outside, np.float64)
    losses, final, escaped = found.losses[: len(times)], found.ends[: len(times)], found.diverged[len(times) :]
    unstable = (times > low) & (times < high)
    limit = "no tolerance: the bound is exact for a step at the end of which the loss no longer changes"
    claims = [
        at_most(f"lr·λ₀ in {_list(times[unstable])}: the loss converges", 1e-10, losses[unstable], because=limit),
        at_most(f"lr·λ₀ in {_list(times[unstable])}: it ends at lr·λ ≤ 2", low, final[unstable], because=limit),
        equal(
            f"lr·λ₀ in {_list(beyond[beyond > high])}: it diverges (1 = yes)",
            1,
            escaped[beyond > high],
            because="a yes or no",
        ),
        equal(
            f"lr·λ₀ in {_list(times[~unstable])}: it converges where it is, λ changing by O(1/n) alone",
            times[~unstable, None],
            final[~unstable],
            relative=10 / np.sqrt(width),
            because="λ moves by O(f²/n) with f of order 1; ten times 1/√n is generous and 2 it is not",
        ),
        equal(
            "the probe's λmax at the start is λ/2 + √(λ²/4 + 3f²/n)",
            found.starts_exact,
            found.starts,
            relative=1e-3,
            because="the probe's tolerance",
        ),
    ]
    return claims, {"lr·λ₀": times, "final lr·λ": final}


def _catapults(width: int, multiples: Sequence[float], steps: int, seeds: int) -> Catapults:
    """Runs with lr = multiple/λ₀; those of one seed begin at one point."""
    problem, reads = two_layers(width=width), probe.top(k=1, which="LA", every=steps)
    keys = [jax.random.key(seed) for seed in range(seeds)]
    curvatures = [two_layers_curvature(training.start(problem, key)) for key in keys]
    runs = [
        Run(problem, optim.sgd(lr=multiple / curvature), key, reads, target=None, diverge_at=math.inf)
        for multiple in multiples
        for key, curvature in zip(keys, curvatures, strict=True)
    ]
    found = Catapults(*np.full((5, len(runs)), np.nan))
    for records in run_many(runs, steps=steps, record_every=steps):
        for record in records:
            row, scalars = (
                record.row,
                {name: np.float64(value) for name, value in record.scalars.items() if value is not None},
            )
            if record.step == 0:
                found.starts[row] = scalars["sharpness"]
                found.starts_exact[row] = two_layers_eigenvalues(record.state.params)[-1]
            if record.outcome is not None:
                found.losses[row], found.diverged[row] = scalars["loss"], record.outcome.status == "diverged"
                if record.outcome.status == "completed":
                    found.ends[row] = scalars["lr"] * scalars["sharpness"]
    return Catapults(*(array.reshape(len(multiples), seeds) for array in found))


def _digits(runs: "Runs", start_scale: float) -> tuple[list[Claim], dict[str, Any]]:
    """Each larger lr ends flatter; warm-up carries an lr through that diverges, or ends higher, without it."""
    larger = recorded(runs, "larger_steps")
    (cold,), (warm,), (small,) = (recorded(runs, name) for name in ("large_start", "warm_up", "small_step"))
    ends = [_end(run, "sharpness") for run in larger]
    warmup_lr, small_lr = cold.config["optim.lr"], small.config["optim.lr"]
    start = cold.scalars["sharpness"][0] / float(theory.gradient_descent_threshold(lr=warmup_lr))
    ended = 1e30 if cold.diverged else _end(cold, "loss")
    claims = [
        at_most(
            "digits: each larger lr ends flatter (final sharpness over that of the lr below it)",
            1,
            np.divide(ends[1:], ends[:-1]),
            because=COMPARED,
        ),
        at_least(
            f"digits, weights times {start_scale:g}, lr {warmup_lr:g}: unstable at the start (λ₀ over 2/lr)",
            1,
            start,
            because=COMPARED,
        ),
        at_least(
            "the loss at the end without warm-up, over that with it", 1, ended / _end(warm, "loss"), because=COMPARED
        ),
        at_most(
            f"with warm-up it ends flatter than lr {small_lr:g} (ratio of sharpness)",
            1,
            _end(warm, "sharpness") / _end(small, "sharpness"),
            because=COMPARED,
        ),
    ]
    curves = {f"lr {run.config['optim.lr']:g} sharpness": run.scalars["sharpness"] for run in larger}
    curves |= {"warm-up sharpness": warm.scalars["sharpness"], "warm-up loss": warm.scalars["loss"]}
    return claims, {**curves, "no warm-up loss": cold.scalars["loss"]}


def _end(run: Recorded, name: str) -> float:
    """The scalar at the run's last record; NaN where the run diverged."""
    return math.nan if run.diverged else float(run.scalars[name][-1])


def _list(values: Sequence[float] | Float64[np.ndarray, "m"]) -> str:
    return ", ".join(f"{value:g}" for value in values)
