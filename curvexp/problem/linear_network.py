"""The linear network of two layers on one example: the smallest problem whose curvature changes as it is trained.

½f² of f = u'v/√n has at (u, v) the Hessian gg' + s·J with g = (v, u)/√n, s = f/√n, and J, which exchanges the layers. J has the
eigenvalues ±1. In the plane of (u+v, u+v) and (u−v, v−u) the Hessian has the trace λ = (‖u‖² + ‖v‖²)/n and the determinant −3s².
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float64
from numpy.typing import DTypeLike

from curvexp.errors import Unsupported
from curvexp.preprocess import RAW, Preprocess
from curvexp.problem import checks
from curvexp.problem.base import Known, Problem, checked_dtype
from curvexp.types import Init, Params, RandomKey, Scalar


def two_layers(*, preprocess: Preprocess = RAW, dtype: DTypeLike = jnp.float32, width: int = 1000) -> Problem:
    """½f² of f = u'v/√n, u and v standard normal at the start: least squares of a linear network on the input 1 with the target 0.

    Gradient descent with 2 < lr·λ < 4, λ = (‖u‖² + ‖v‖²)/n, first climbs, then comes to rest where it is flatter: the catapult.

    Args:
        width: n.

    Source: Lewkowycz et al. 2020, sec. 2.
    """
    width = checks.whole("problem.width", width, least=2)
    if preprocess.name != "raw":
        raise Unsupported(
            f"preprocess={preprocess.name} has no meaning for problem=two_layers, whose one input is 1. Choose preprocess=raw."
        )
    init = _init(width, checked_dtype(dtype))
    notes = ("every point with f = 0 is a minimum",)
    return Problem("two_layers", init, two_layers_loss, data=(), known=Known(None, None, 0.0), notes=notes)


def two_layers_loss(params: Params, data: tuple[()] = ()) -> Scalar:
    """½f² of f = u'v/√n."""
    u, v = params["u"], params["v"]
    return 0.5 * jnp.vdot(u, v, precision="highest") ** 2 / len(u)


def two_layers_curvature(params: Params) -> float:
    """λ = (‖u‖² + ‖v‖²)/n: of the Gauss-Newton matrix, and of the Hessian where f = 0, the one eigenvalue that is not 0."""
    u, v = (np.asarray(params[name], np.float64) for name in ("u", "v"))
    return float((u @ u + v @ v) / len(u))


def two_layers_eigenvalues(params: Params) -> Float64[np.ndarray, "n"]:
    """Eigenvalues of the Hessian, ascending: λ/2 ± √(λ²/4 + 3f²/n), and ±f/√n, each n − 1 times.

    >>> (two_layers_eigenvalues({"u": [1.0, 1.0], "v": [1.0, -1.0]}) + 0).tolist()  # f = 0, λ = 2
    [0.0, 0.0, 0.0, 2.0]
    """
    u, v = (np.asarray(params[name], np.float64) for name in ("u", "v"))
    n, half = len(u), two_layers_curvature(params) / 2
    s = abs(float(u @ v)) / n
    root = np.sqrt(half**2 + 3 * s**2)
    return np.sort(np.concatenate([[half - root, half + root], np.full(n - 1, -s), np.full(n - 1, s)]))


@functools.cache
def _init(width: int, dtype: np.dtype) -> Init:
    def init(key: RandomKey) -> Params:
        u, v = jax.random.normal(key, (2, width), dtype)
        return {"u": u, "v": v}

    return init
