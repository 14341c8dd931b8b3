"""Closed forms on a quadratic f(x) = ½x'Ax − b'x: calculus, best hyperparameters, trajectories along each eigenvector.

Along an eigenvector of eigenvalue λ each method is a linear iteration of that component alone:

    gradient descent   x ← x − αg                                  z = 1 − αλ
    heavy ball         m ← βm + g, x ← x − αm                      z² − (1 + β − αλ) z + β = 0
    Nesterov           m ← βm + g, x ← x − α(g + βm)               z² − (1 + β)(1 − αλ) z + β(1 − αλ) = 0

Sources: Goodfellow et al. 2016, sec. 4.3; Polyak 1964; Nesterov 2018 (Lectures on Convex Optimization, thm 2.1.15); Lessard, Recht,
Packard 2016 (Analysis and Design of Optimization Algorithms via IQCs, prop. 1).
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from curvexp.theory.recurrence import Array, float64, solution


def quadratic_gradient(matrix: ArrayLike, vector: ArrayLike, x: ArrayLike) -> Float64[np.ndarray, "... n"]:
    """Gradient Ax − b of ½x'Ax − b'x.

    Args:
        matrix: A (n, n) symmetric. vector: b (n,). x: (..., n).

    Source: Goodfellow et al. 2016, sec. 4.3.

    >>> quadratic_gradient([[2.0, 0.0], [0.0, 4.0]], [1.0, 0.0], [1.0, 1.0])
    array([1., 4.])
    """
    a, b, point = float64(matrix, vector, x)
    return point @ a - b


def quadratic_hessian(matrix: ArrayLike) -> Float64[np.ndarray, "n n"]:
    """Hessian of ½x'Ax − b'x, the symmetric part (A + A')/2.

    >>> quadratic_hessian([[2.0, 1.0], [3.0, 4.0]])
    array([[2., 2.],
           [2., 4.]])
    """
    (a,) = float64(matrix)
    return (a + a.T) / 2


def quadratic_minimum(matrix: ArrayLike, vector: ArrayLike) -> tuple[Float64[np.ndarray, "n"], float]:
    """Critical point A⁻¹b of ½x'Ax − b'x, and its value −½b'A⁻¹b: a minimum where A is positive definite.

    Raises:
        numpy.linalg.LinAlgError: A is singular.

    >>> quadratic_minimum([[2.0, 0.0], [0.0, 4.0]], [2.0, 4.0])
    (array([1., 1.]), -3.0)
    """
    a, b = float64(matrix, vector)
    x: Float64[np.ndarray, "n"] = np.linalg.solve(a, b).astype(np.float64)
    return x, float(-b @ x / 2)


def directional_curvature(eigenvalues: ArrayLike, components: ArrayLike) -> Array:
    """Curvature d'Hd/d'd along d: the mean of the eigenvalues, weighted by d's squared components.

    Args:
        eigenvalues: (n,). components: of d in the eigenvectors, (..., n).

    Source: Goodfellow et al. 2016, sec. 4.3.1.

    >>> float(directional_curvature([1.0, 3.0], [1.0, 1.0]))
    2.0
    """
    h, d = float64(eigenvalues, components)
    return (h * d**2).sum(axis=-1) / (d**2).sum(axis=-1)


def level_set_axes(eigenvalues: ArrayLike, *, level: ArrayLike) -> Array:
    """Semi-axes √(2c/λ) of the ellipsoid ½x'Ax = c, along each eigenvector; λ > 0.

    Source: Boyd, Vandenberghe 2004, sec. 9.3.1.

    >>> level_set_axes([1.0, 4.0], level=2.0)
    array([2., 1.])
    """
    h, c = float64(eigenvalues, level)
    return np.sqrt(2 * c / h)


class Optimum(NamedTuple):
    """The hyperparameters with the least worst contraction on a quadratic, and that contraction.

    >>> Optimum(lr=0.5, momentum=0.0, rate=0.5).lr
    0.5
    """

    lr: float
    momentum: float
    rate: float


def gradient_descent_optimum(smallest: float, largest: float) -> Optimum:
    """Step size 2/(λmin + λmax) that minimises gradient descent's worst contraction, (κ−1)/(κ+1).

    Args:
        smallest, largest: extreme eigenvalues of the Hessian, 0 < smallest <= largest.

    Source: Polyak 1964; Nesterov 2018, thm 2.1.15.

    >>> gradient_descent_optimum(1.0, 3.0)
    Optimum(lr=0.5, momentum=0.0, rate=0.5)
    """
    return Optimum(lr=2 / (smallest + largest), momentum=0.0, rate=(largest - smallest) / (largest + smallest))


def heavy_ball_optimum(smallest: float, largest: float) -> Optimum:
    """Step size 4/(√λmax + √λmin)² and momentum ((√κ−1)/(√κ+1))² that minimise heavy ball's worst contraction, (√κ−1)/(√κ+1).

    Args:
        smallest, largest: extreme eigenvalues of the Hessian, 0 < smallest <= largest.

    Source: Polyak 1964; Lessard et al. 2016, prop. 1.

    >>> heavy_ball_optimum(1.0, 9.0)
    Optimum(lr=0.25, momentum=0.25, rate=0.5)
    """
    low, high = np.sqrt(smallest), np.sqrt(largest)
    rate = float((high - low) / (high + low))
    return Optimum(lr=float(4 / (high + low) ** 2), momentum=rate**2, rate=rate)


def nesterov_optimum(smallest: float, largest: float) -> Optimum:
    """Step size 4/(3λmax + λmin) and momentum (√(3κ+1)−2)/(√(3κ+1)+2) that minimise Nesterov's worst contraction, 1 − 2/√(3κ+1).

    Args:
        smallest, largest: extreme eigenvalues of the Hessian, 0 < smallest <= largest.

    Source: Lessard et al. 2016, prop. 1.

    >>> nesterov_optimum(1.0, 5.0)
    Optimum(lr=0.25, momentum=0.3333333333333333, rate=0.5)
    """
    root = float(np.sqrt(3 * largest / smallest + 1))
    return Optimum(lr=4 / (3 * largest + smallest), momentum=(root - 2) / (root + 2), rate=1 - 2 / root)


def gradient_descent_trajectory(eigenvalues: ArrayLike, *, lr: ArrayLike, steps: ArrayLike) -> Array:
    """Component (1 − αλ)^k along an eigenvector after k steps, in units of the first; all arguments broadcast.

    Source: Nesterov 2018, thm 2.1.15.

    >>> gradient_descent_trajectory(1.0, lr=0.5, steps=[0, 1, 2])
    array([1.  , 0.5 , 0.25])
    """
    h, a, k = float64(eigenvalues, lr, steps)
    return (1 - a * h) ** k


def heavy_ball_trajectory(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Array:
    """Heavy ball's component along an eigenvector after k steps from 1, momentum buffer 0; all arguments broadcast.

    Source: the solution of x_{k+1} = (1 + β − αλ)x_k − βx_{k−1}, x_1 = 1 − αλ; Polyak 1964.

    >>> heavy_ball_trajectory(1.0, lr=0.5, momentum=0.5, steps=[0, 1, 2])
    array([1. , 0.5, 0. ])
    """
    h, a, b, k = float64(eigenvalues, lr, momentum, steps)
    return solution(1 + b - a * h, b + 0 * a * h, 1 - a * h, k)


def nesterov_trajectory(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Array:
    """Nesterov's component along an eigenvector after k steps from 1, momentum buffer 0; all arguments broadcast.

    With x ← x − α(g + βm) the iterate is Nesterov's extrapolated point less α·β·m: it starts at 1 − α(1+β)λ.

    Source: the solution of x_{k+1} = (1+β)(1−αλ)x_k − β(1−αλ)x_{k−1}; Lessard et al. 2016, sec. 4.5.

    >>> nesterov_trajectory(1.0, lr=0.5, momentum=0.5, steps=[0, 1, 2]).round(4)
    array([ 1.    ,  0.25  , -0.0625])
    """
    h, a, b, k = float64(eigenvalues, lr, momentum, steps)
    return solution((1 + b) * (1 - a * h), b * (1 - a * h), 1 - a * (1 + b) * h, k)


def heavy_ball_angle(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Angle of heavy ball's complex roots, cos φ = (1 + β − αλ)/(2√β): the component changes sign φ/π times a step.

    0 where the roots are real and positive, π where they are real and negative.

    Source: O'Donoghue, Candès 2015, sec. 4.

    >>> float(heavy_ball_angle(1.25, lr=1.0, momentum=0.25)) / np.pi
    0.5
    """
    h, a, b = float64(eigenvalues, lr, momentum)
    trace = 1 + b - a * h
    root = 2 * np.sqrt(b)
    return np.where(
        np.abs(trace) < root,
        np.arccos(np.clip(trace / np.where(root > 0, root, 1), -1, 1)),
        np.where(trace < 0, np.pi, 0.0),
    )


def steps_to_target(rate: ArrayLike, *, target: ArrayLike) -> Array:
    """Steps ⌈ln target / ln rate⌉ until rate^k <= target; infinite for rate >= 1, where the target is never reached.

    Args:
        rate: contraction a step. target: in (0, 1).

    >>> float(steps_to_target(0.5, target=1e-3))
    10.0
    """
    r, t = float64(rate, target)
    inside = (r > 0) & (r < 1)
    return np.where(inside, np.ceil(np.log(t) / np.log(np.where(inside, r, 0.5))), np.where(r <= 0, 1.0, np.inf))
