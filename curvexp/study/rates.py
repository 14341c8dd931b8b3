"""Condition number and momentum: how many steps a quadratic takes, and what heavy ball's parameters do."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jaxtyping import Array, Float, Float64

from curvexp import optim, preprocess, theory
from curvexp.problem import quadratics
from curvexp.study.claim import Claim, Result, equal
from curvexp.study.decay import components
from curvexp.study.recorded import Recorded, recorded
from curvexp.study.training import iterates
from curvexp.training import Run
from curvexp.types import Scalar

if TYPE_CHECKING:
    from curvexp.store import Runs


class _Method(NamedTuple):
    """A method at its optimum: the name of its runs, theory's optimum and trajectory, and the power of κ that its steps grow with."""

    runs: str
    optimum: Callable[..., theory.Optimum]
    trajectory: Callable[..., Any]
    power: float


def condition_number(runs: "Runs") -> Result:
    """Steps to a target at each method's optimum against κ: log-log slope over κ with its interval over seeds, and κ's exact steps.

    Args:
        runs: gradient_descent, heavy_ball and nesterov, each a sweep over κ and seeds with lr=auto, which is theory's optimum, with a
            target and a reading of the whole spectrum at the start.
    """
    claims: list[Claim] = []
    data: dict[str, Any] = {}
    methods = {
        "gradient descent": _Method(
            "gradient_descent", theory.gradient_descent_optimum, theory.gradient_descent_trajectory, 1.0
        ),
        "heavy ball": _Method("heavy_ball", theory.heavy_ball_optimum, theory.heavy_ball_trajectory, 0.5),
        "Nesterov": _Method("nesterov", theory.nesterov_optimum, theory.nesterov_trajectory, 0.5),
    }
    for name, method in methods.items():
        found = recorded(runs, method.runs)
        kappa = np.unique([run.config["problem.condition_number"] for run in found])
        steps = np.array([_steps(found, one) for one in kappa]).T
        data[name] = steps
        claims += [
            equal(
                f"{name}: lr=auto is theory's optimum",
                [method.optimum(*run.eigenvalues[0][[0, -1]]).lr for run in found],
                [run.scalars["lr"][0] for run in found],
                relative=1e-9,
                because="rounding, times κ of the spectrum's measured ends",
            ),
            _grows(name, method.power, kappa, steps),
            equal(
                f"{name}: the loss crosses the target at the very step of the closed form",
                [_expected(run, method.trajectory) for run in found],
                [run.summary["steps_to_target"] for run in found],
                absolute=1,
                because="one step: rounding may move the crossing",
            ),
        ]
    return Result(claims, {"condition_number": kappa, **data})


def momentum(runs: "Runs", *, condition_numbers: Sequence[float] = (10, 100), steps: int = 200) -> Result:
    """Heavy ball's best parameters by a search over the measured map of a step; its rate; the sign changes of the steep component.

    Args:
        runs: optimum, a sweep over the condition numbers with lr=auto and momentum=auto, with a reading of the whole spectrum in the
            middle and at the end.
        steps: of the two runs whose steep component is followed with its sign.
    """
    optima = [theory.heavy_ball_optimum(1.0, condition) for condition in condition_numbers]
    searches = [_search(1.0, float(condition)) for condition in condition_numbers]
    swept = recorded(runs, "optimum")
    length = min(run.readings[-1] - run.readings[-2] for run in swept)
    plain, heavy, turns = _steep_components(float(condition_numbers[-1]), optima[-1].momentum, steps)
    changes = [int((np.diff(np.sign(path)) != 0).sum()) for path in (plain, heavy)]
    searched = "the rate has a kink at its optimum, where LAPACK's eigenvalues of a double root are good to √eps times the map's size: 1e-4"
    doubled = "at the double root k steps give rate^k·(1 + ck): over the second half of 2K steps that adds at most 2^(1/K) to the factor"
    claims = [
        equal(
            "the step that a search finds best is 4/(√λmax + √λmin)²",
            [o.lr for o in optima],
            [found.x[0] for found in searches],
            relative=1e-3,
            because=searched,
        ),
        equal(
            "the momentum it finds is ((√κ − 1)/(√κ + 1))²",
            [o.momentum for o in optima],
            [found.x[1] for found in searches],
            relative=1e-3,
            because=searched,
        ),
        equal(
            "the contraction there is (√κ − 1)/(√κ + 1)",
            [o.rate for o in optima],
            [found.fun for found in searches],
            relative=1e-3,
            because=searched,
        ),
        equal(
            "a run with lr=auto and momentum=auto contracts by it",
            [o.rate for o in optima],
            [_late_rate(run) for run in swept],
            relative=2 ** (1 / length) - 1,
            because=doubled,
        ),
        equal(
            "gradient descent past 1/λmax changes the steep component's sign every step",
            steps,
            changes[0],
            because="a count",
        ),
        equal(
            "heavy ball turns it by φ a step, so changes it kφ/π times",
            turns,
            changes[1],
            absolute=1,
            because="a count: the phase at the start moves it by one at most",
        ),
    ]
    return Result(claims, {"gradient_descent": plain, "heavy_ball": heavy})


def _steps(runs: Sequence[Recorded], condition: float) -> list[float]:
    """Steps to the target of the runs with this condition number, one a seed."""
    return [run.summary["steps_to_target"] for run in runs if run.config["problem.condition_number"] == condition]


def _grows(name: str, power: float, kappa: np.ndarray, steps: np.ndarray) -> Claim:
    """Claims that steps (seeds, m) grow like this power of κ (m,)."""
    slopes = [np.polyfit(np.log(kappa), np.log(row), 1)[0] for row in steps]
    low, high = np.percentile(_slopes(kappa, steps), [2.5, 97.5])
    return equal(
        f"{name}: steps grow like κ^{power:g}",
        power,
        np.mean(slopes),
        absolute=0.06,
        because="at finite κ the slope is not yet the power: ln((κ+1)/(κ−1)) and heavy ball's factor k at its double root bend "
        "it by up to 0.05; a wrong power would miss by 0.5",
        interval=(float(low), float(high)),
    )


def _expected(run: Recorded, trajectory: Callable[..., Any]) -> int:
    """The first step at which the closed form's loss is at most the target, within 50 steps of the run's; -1 where not there."""
    values, begun, near = run.eigenvalues[0], components(run)[0], int(run.summary["steps_to_target"])
    hyper = {name: run.scalars[name][0] for name in ("lr", "momentum") if f"optim.{name}" in run.config}
    hyper = {name: value for name, value in hyper.items() if np.isfinite(value)}
    k = np.arange(max(near - 50, 0), near + 50)[:, None]
    loss = (values * (begun * trajectory(values, steps=k, **hyper)) ** 2).sum(axis=1) / (values * begun**2).sum()
    below = loss <= run.config["target"]
    return int(k[below.argmax(), 0]) if below.any() and (near < 50 or not below[0]) else -1


def _late_rate(run: Recorded) -> float:
    """Factor a step of the distance from the minimum, between the last two readings."""
    distance = np.linalg.norm(components(run), axis=1)
    return (distance[-1] / distance[-2]) ** (1 / (run.readings[-1] - run.readings[-2]))


def _steep_components(condition: float, beta: float, steps: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Component of gradient descent and of heavy ball along λmax, each (steps + 1,), and theory's number of the latter's half turns."""
    problem = quadratics.quadratic(
        preprocess=preprocess.raw(),
        dtype=jnp.float64,
        eigenvalues=[1.0, condition],
        basis_seed=None,
        start=[1.0, 1.0],
    )
    lr = 1.8 / condition
    optimizers = optim.sgd(lr=lr), optim.momentum(lr=lr, momentum=beta)
    plain, heavy = (iterates([Run(problem, one, 0)], steps=steps)[0, :, 1] for one in optimizers)
    return plain, heavy, steps * float(theory.heavy_ball_angle(condition, lr=lr, momentum=beta)) / math.pi


def _slopes(kappa: Any, steps: Any) -> Any:
    """Slopes of resampled seeds: at each κ a seed is drawn with replacement."""
    random = np.random.default_rng(0)
    drawn = random.integers(len(steps), size=(500, len(steps), len(kappa)))
    means = np.log(steps)[drawn, np.arange(len(kappa))].mean(axis=1)
    return np.polyfit(np.log(kappa), means.T, 1)[0]


def _search(smallest: float, largest: float) -> scipy.optimize.OptimizeResult:
    """(lr, momentum) of the least worst contraction, measured as LAPACK's spectral radius of the Jacobian of optax's own step."""
    grid = np.geomspace(smallest, largest, 9)

    def worst(point: Float64[np.ndarray, "2"]) -> float:
        if not (0 < point[0] < 4 / largest and 0 <= point[1] < 1):
            return 2.0
        return float(
            np.abs(np.linalg.eigvals(np.asarray(_step_jacobians(jnp.asarray(point), jnp.asarray(grid))))).max()
        )

    found = min(
        (
            scipy.optimize.minimize(
                worst,
                (lr / largest, beta),
                method="Nelder-Mead",
                options={"xatol": 1e-9, "fatol": 1e-9, "maxiter": 600},
            )
            for lr in (1.0, 2.0, 3.0)
            for beta in (0.2, 0.6)
        ),
        key=lambda result: result.fun,
    )
    again = scipy.optimize.minimize(worst, found.x, method="Nelder-Mead", options={"xatol": 1e-10, "fatol": 1e-10})
    return min(found, again, key=lambda result: result.fun)


@jax.jit
def _step_jacobians(point: Float[Array, "2"], curvatures: Float[Array, "m"]) -> Float[Array, "m 2 2"]:
    """Jacobian of one step of optax's heavy ball on ½λx² in (x, buffer), for each λ."""
    transform = optim.momentum(lr=0.1, momentum=0.5).transform

    def step(z: Float[Array, "2"], curvature: Scalar) -> Float[Array, "2"]:
        state = transform.init(z[0])
        hyper = {"lr": point[0], "momentum": point[1]}
        trace = state.inner_state[0]._replace(trace=z[1])
        state = state._replace(hyperparams={**state.hyperparams, **hyper}, inner_state=(trace, *state.inner_state[1:]))
        change, after = transform.update(curvature * z[0], state, z[0])
        return jnp.stack([z[0] + change, after.inner_state[0].trace])

    return jax.vmap(lambda h: jax.jacfwd(step)(jnp.ones(2), h))(curvatures)
