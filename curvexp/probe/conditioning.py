"""Condition numbers and inertia from all eigenvalues, and bounds of them from some."""

import math

import numpy as np
from numpy.typing import ArrayLike

from curvexp import theory


def condition_numbers(eigenvalues: ArrayLike, *, eps: float) -> dict[str, float]:
    """Condition numbers of a complete spectrum, and what they leave out.

    condition_number = max|λ| / min|λ|, infinite where min|λ| is below the rounding floor n·eps·max|λ|; condition_number_positive =
    λmax / smallest eigenvalue above the floor, nan where none is; rank = how many stand above the floor in size; index = how many of them
    are negative.

    Args:
        eigenvalues: all of them, (n,). eps: machine epsilon of the precision that the matrix was computed in.

    Source: Goodfellow et al. 2016, eq. 4.2; the floor is the usual one of numerical rank (LAPACK, numpy.linalg.matrix_rank).
    """
    values = np.asarray(eigenvalues, np.float64)
    sizes = np.abs(values)
    floor = theory.rounding_floor(values, eps=eps)
    positive = values[values > floor]
    return {
        "condition_number": float(sizes.max() / sizes.min()) if sizes.min() > floor else math.inf,
        "condition_number_positive": float(positive.max() / positive.min()) if len(positive) else math.nan,
        "floor": floor,
        "below_floor": int((sizes <= floor).sum()),
        "rank": int((sizes > floor).sum()),
        "index": int((values < -floor).sum()),
    }


def condition_number_bound(eigenvalues: ArrayLike, residuals: ArrayLike) -> float:
    """A lower bound of the condition number max|λ| / min|λ| from some of the eigenvalues; inf where one may be zero.

    Args:
        eigenvalues: (m,). residuals: (m,): some eigenvalue lies within its residual of each.
    """
    sizes, residuals = np.abs(np.asarray(eigenvalues, np.float64)), np.asarray(residuals, np.float64)
    smallest = (sizes + residuals).min()
    return max(1.0, float((sizes - residuals).max() / smallest)) if smallest > 0 else math.inf


def inertia_bounds(
    eigenvalues: ArrayLike, residuals: ArrayLike, *, size: int, eps: float, which: str = "BE"
) -> dict[str, int]:
    """Bounds of the index (negative eigenvalues) and of the rank of an n x n matrix from Ritz values of both of its ends.

    By interlacing at least as many eigenvalues are negative (positive) as Ritz values are: index_low counts those below −n·eps·max|λ|, and
    rank_low those beyond it on either side. Where the lower end reaches up to a value that its residual keeps positive, and the solver
    missed none of that end, what lies above is positive too: then index_high counts what lies below; else it is n less the positive ones.
    Some eigenvalues alone never show that another is zero: the rank has no upper bound but n.

    Args:
        eigenvalues: (m,), ascending, the m//2 smallest and the largest (BE), or the largest alone (LA). residuals: (m,). size: n.
        eps: the products' machine epsilon.

    Returns:
        index_low, index_high, rank_low; empty where a value is not finite.

    Source: Parlett 1998, thm 10.1.1 (interlacing) and thm 4.5.1.
    """
    values, residuals = np.asarray(eigenvalues, np.float64), np.asarray(residuals, np.float64)
    if not (len(values) and np.isfinite(values).all()):
        return {}
    floor = size * eps * float(np.abs(values).max())
    negative, positive = int((values < -floor).sum()), int((values > floor).sum())
    low = slice(0, len(values) // 2 if which == "BE" else 0)
    sure = values[low] > np.maximum(residuals[low], floor)
    index_high = int((~sure).sum()) if sure.any() else size - positive
    return {"index_low": negative, "index_high": index_high, "rank_low": negative + positive}
