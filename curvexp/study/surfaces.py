"""Where curvature changes from place to place: kinds of critical points, and how far the Taylor model of a step holds."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import scipy.optimize
from jax.flatten_util import ravel_pytree
from jaxtyping import Float, Float64

from curvexp import preprocess, theory
from curvexp.problem import Problem, data, linear, network, quadratics, surface
from curvexp.study.claim import Claim, Result, equal
from curvexp.types import AnyArray, Flat, Params, Scalar

FORMS = {"bowl": "minimum", "dome": "maximum", "valley": "inconclusive", "saddle": "saddle"}
KINDS = ("minimum", "maximum", "saddle", "inconclusive", "not critical")
REACH = 6.0  # critical points are looked for in [−6, 6]², which holds all of them


class Point(NamedTuple):
    """A point that Newton's method came to: x, norm of the gradient, eigenvalues of the Hessian, and its kind."""

    x: Float64[np.ndarray, "2"]
    gradient: float
    eigenvalues: Float64[np.ndarray, "2"]
    kind: str


def four_forms(*, starts: int = 400, seed: int = 0) -> Result:
    """The kind of each form's critical point; all critical points of the surfaces found from random starts, and their kinds."""
    counted = "counts and kinds are whole: none is allowed to differ"
    claims: list[Claim] = []
    points: dict[str, Any] = {}
    for name, kind in FORMS.items():
        problem = getattr(quadratics, name)(preprocess=preprocess.raw(), dtype=jnp.float64)
        (found,) = critical_points(problem, starts=1, seed=seed, limit=np.inf)
        points[name] = found.eigenvalues
        claims.append(equal(f"the {name}'s critical point is: {kind}", 1, float(found.kind == kind), because=counted))
    for name in ("rosenbrock", "himmelblau"):
        problem = getattr(surface, name)(preprocess=preprocess.raw(), dtype=jnp.float64)
        all_found = critical_points(problem, starts=starts, seed=seed, limit=REACH)
        points[name] = [p.x for p in all_found]
        for kind, known in surface.critical_points(name).items():
            here = np.array([p.x for p in all_found if p.kind == kind]).reshape(-1, 2)
            claims.append(
                equal(f"{name} has so many critical points of kind {kind}", len(known), len(here), because=counted)
            )
            if len(here):
                away = np.linalg.norm(known[:, None] - here, axis=-1).min(axis=1)
                newton = "Newton's method ends where the gradient is rounding, 1e-13 over a curvature of 0.4 or more"
                claims.append(
                    equal(f"{name}: they lie where they are known to ({kind})", 0, away, absolute=1e-9, because=newton)
                )
        claims.append(
            equal(
                f"{name} has no others",
                sum(map(len, surface.critical_points(name).values())),
                len(all_found),
                because=counted,
            )
        )
    problem = surface.monkey_saddle(preprocess=preprocess.raw(), dtype=jnp.float64)
    origin = classified(problem, np.zeros(2))
    beside = classified(problem, np.full(2, 0.1))
    claims.append(
        equal("the monkey saddle's origin is inconclusive", 1, float(origin.kind == "inconclusive"), because=counted)
    )
    claims.append(equal("a point beside it is not critical", 1, float(beside.kind == "not critical"), because=counted))
    return Result(claims, points)


def taylor_step(*, exponents: Sequence[float] = (-1.0, -3.0), points: int = 9, seeds: int = 3) -> Result:
    """The error of g's + ½s'Hs along the gradient against the step's length; on quadratics the best ε and where it goes uphill."""
    lengths = np.geomspace(10 ** exponents[0], 10 ** exponents[1], points)
    slopes, curves = [], {}
    for problem in _curved():
        for seed in range(seeds):
            params = problem.init(jax.random.key(seed))
            steps, error = _taylor_errors(problem, params, lengths)
            curves[f"{problem.name} {seed}"] = error
            slopes.append(np.polyfit(np.log(steps), np.log(error), 1)[0])
    best, uphill, best_theory, uphill_theory = [], [], [], []
    for seed in range(seeds):
        problem = quadratics.quadratic(preprocess=preprocess.raw(), dtype=jnp.float64, dimension=20, basis_seed=seed)
        x = problem.init(jax.random.key(seed))
        g = jax.grad(problem.loss)(x, problem.data)
        gg, ghg = float(g @ g), float(g @ jax.jvp(lambda p: jax.grad(problem.loss)(p, problem.data), (x,), (g,))[1])  # noqa: B023
        best_theory.append(float(theory.best_step_along_gradient(gg, ghg)))
        uphill_theory.append(float(theory.uphill_step_along_gradient(gg, ghg)))
        found, crossing = _along_gradient(problem, x, g)
        best.append(found)
        uphill.append(crossing)
    order = "the next term of the error is of relative size ε‖g‖ times a ratio of derivatives: the fit over two decades is good to 0.15"
    claims = [
        equal(
            "the error of the second-order model is of third order in ε (log-log slope)",
            3,
            slopes,
            absolute=0.15,
            because=order,
        ),
        equal(
            "on a quadratic the best ε along −g is g'g/g'Hg",
            best_theory,
            best,
            relative=1e-6,
            because="a minimum's place is found to √eps",
        ),
        equal(
            "from 2g'g/g'Hg on the step goes uphill",
            uphill_theory,
            uphill,
            relative=1e-9,
            because="a root found by bisection",
        ),
    ]
    return Result(claims, {"lengths": lengths, **curves})


def classified(problem: Problem, x: Float[AnyArray, "n"]) -> Point:
    """The point's kind by theory's test on the autodiff gradient and Hessian."""
    gradient = float(np.linalg.norm(jax.grad(problem.loss)(jnp.asarray(x), problem.data)))
    values = np.linalg.eigvalsh(np.asarray(jax.hessian(problem.loss)(jnp.asarray(x), problem.data)))
    return Point(
        np.asarray(x), gradient, values, theory.second_derivative_test(values, gradient=gradient, tolerance=1e-9)
    )


def critical_points(problem: Problem, *, starts: int, seed: int, limit: float) -> list[Point]:
    """Where Newton's method goes from random starts in the square, each place once, those beyond `limit` left out."""

    def newton(x: Flat, _: None) -> tuple[Flat, None]:
        hessian = jax.hessian(problem.loss)(x, problem.data)
        step = jnp.linalg.pinv(hessian, rtol=1e-12) @ jax.grad(problem.loss)(x, problem.data)
        return x - step, None

    begin = jnp.asarray(np.random.default_rng(seed).uniform(-REACH, REACH, (starts, 2)))
    ends = np.asarray(jax.jit(jax.vmap(lambda x: jax.lax.scan(newton, x, None, length=200)[0]))(begin))
    kept: list[Any] = []
    for x in ends[np.isfinite(ends).all(axis=1)]:
        if np.abs(x).max() <= limit and not any(np.linalg.norm(x - other) < 1e-6 for other in kept):
            kept.append(x)
    return [point for point in (classified(problem, x) for x in kept) if point.kind != "not critical"]


def _curved() -> list[Problem]:
    given: dict[str, Any] = {"preprocess": preprocess.normalized(), "dtype": jnp.float64}
    return [
        surface.rosenbrock(preprocess=preprocess.raw(), dtype=jnp.float64, start="random"),
        linear.logistic(**given, data=data.breast_cancer()),
        network.mlp(**given, data=data.wine(), hidden=[8]),
    ]


def _taylor_errors(
    problem: Problem, params: Params, lengths: Float64[np.ndarray, "m"]
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """Lengths in units of the best step, and |actual − predicted| change of the loss; along −g where the third derivative is felt."""
    flat, tree = ravel_pytree(params)

    def loss(v: Flat) -> Scalar:
        return problem.loss(tree(v), problem.data)

    g = jax.grad(loss)(flat)
    hg = jax.jvp(jax.grad(loss), (flat,), (g,))[1]
    scale = float(g @ g / jnp.abs(g @ hg))
    values = jax.jit(jax.vmap(lambda e: loss(flat - e * g)))(jnp.asarray(lengths * scale))
    actual = np.asarray(values - loss(flat))
    predicted = theory.taylor_change(-lengths * scale * float(g @ g), (lengths * scale) ** 2 * float(g @ hg))
    return lengths * scale, np.abs(actual - predicted)


def _along_gradient(problem: Problem, x: Flat, g: Flat) -> tuple[float, float]:
    """The step along −g with the least loss, by a search; and the one at which the loss is what it was, by root finding."""

    def change(e: float) -> float:
        return float(problem.loss(x - e * g, problem.data) - problem.loss(x, problem.data))

    high = 1e-3
    while change(high) < 0:
        high *= 2
    found = scipy.optimize.minimize_scalar(change, bounds=(0, high), method="bounded", options={"xatol": 1e-12})
    return float(found.x), float(scipy.optimize.brentq(change, found.x, high, xtol=1e-14))
