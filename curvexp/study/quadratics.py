"""What is exact on a quadratic: gradient and Hessian, curvature along directions, level sets."""

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

import curvexp
from curvexp import preprocess, theory
from curvexp.problem import Problem, data, linear, network, quadratics, surface
from curvexp.study.claim import Result, at_most, equal
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
