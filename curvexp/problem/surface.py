"""Surfaces on the plane whose critical points are known: test functions where curvature changes from place to place.

rosenbrock     (1 − x)² + 100(y − x²)²          one minimum, 0 at (1, 1), at the end of a curved valley
himmelblau     (x² + y − 11)² + (x + y² − 7)²   four minima, all 0; four saddles; one maximum
monkey_saddle  x³ − 3xy²                        one critical point, degenerate: its Hessian is 0; unbounded below
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64
from numpy.typing import DTypeLike

from curvexp.errors import Unsupported
from curvexp.preprocess import RAW, Preprocess
from curvexp.problem.base import Known, Problem, checked_dtype
from curvexp.problem.quadratics import Start, start_at
from curvexp.types import Scalar


def rosenbrock(*, preprocess: Preprocess = RAW, dtype: DTypeLike = jnp.float32, start: Start = (-1.2, 1.0)) -> Problem:
    """(1 − x)² + 100(y − x²)², minimum 0 at (1, 1), where the Hessian has condition number 2508. Source: Rosenbrock 1960."""
    return _surface("rosenbrock", rosenbrock_loss, preprocess, dtype, start, Known(None, np.ones(2), 0.0))


def himmelblau(*, preprocess: Preprocess = RAW, dtype: DTypeLike = jnp.float32, start: Start = (0.0, 0.0)) -> Problem:
    """(x² + y − 11)² + (x + y² − 7)², four minima of value 0, so that no one optimum is named. Source: Himmelblau 1972."""
    notes = ("four minima, all of value 0",)
    return _surface("himmelblau", himmelblau_loss, preprocess, dtype, start, Known(None, None, 0.0), notes)


def monkey_saddle(
    *, preprocess: Preprocess = RAW, dtype: DTypeLike = jnp.float32, start: Start = (0.5, 0.25)
) -> Problem:
    """x³ − 3xy²: at its one critical point, the origin, the Hessian is 0 and the second-derivative test says nothing."""
    return _surface("monkey_saddle", monkey_saddle_loss, preprocess, dtype, start, Known(None, None, -math.inf))


def rosenbrock_loss(params: Float[Array, "2"], data: tuple[()] = ()) -> Scalar:
    """(1 − x)² + 100(y − x²)²."""
    x, y = params
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def himmelblau_loss(params: Float[Array, "2"], data: tuple[()] = ()) -> Scalar:
    """(x² + y − 11)² + (x + y² − 7)²."""
    x, y = params
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def monkey_saddle_loss(params: Float[Array, "2"], data: tuple[()] = ()) -> Scalar:
    """x³ − 3xy²."""
    x, y = params
    return x**3 - 3 * x * y**2


def critical_points(name: str) -> dict[str, Float64[np.ndarray, "m 2"]]:
    """All points where the gradient of a surface vanishes, by kind: {minimum | saddle | maximum | degenerate: points}.

    Himmelblau's are polished by Newton's method to rounding.
    """
    return {kind: _polished(name, np.array(points)) for kind, points in _CRITICAL[name].items()}


_CRITICAL: dict[str, dict[str, list[tuple[float, float]]]] = {
    "rosenbrock": {"minimum": [(1.0, 1.0)]},
    "monkey_saddle": {"degenerate": [(0.0, 0.0)]},
    "himmelblau": {
        "minimum": [(3.0, 2.0), (-2.805, 3.131), (-3.779, -3.283), (3.584, -1.848)],
        "saddle": [(-0.128, -1.954), (0.0867, 2.884), (3.385, 0.0739), (-3.073, -0.0814)],
        "maximum": [(-0.2708, -0.923)],
    },
}


def _polished(name: str, points: Float64[np.ndarray, "m 2"]) -> Float64[np.ndarray, "m 2"]:
    if name != "himmelblau":
        return points
    for _ in range(8):  # from three digits, quadratic convergence reaches rounding in three
        x, y = points.T
        u, v = x**2 + y - 11, x + y**2 - 7
        gradient = np.stack([4 * x * u + 2 * v, 2 * u + 4 * y * v], axis=-1)
        cross = 4 * (x + y)
        hessian = np.stack([8 * x**2 + 4 * u + 2, cross, cross, 8 * y**2 + 4 * v + 2], axis=-1).reshape(-1, 2, 2)
        points = points - np.linalg.solve(hessian, gradient[..., None])[..., 0]
    return points


def _surface(
    name: str,
    loss: Callable[..., Scalar],
    preprocess: Preprocess,
    dtype: DTypeLike,
    start: Start,
    known: Known,
    notes: tuple[str, ...] = (),
) -> Problem:
    if preprocess.name != "raw":
        raise Unsupported(
            f"preprocess={preprocess.name} has no meaning for problem={name}, a surface without inputs. Choose preprocess=raw."
        )
    return Problem(name, start_at(start, 2, checked_dtype(dtype)), loss, data=(), known=known, notes=notes)
