"""What is exact on a quadratic: gradient and Hessian, directions, level sets, decay, the best step, the escape from a saddle."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int, PyTree

import curvexp
from curvexp import optim, preprocess, theory
from curvexp.problem import Problem, data, linear, network, quadratics, surface
from curvexp.problem.quadratics import Start
from curvexp.study.claim import Result, at_most, equal
from curvexp.study.training import iterates
from curvexp.training import Run
from curvexp.types import Scalar

ROUNDING = (
    "float64 rounding: n·eps is 2e-14 for n = 100, and sums of positive and negative terms lose a few digits more"
)


def quadratic_calculus(*, dimension: int = 50, condition_number: float = 1e3, seeds: int = 5) -> Result:
    """Autodiff against Ax − b, A and A⁻¹b on random quadratics, definite and indefinite; the symmetry of every problem's Hessian."""
    gradients, hessians, solutions, values = [], [], [], []
    for seed in range(seeds):
        random = np.random.default_rng(seed)
        problem = quadratics.quadratic(
            preprocess=preprocess.raw(),
            dtype=jnp.float64,
            eigenvalues=np.geomspace(1, condition_number, dimension) * random.choice([-1, 1], dimension),
            b=random.standard_normal(dimension),
            basis_seed=seed,
        )
        matrix, vector = (np.asarray(a) for a in problem.data)
        scale = np.abs(np.linalg.eigvalsh(matrix)).max()
        x = random.standard_normal(dimension)
        gradients.append(
            np.linalg.norm(_gradient(x, problem.data) - theory.quadratic_gradient(matrix, vector, x)) / scale
        )
        hessians.append(np.abs(_dense_hessian(x, problem.data) - theory.quadratic_hessian(matrix)).max() / scale)
        solution, value = theory.quadratic_minimum(matrix, vector)
        solutions.append(
            np.linalg.norm(_gradient(solution, problem.data)) / np.linalg.norm(vector)
        )  # a critical point of either sign
        values.append(abs(float(quadratics.quadratic_loss(jnp.asarray(solution), problem.data)) - value) / abs(value))
    names, asymmetry = [], []
    for problem in _problems():
        params = problem.init(jax.random.key(0))
        dense = np.asarray(curvexp.hessian(problem.loss, params, problem.data).dense())
        names.append(problem.name)
        asymmetry.append(np.abs(dense - dense.T).max() / max(np.abs(dense).max(), 1e-300))
    loose = f"{ROUNDING}; here relative to λmax, and for A⁻¹b times κ"
    claims = [
        equal("autodiff's gradient of ½x'Ax − b'x is Ax − b", 0, gradients, absolute=1e-12, because=loose),
        equal("autodiff's Hessian is A", 0, hessians, absolute=1e-12, because=loose),
        equal(
            "the gradient vanishes at A⁻¹b", 0, solutions, absolute=1e-15 * dimension * condition_number, because=loose
        ),
        equal("the value there is −½b'A⁻¹b", 0, values, absolute=1e-15 * dimension * condition_number, because=loose),
        equal("the Hessian of every problem is symmetric", 0, asymmetry, absolute=1e-12, because=loose),
    ]
    return Result(claims, {"problems": names, "asymmetry": asymmetry})


def eigen_directions(*, dimension: int = 30, condition_number: float = 100.0, directions: int = 200) -> Result:
    """Along an eigenvector the gradient changes along it alone, by λ a unit; along any d the curvature is the weighted mean of λ."""
    problem = quadratics.quadratic(
        preprocess=preprocess.raw(),
        dtype=jnp.float64,
        eigenvalues=np.linspace(-condition_number / 2, condition_number, dimension),
        b=np.ones(dimension),
    )
    values, vectors = np.linalg.eigh(np.asarray(problem.data.matrix))
    random = np.random.default_rng(0)
    x = random.standard_normal(dimension)
    at, moved = _gradient(x, problem.data), _gradients(x + vectors.T, problem.data)
    change = np.asarray(moved - at)
    along = np.einsum("in,ni->i", change, vectors)
    off = np.linalg.norm(change - along[:, None] * vectors.T, axis=1)
    d = random.standard_normal((directions, dimension))
    op = curvexp.hessian(problem.loss, jnp.asarray(x), problem.data)
    measured = np.einsum("dn,dn->d", d, np.asarray(op.many(jnp.asarray(d)))) / np.square(d).sum(axis=1)
    predicted = theory.directional_curvature(values, d @ vectors)
    top = np.abs(values).max()
    claims = [
        equal(
            "a unit step along an eigenvector changes the gradient by λ along it",
            values,
            along,
            absolute=1e-12 * top,
            because=ROUNDING,
        ),
        equal("and by nothing across it", 0, off, absolute=1e-12 * top, because=ROUNDING),
        equal(
            "d'Hd/d'd is the mean of λ weighted by d's squared components",
            predicted,
            measured,
            absolute=1e-12 * top,
            because=ROUNDING,
        ),
        at_most("no direction is curved more than λmax", values[-1] * (1 + 1e-12), measured, because=ROUNDING),
    ]
    return Result(claims, {"eigenvalues": values, "curvature": measured, "predicted": predicted})


def level_sets(
    *, condition_numbers: Sequence[float] = (1, 4, 25, 100), level: float = 1.0, angles: int = 20000
) -> Result:
    """The ellipse ½x'Ax = c, traced by bisection of the loss along many directions: its longest and shortest radius and where they lie."""
    longest, shortest, predicted, tilt, traces = [], [], [], [], {}
    for condition in condition_numbers:
        problem = quadratics.quadratic(
            preprocess=preprocess.raw(), dtype=jnp.float64, eigenvalues=[1.0, float(condition)]
        )
        values, vectors = np.linalg.eigh(np.asarray(problem.data.matrix))
        phi = np.linspace(0, np.pi, angles, endpoint=False)
        rays = jnp.asarray(np.stack([np.cos(phi), np.sin(phi)], axis=1))
        radius = np.asarray(_radii(rays, problem.data, level))
        longest.append(radius.max())
        shortest.append(radius.min())
        predicted.append(theory.level_set_axes(values, level=level))
        if condition > 1:
            tilt.append(1 - abs(float(np.asarray(rays[radius.argmax()]) @ vectors[:, 0])))
        traces[f"radius κ={condition:g}"] = radius
    resolution = f"{angles} directions: the nearest to an axis is within π/(2·{angles}) of it, which moves a radius by κ/2 times its square"
    allowed = max(condition_numbers) / 2 * (math.pi / 2 / angles) ** 2 * 2
    axes = np.array(predicted)
    claims = [
        equal(
            "the longest semi-axis of ½x'Ax = c is √(2c/λmin)",
            axes[:, 0],
            longest,
            relative=allowed,
            because=resolution,
        ),
        equal("the shortest is √(2c/λmax)", axes[:, 1], shortest, relative=allowed, because=resolution),
        equal(
            "their ratio is √κ",
            axes[:, 0] / axes[:, 1],
            np.divide(longest, shortest),
            relative=2 * allowed,
            because=resolution,
        ),
        equal(
            "the long axis lies along the eigenvector of λmin (1 − |cos|)",
            0,
            tilt,
            absolute=(math.pi / 2 / angles) ** 2,
            because=resolution,
        ),
    ]
    return Result(claims, {"angle": phi, **traces})


def decay_rates(
    *,
    eigenvalues: Sequence[float] = (0.1, 0.5, 1, 2, 5, 9, 10),
    lr: float = 0.19,
    momentum: float = 0.6,
    steps: int = 120,
) -> Result:
    """Each eigencomponent of a run: the slope of its logarithm against |1 − αλ|, and the whole trajectory with momentum."""
    values, vectors = np.linalg.eigh(np.asarray(_rotated(eigenvalues).data.matrix))
    problem = _rotated(eigenvalues, start=vectors.sum(axis=1).tolist())
    optimizers = (
        optim.sgd(lr=lr),
        optim.momentum(lr=lr, momentum=momentum),
        optim.nesterov(lr=lr / 2, momentum=momentum),
    )
    plain, heavy, nesterov = (iterates([Run(problem, one, 0)], steps=steps)[0] @ vectors for one in optimizers)
    slopes = np.array([_decay(component, np.abs(plain).max(axis=1)) for component in plain.T])
    k = np.arange(steps + 1)[:, None]
    expected = (
        theory.gradient_descent_trajectory(values, lr=lr, steps=k),
        theory.heavy_ball_trajectory(values, lr=lr, momentum=momentum, steps=k),
        theory.nesterov_trajectory(values, lr=lr / 2, momentum=momentum, steps=k),
    )
    fitted = "the slope is fitted while a component is above 1e-9 of the largest, so that what rounding leaks into it (1e-16) is below 1e-7"
    exact = f"{ROUNDING}; the basis is a rotation, so that components leak into each other by eps"
    claims = [
        equal(
            "each eigencomponent decays as |1 − αλ|^k",
            theory.gradient_descent_contraction(values, lr=lr),
            slopes,
            absolute=1e-6,
            because=fitted,
        ),
        equal("gradient descent's components are (1 − αλ)^k", expected[0], plain, absolute=1e-12, because=exact),
        equal("heavy ball's are those of its 2x2 iteration", expected[1], heavy, absolute=1e-12, because=exact),
        equal("Nesterov's are those of its 2x2 iteration", expected[2], nesterov, absolute=1e-12, because=exact),
    ]
    return Result(claims, {"eigenvalues": values, "gradient_descent": plain, "heavy_ball": heavy, "nesterov": nesterov})


def best_step(
    *, smallest: float = 1.0, condition_numbers: Sequence[float] = (3, 20, 200), dimension: int = 10, steps: int = 64
) -> Result:
    """The best fixed step by a search over the measured contraction of `steps` steps, and the boundary of stability by bisection."""
    found, rates, boundary, optima = [], [], [], []
    curves: dict[str, Any] = {}
    for condition in condition_numbers:
        largest = smallest * condition
        problem = quadratics.quadratic(
            preprocess=preprocess.raw(),
            dtype=jnp.float64,
            dimension=dimension,
            condition_number=float(condition),
            smallest=smallest,
        )
        low, high = 0.0, 3 / largest
        for _ in range(12):
            lrs = np.linspace(low, high, 41)
            contraction = np.array(_contraction(jnp.asarray(lrs), problem.data, steps))
            curves.setdefault(f"lr κ={condition:g}", lrs)
            curves.setdefault(f"contraction κ={condition:g}", contraction)
            i = int(contraction.argmin())
            low, high = lrs[max(i - 1, 0)], lrs[min(i + 1, 40)]
        found.append(lrs[i])
        rates.append(contraction[i])
        optima.append(theory.gradient_descent_optimum(smallest, largest))
        low, high = lrs[i], 4 / largest
        for _ in range(10):
            lrs = np.linspace(low, high, 41)
            stable = np.array(_contraction(jnp.asarray(lrs), problem.data, steps)) <= 1
            j = int(np.flatnonzero(stable).max())
            low, high = lrs[j], lrs[min(j + 1, 40)]
        boundary.append(low)
    top = smallest * np.asarray(condition_numbers, np.float64)
    because = "the search ends at brackets of 1e-10 of the step; the contraction's V is resolved to rounding over the steps of the map"
    claims = [
        equal("the best fixed step is 2/(λmin + λmax)", [o.lr for o in optima], found, relative=1e-8, because=because),
        equal("its contraction is (κ − 1)/(κ + 1)", [o.rate for o in optima], rates, relative=1e-8, because=because),
        equal(
            "the largest stable step is 2/λmax",
            theory.gradient_descent_threshold(lr=top),
            boundary,
            relative=1e-8,
            because=because,
        ),
    ]
    return Result(claims, curves)


def negative_curvature(
    *, eigenvalues: Sequence[float] = (-2, -0.3, 1, 10), lr: float = 0.1, distance: float = 1e-6, seeds: int = 5
) -> Result:
    """Gradient descent from near a saddle: each direction of negative curvature grows as (1 + α|λ|)^k."""
    values, vectors = np.linalg.eigh(np.asarray(_rotated(eigenvalues).data.matrix))
    down = values < 0
    rate = theory.gradient_descent_contraction(values[down], lr=lr)
    steps = int(math.log(1 / distance) / math.log(rate.max())) * 2
    late = slice(steps // 4, None)
    starts = [np.random.default_rng(seed).standard_normal(len(values)) * distance for seed in range(seeds)]
    runs = [Run(_rotated(eigenvalues, start=start.tolist()), optim.sgd(lr=lr), 0) for start in starts]
    slopes, escapes, expected, curves = [], [], [], {}
    for seed, path in enumerate(iterates(runs, steps=steps) @ vectors):
        slopes.append(np.exp(np.polyfit(np.arange(steps + 1)[late], np.log(np.abs(path[late][:, down])), 1)[0]))
        escapes.append(int(np.argmax(np.abs(path[:, 0]) >= 1)))
        expected.append(math.ceil(math.log(1 / abs(path[0, 0])) / math.log(rate.max())))
        curves[f"seed {seed}"] = np.abs(path)
    fit = "a straight line through noise-free logarithms; rounding leaks 1e-16 of the fastest component into the slower one"
    claims = [
        equal(
            "along negative curvature the distance grows by 1 + α|λ| a step",
            np.array([rate] * seeds),
            slopes,
            relative=1e-6,
            because=fit,
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


@functools.partial(jax.jit, static_argnames="steps")
def _contraction(lrs: Float[Array, "m"], numbers: PyTree, steps: int) -> Float[Array, "m"]:
    """‖M^k‖^(1/k) of the map that k steps of gradient descent make of all start points, for each lr."""

    def one(lr: Scalar) -> Scalar:
        def step(x: Float[Array, "n"], _: None) -> tuple[Float[Array, "n"], None]:
            return x - lr * jax.vmap(jax.grad(quadratics.quadratic_loss), (0, None))(x, numbers), None

        mapped, _ = jax.lax.scan(step, jnp.eye(len(numbers.vector)), None, length=steps)
        return jnp.linalg.norm(mapped, 2) ** (1 / steps)

    return jax.vmap(one)(lrs)


@jax.jit
def _radii(rays: Float[Array, "m n"], numbers: PyTree, level: Scalar | float) -> Float[Array, "m"]:
    """Distance from the origin along each ray at which the loss is `level`, by bisection."""

    def half(_: Int[Array, ""], bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        below = jax.vmap(quadratics.quadratic_loss, (0, None))(middle[:, None] * rays, numbers) < level
        return jnp.where(below, middle, low), jnp.where(below, high, middle)

    ends = jnp.zeros(len(rays)), jnp.full(len(rays), 1e3)
    return jax.lax.fori_loop(0, 60, half, ends)[0]


_gradient = jax.jit(jax.grad(quadratics.quadratic_loss))
_gradients = jax.jit(jax.vmap(jax.grad(quadratics.quadratic_loss), (0, None)))
_dense_hessian = jax.jit(jax.hessian(quadratics.quadratic_loss))


def _rotated(eigenvalues: Sequence[float], *, start: Start = "random") -> Problem:
    return quadratics.quadratic(
        preprocess=preprocess.raw(), dtype=jnp.float64, eigenvalues=list(eigenvalues), start=start
    )


def _decay(component: Float64[np.ndarray, "steps"], largest: float) -> float:
    """Factor a step of |component|, by least squares on its logarithm while it stands above 1e-9 of the largest."""
    kept = np.abs(component) > 1e-9 * largest
    end = len(kept) if kept.all() else int(np.argmin(kept))
    return float(np.exp(np.polyfit(np.arange(end), np.log(np.abs(component[:end])), 1)[0]))


def _problems() -> list[Problem]:
    raw, normalized = preprocess.raw(), preprocess.normalized()
    given: dict[str, Any] = {"preprocess": raw, "dtype": jnp.float64}
    on_data: dict[str, Any] = {"preprocess": normalized, "dtype": jnp.float64}
    forms = (quadratics.quadratic, quadratics.bowl, quadratics.dome, quadratics.valley, quadratics.saddle)
    surfaces = (surface.rosenbrock, surface.himmelblau, surface.monkey_saddle)
    return [
        *(make(**given) for make in forms),
        *(make(**given, start="random") for make in surfaces),
        linear.least_squares(**on_data, data=data.diabetes()),
        linear.logistic(**on_data, data=data.breast_cancer()),
        network.mlp(**on_data, data=data.wine(), hidden=[8]),
    ]
