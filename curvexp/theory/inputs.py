"""Why inputs with a mean make λmax large: condition numbers and largest eigenvalue of the inputs' second moment C + mm'.

Least squares on inputs of covariance C and mean m has this second moment for a Hessian.

Sources: LeCun, Kanter, Solla 1991; LeCun et al. 1998, sec. 4.3 and 5.1.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from curvexp.theory.recurrence import float64


class InputConditions(NamedTuple):
    """Condition numbers of the second moment of inputs as they are, centred, and centred and divided by their deviations.

    >>> InputConditions(raw=100.0, centered=4.0, normalized=1.0).centered
    4.0
    """

    raw: float
    centered: float
    normalized: float


def input_conditions(covariance: ArrayLike, mean: ArrayLike) -> InputConditions:
    """κ of C + mm', of C, and of the correlation matrix D^(-1/2) C D^(-1/2).

    Source: LeCun et al. 1998, sec. 4.3 and 5.1.

    >>> conditions = input_conditions([[1.0, 0.0], [0.0, 4.0]], [2.0, 0.0])
    >>> [round(value, 9) for value in conditions]
    [1.25, 4.0, 1.0]
    """
    c, m = float64(covariance, mean)
    scale = 1 / np.sqrt(np.diagonal(c))
    return InputConditions(*(float(np.linalg.cond(a)) for a in (c + np.outer(m, m), c, scale[:, None] * c * scale)))


def top_of_second_moment(covariance: ArrayLike, mean: ArrayLike) -> float:
    """Largest eigenvalue of C + mm', the Hessian of least squares on inputs of covariance C and mean m: the secular equation.

    The root above λmax(C) of 1 = Σ m_i²/(x − c_i), with m_i the mean's components in C's eigenvectors; it lies within ‖m‖² of λmax(C).

    Args:
        covariance: (n, n). mean: (n,).

    Source: Golub 1973, sec. 5; LeCun, Kanter, Solla 1991.

    >>> round(top_of_second_moment([[1.0, 0.0], [0.0, 1.0]], [3.0, 0.0]), 9)
    10.0
    """
    c, m = float64(covariance, mean)
    values, vectors = np.linalg.eigh(c)
    squares = (vectors.T @ m) ** 2
    low, high = float(values[-1]), float(values[-1] + squares.sum())
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        below = (squares[squares > 0] / (middle - values[squares > 0])).sum() > 1
        low, high = (middle, high) if below else (low, middle)
    return high
