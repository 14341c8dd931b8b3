"""Which eigenvalues are zero to rounding, and what the signs of the others say of a critical point."""

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike


def rounding_floor(eigenvalues: ArrayLike, *, eps: float = float(np.finfo(np.float64).eps)) -> float:
    """Size n·eps·max|λ| below which an eigenvalue of an n x n matrix cannot be told from zero.

    Args:
        eigenvalues: all of them, (n,). eps: machine epsilon of the precision that the matrix is computed in.

    Source: the numerical rank of LAPACK and numpy.linalg.matrix_rank.

    >>> rounding_floor([1.0, 4.0], eps=0.125)
    1.0
    """
    values = np.abs(np.asarray(eigenvalues, np.float64))
    return float(values.size * eps * values.max(initial=0.0))


def above_rounding(eigenvalues: ArrayLike, *, eps: float = float(np.finfo(np.float64).eps)) -> Float64[np.ndarray, "m"]:
    """The eigenvalues that are not zero to rounding, |λ| > `rounding_floor`, in their order.

    >>> above_rounding([1e-20, 0.5, 1.0])
    array([0.5, 1. ])
    """
    values = np.asarray(eigenvalues, np.float64)
    return values[np.abs(values) > rounding_floor(values, eps=eps)]


def second_derivative_test(
    eigenvalues: ArrayLike,
    *,
    gradient: float = 0.0,
    tolerance: float = 0.0,
    eps: float = float(np.finfo(np.float64).eps),
) -> str:
    """Kind of a point by its Hessian: minimum, maximum, saddle, inconclusive, or not critical.

    Args:
        eigenvalues: all n of the Hessian, (n,). An eigenvalue counts as zero up to the larger of `rounding_floor` and `tolerance`.
        gradient: norm of the gradient; the point is critical where gradient <= tolerance.
        tolerance: largest gradient norm, and largest |eigenvalue|, that count as zero.

    Source: Goodfellow et al. 2016, sec. 4.3.1.

    >>> [second_derivative_test(values) for values in ([1, 2], [-1, 2], [-1, -2], [0, 1])]
    ['minimum', 'saddle', 'maximum', 'inconclusive']
    """
    values = np.asarray(eigenvalues, np.float64)
    if not gradient <= tolerance:
        return "not critical"
    floor = max(rounding_floor(values, eps=eps), tolerance)
    if (values > floor).any() and (values < -floor).any():
        return "saddle"
    if (values > floor).all():
        return "minimum"
    return "maximum" if (values < -floor).all() else "inconclusive"
