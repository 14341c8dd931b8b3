"""The loss on a plane through parameter space: all of it for a problem with two parameters, else around the point that a run ended at.

    L(x, y) = loss(θ + x u + y v)

with u, v the leading two eigenvectors of the Hessian (x, y in the units of the parameters), or two random directions whose every filter
has the norm of the parameters' filter, so that x = 1 changes each by its own size.

Source: Li, Xu, Taylor, Studer, Goldstein 2018 (Visualizing the Loss Landscape of Neural Nets), sec. 4.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Float64
from numpy.typing import ArrayLike

from curvexp.curvature import Objective, hessian
from curvexp.linalg import eigsh
from curvexp.linalg.precision import at_least_float32, full_precision
from curvexp.programs import compiled
from curvexp.types import Params, RandomKey, Scalar

POINTS = 41  # a side
POINTS_NETWORK = 25


def parameter_plane(
    whole: Objective, params: Params, path: Float64[np.ndarray, "m 2"], steps: Sequence[int], optimum: ArrayLike | None
) -> dict[str, Any]:
    """The whole loss of a problem with two parameters, over what the run went through, and the Hessian's eigenvectors at its end.

    Args:
        params: two numbers, for their structure. path: finite, the parameters at `steps`; the last is where the Hessian is taken.
        optimum: (2,) or None.

    The window is a square over the path, the optimum, and the critical point of the local quadratic model where that is near.
    """
    flat, unravel = ravel_pytree(at_least_float32(params))
    params = unravel(jnp.asarray(path[-1], flat.dtype))
    values, vectors = np.linalg.eigh(np.asarray(hessian(whole, params).dense(), np.float64))
    points = path if optimum is None else np.vstack([path, np.reshape(optimum, (1, 2))])
    size = max(float(np.abs(points).max()), 1e-3)
    if np.abs(values).min() > 1e-4 * np.abs(values).max():
        gradient = vectors.T @ np.asarray(ravel_pytree(_gradient(whole, params))[0], np.float64)
        critical = path[-1] - vectors @ (gradient / values)
        points = np.vstack([points, critical]) if np.abs(critical).max() <= 5 * size else points
    low, high = points.min(axis=0), points.max(axis=0)
    half = 0.65 * max(float((high - low).max()), 0.25 * size)
    xs, ys = (np.linspace(middle - half, middle + half, POINTS) for middle in (low + high) / 2)
    axes = unravel(jnp.eye(2, dtype=flat.dtype)[0]), unravel(jnp.eye(2, dtype=flat.dtype)[1])
    zero = jax.tree.map(jnp.zeros_like, params)
    grid = _grid(whole, zero, *axes, jnp.asarray(xs, flat.dtype), jnp.asarray(ys, flat.dtype))
    return {
        **{
            "name": "parameters",
            "axes": ["first parameter", "second parameter"],
            "x": xs,
            "y": ys,
            "loss": np.asarray(grid),
        },
        **{"path": path, "path_steps": list(steps), "eigenvalues": values, "eigenvectors": vectors},
    }


def plane(
    whole: Objective, params: Params, u: Params, v: Params, *, reach: tuple[float, float], points: int = POINTS
) -> tuple[Float64[np.ndarray, "points"], Float64[np.ndarray, "points"], Float64[np.ndarray, "points points"]]:
    """x, y and the loss, rows along y, over [−reach, reach] along u and v."""
    dtype = ravel_pytree(params)[0].dtype
    xs, ys = (np.linspace(-r, r, points) for r in reach)
    return xs, ys, np.asarray(_grid(whole, params, u, v, jnp.asarray(xs, dtype), jnp.asarray(ys, dtype)), np.float64)


def around(whole: Objective, params: Params, *, step: int, key: RandomKey) -> list[dict[str, Any]]:
    """Two planes around the point that a run ended at: the leading two eigenvectors, and filter-normalized random directions.

    Along an eigenvector the reach is where its quadratic model has doubled the loss, √(2 loss / |λ|), at most half of ‖θ‖.
    """
    params = at_least_float32(params)
    size = float(jnp.linalg.norm(ravel_pytree(params)[0]))
    found = eigsh(hessian(whole, params), k=2, tol=1e-2, key=key)
    loss = max(abs(float(whole(params))), 1e-12)
    values = np.asarray(found.eigenvalues, np.float64)[::-1]
    vectors = [jax.tree.map(lambda leaf, i=i: leaf[i], found.eigenvectors) for i in (1, 0)]
    reach = tuple(float(min(np.sqrt(2 * loss / max(abs(value), 1e-12)), size / 2)) for value in values)
    here = {"path": [[0.0, 0.0]], "path_steps": [step]}
    xs, ys, grid = plane(whole, params, *vectors, reach=(reach[0], reach[1]), points=POINTS_NETWORK)
    texts = [f"eigenvector of λ = {value:.3g}" for value in values]
    eigen = {"name": "eigenvectors", "axes": texts, "x": xs, "y": ys, "loss": grid, "eigenvalues": values, **here}
    u, v = (filter_normalized(params, jax.random.fold_in(key, i)) for i in (1, 2))
    xs, ys, grid = plane(whole, params, u, v, reach=(1.0, 1.0), points=POINTS_NETWORK)
    texts = ["random direction", "another random direction"]
    return [eigen, {"name": "random", "axes": texts, "x": xs, "y": ys, "loss": grid, **here}]


def filter_normalized(params: Params, key: RandomKey) -> Params:
    """A random direction: standard normal, each filter (what feeds one unit: all but the last axis) with the norm of
    the parameters' filter; zero for biases and other vectors.

    Source: Li et al. 2018, sec. 4.
    """
    leaves, shape = jax.tree.flatten(params)
    keys = jax.random.split(key, len(leaves))

    def one(leaf: Float[Array, "..."], key: RandomKey) -> Float[Array, "..."]:
        if leaf.ndim < 2:
            return jnp.zeros_like(leaf)
        drawn = jax.random.normal(key, leaf.shape, leaf.dtype)
        axes = tuple(range(leaf.ndim - 1))
        norms = [jnp.sqrt((array**2).sum(axis=axes, keepdims=True)) for array in (leaf, drawn)]
        return drawn * norms[0] / jnp.where(norms[1] > 0, norms[1], 1)

    return jax.tree.unflatten(shape, [one(leaf, key) for leaf, key in zip(leaves, keys, strict=True)])


@compiled
@full_precision
def _gradient(whole: Callable[[Params], Scalar], params: Params) -> Params:
    return jax.grad(whole)(params)


@compiled
@full_precision
def _grid(
    whole: Objective, params: Params, u: Params, v: Params, xs: Float[Array, "columns"], ys: Float[Array, "rows"]
) -> Float[Array, "rows columns"]:
    def at(x: Scalar, y: Scalar) -> Scalar:
        return whole(jax.tree.map(lambda p, a, b: p + x * a + y * b, params, u, v))

    return jax.lax.map(lambda y: jax.lax.map(lambda x: at(x, y), xs), ys)
