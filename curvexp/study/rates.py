"""Condition number and momentum: how many steps a quadratic takes, and what heavy ball's parameters do."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
import scipy.stats
from jaxtyping import Array, Float, Float64

from curvexp import optim, preprocess, theory, training
from curvexp.optim import Optimizer
from curvexp.problem import Problem, quadratics
from curvexp.study.claim import Result, equal
from curvexp.study.training import iterates, steps_to_target
from curvexp.training import Run
from curvexp.types import Params, Scalar

MOST = 10**7  # steps that a method may take
BLOCK = 5000  # steps between two looks at whether a run has come to its target
METHODS: dict[
    str, tuple[Callable[..., Optimizer], str, float]
] = {  # how it is made, theory's word for it, the power of κ
    "gradient descent": (optim.sgd, "gradient_descent", 1.0),
    "heavy ball": (optim.momentum, "heavy_ball", 0.5),
    "Nesterov": (optim.nesterov, "nesterov", 0.5),
}


def condition_number(
    *,
    condition_numbers: Sequence[float] = (1e1, 1e2, 1e3, 1e4, 1e5),
    dimension: int = 20,
    target: float = 1e-8,
    seeds: int = 3,
) -> Result:
    """Steps to a target at each method's optimum against κ: log-log slope over κ with its interval over seeds, and κ's exact steps."""
    claims = []
    data: dict[str, Any] = {"condition_number": list(condition_numbers)}
    kappa = np.asarray(condition_numbers, np.float64)
    for name, (make, stem, slope) in METHODS.items():
        steps, expected = np.zeros((2, seeds, len(kappa)))
        for i, condition in enumerate(kappa):
            optimum = getattr(theory, f"{stem}_optimum")(1.0, float(condition))
            hyper = {"lr": optimum.lr} | ({"momentum": optimum.momentum} if stem != "gradient_descent" else {})
            problems = [_geometric(dimension, float(condition), seed) for seed in range(seeds)]
            runs = [Run(problem, make(**hyper), seed, target=target) for seed, problem in enumerate(problems)]
            steps[:, i] = steps_to_target(runs, steps=MOST, block=BLOCK)
            for seed, problem in enumerate(problems):
                begun = training.start(problem, seed)
                expected[seed, i] = _expected(stem, problem, begun, hyper, target, int(steps[seed, i]))
        fits = [np.polyfit(np.log(kappa), np.log(row), 1)[0] for row in steps]
        interval = tuple(np.percentile(_slopes(kappa, steps), [2.5, 97.5]))
        because = (
            "at finite κ the slope is not yet the power: ln((κ+1)/(κ−1)) and heavy ball's factor k at its double root bend "
            "it by up to 0.05; a wrong power would miss by 0.5"
        )
        claims.append(
            equal(
                f"{name}: steps grow like κ^{slope:g}",
                slope,
                np.mean(fits),
                absolute=0.06,
                because=because,
                interval=interval,
            )
        )
        exact = "one step: rounding may move the crossing"
        claims.append(
            equal(
                f"{name}: the loss crosses the target at the very step of the closed form",
                expected,
                steps,
                absolute=1,
                because=exact,
            )
        )
        data[name] = steps
    return Result(claims, data)


def momentum(*, condition_numbers: Sequence[float] = (10, 100), steps: int = 200, dimension: int = 20) -> Result:
    """Heavy ball's best parameters by a search over the measured map of a step; its rate; the sign changes of the steep component."""
    lrs, betas, rates, optima, runs = [], [], [], [], []
    for condition in condition_numbers:
        optimum = theory.heavy_ball_optimum(1.0, condition)
        found = _search(1.0, float(condition))
        lrs.append(found.x[0])
        betas.append(found.x[1])
        rates.append(found.fun)
        optima.append(optimum)
        problem = quadratics.quadratic(
            preprocess=preprocess.raw(),
            dtype=jnp.float64,
            condition_number=float(condition),
            start=[1.0] * dimension,
            dimension=dimension,
        )
        runs.append(Run(problem, optim.momentum(lr=optimum.lr, momentum=optimum.momentum), 0))
    size = np.linalg.norm(iterates(runs, steps=steps), axis=2)
    run_rates = (size[:, steps] / size[:, steps // 2]) ** (2 / steps)
    condition = float(condition_numbers[-1])
    problem = quadratics.quadratic(
        preprocess=preprocess.raw(),
        dtype=jnp.float64,
        eigenvalues=[1.0, condition],
        basis_seed=None,
        start=[1.0, 1.0],
    )
    lr = 1.8 / condition
    beta = optima[-1].momentum
    optimizers = optim.sgd(lr=lr), optim.momentum(lr=lr, momentum=beta)
    plain, heavy = (iterates([Run(problem, one, 0)], steps=steps)[0, :, 1] for one in optimizers)
    angle = float(theory.heavy_ball_angle(condition, lr=lr, momentum=beta))
    changes = [int((np.diff(np.sign(path)) != 0).sum()) for path in (plain, heavy)]
    searched = "the rate has a kink at its optimum, where LAPACK's eigenvalues of a double root are good to √eps times the map's size: 1e-4"
    doubled = "at the double root k steps give rate^k·(1 + ck): over the second half of K steps that adds at most 2^(2/K) to the factor"
    claims = [
        equal(
            "the step that a search finds best is 4/(√λmax + √λmin)²",
            [o.lr for o in optima],
            lrs,
            relative=1e-3,
            because=searched,
        ),
        equal(
            "the momentum it finds is ((√κ − 1)/(√κ + 1))²",
            [o.momentum for o in optima],
            betas,
            relative=1e-3,
            because=searched,
        ),
        equal(
            "the contraction there is (√κ − 1)/(√κ + 1)",
            [o.rate for o in optima],
            rates,
            relative=1e-3,
            because=searched,
        ),
        equal(
            "a run contracts by it", [o.rate for o in optima], run_rates, relative=2 ** (2 / steps) - 1, because=doubled
        ),
        equal(
            "gradient descent past 1/λmax changes the steep component's sign every step",
            steps,
            changes[0],
            because="a count",
        ),
        equal(
            "heavy ball turns it by φ a step, so changes it kφ/π times",
            steps * angle / math.pi,
            changes[1],
            absolute=1,
            because="a count: the phase at the start moves it by one at most",
        ),
    ]
    return Result(claims, {"gradient_descent": plain, "heavy_ball": heavy})


def _geometric(dimension: int, condition: float, seed: int) -> Problem:
    return quadratics.quadratic(
        preprocess=preprocess.raw(),
        dtype=jnp.float64,
        dimension=dimension,
        law="geometric",
        condition_number=condition,
        basis_seed=seed,
    )


def _expected(stem: str, problem: Problem, start: Params, hyper: dict[str, float], target: float, near: int) -> int:
    """The first step at which the closed form's loss is at most the target, within 50 steps of `near`; -1 where not there."""
    values, vectors = np.linalg.eigh(np.asarray(problem.data.matrix))
    components = vectors.T @ np.asarray(start)
    form = getattr(theory, f"{stem}_trajectory")
    k = np.arange(max(near - 50, 0), near + 50)[:, None]
    loss = (values * (components * form(values, steps=k, **hyper)) ** 2).sum(axis=1) / (values * components**2).sum()
    below = loss <= target
    return int(k[below.argmax(), 0]) if below.any() and (near < 50 or not below[0]) else -1


def _slopes(kappa: Float64[np.ndarray, "m"], steps: Float64[np.ndarray, "seeds m"]) -> Float64[np.ndarray, "..."]:
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
