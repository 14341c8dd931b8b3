"""Closed forms: what the theory of optimization says of a step, a rate and a threshold.

On a quadratic with Hessian eigenvalue λ each method is a linear iteration of that eigencomponent alone, and its rate is the spectral
radius of that iteration:

    gradient descent   x ← x − αg                                  z = 1 − αλ
    heavy ball         m ← βm + g, x ← x − αm                      z² − (1 + β − αλ) z + β = 0
    Nesterov           m ← βm + g, x ← x − α(g + βm)               z² − (1 + β)(1 − αλ) z + β(1 − αλ) = 0

All functions are pure, take numpy arrays or numbers (float64) and broadcast.

Sources: Polyak 1964; Nesterov 2018 (Lectures on Convex Optimization, thm 2.1.15); Lessard, Recht, Packard 2016 (Analysis and Design of
Optimization Algorithms via IQCs, prop. 1); Cohen et al. 2021 (arXiv:2103.00065) and 2022 (arXiv:2207.14484).
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


class Optimum(NamedTuple):
    """The hyperparameters with the least worst contraction on a quadratic, and that contraction."""

    lr: float
    momentum: float
    rate: float


def gradient_descent_contraction(eigenvalues: ArrayLike, *, lr: ArrayLike) -> Array:
    """Factor |1 − αλ| by which gradient descent multiplies the component along each eigenvector in a step.

    Args:
        eigenvalues: λ of the Hessian, any shape. lr: step size α, broadcast against it.

    Returns:
        Contraction, the broadcast shape; above 1 the component grows.

    Source: Nesterov 2018, thm 2.1.15.
    """
    return np.abs(1 - np.asarray(lr, np.float64) * np.asarray(eigenvalues, np.float64))


def heavy_ball_contraction(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Spectral radius of heavy ball's iteration along each eigenvector: the largest |z| with z² − (1 + β − αλ)z + β = 0.

    Args:
        eigenvalues: λ, any shape. lr: α. momentum: β.

    Source: Polyak 1964; Lessard et al. 2016, prop. 1.
    """
    a, b, h = _float64(lr, momentum, eigenvalues)
    return _spectral_radius(trace=1 + b - a * h, determinant=b + 0 * a * h)


def nesterov_contraction(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Spectral radius of Nesterov's iteration along each eigenvector: the largest |z| with z² − (1+β)(1−αλ)z + β(1−αλ) = 0.

    Args:
        eigenvalues: λ, any shape. lr: α. momentum: β.

    Source: Lessard et al. 2016, prop. 1.
    """
    a, b, h = _float64(lr, momentum, eigenvalues)
    return _spectral_radius(trace=(1 + b) * (1 - a * h), determinant=b * (1 - a * h))


def gradient_descent_threshold(*, lr: ArrayLike) -> Array:
    """Largest curvature 2/α at which gradient descent is stable. Source: Cohen et al. 2021, sec. 2."""
    return 2 / np.asarray(lr, np.float64)


def heavy_ball_threshold(*, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Largest curvature 2(1+β)/α at which heavy ball is stable. Source: Cohen et al. 2021, eq. 1."""
    a, b = _float64(lr, momentum)
    return 2 * (1 + b) / a


def nesterov_threshold(*, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Largest curvature 2(1+β)/(α(1+2β)) at which Nesterov momentum is stable. Source: Cohen et al. 2021, eq. 1."""
    a, b = _float64(lr, momentum)
    return 2 * (1 + b) / (a * (1 + 2 * b))


def adam_threshold(*, lr: ArrayLike, b1: ArrayLike) -> Array:
    """Largest preconditioned curvature 2(1+β₁)/((1−β₁)α) at which frozen Adam is stable: 38/α for β₁ = 0.9.

    Source: Cohen et al. 2022, sec. 3 (momentum as an exponential moving average).
    """
    a, b = _float64(lr, b1)
    return 2 * (1 + b) / ((1 - b) * a)


def gradient_descent_optimum(smallest: float, largest: float) -> Optimum:
    """Step size 2/(λmin + λmax) that minimises gradient descent's worst contraction, (κ−1)/(κ+1).

    Args:
        smallest, largest: extreme eigenvalues of the Hessian, 0 < smallest <= largest.

    Source: Polyak 1964; Nesterov 2018, thm 2.1.15.
    """
    return Optimum(lr=2 / (smallest + largest), momentum=0.0, rate=(largest - smallest) / (largest + smallest))


def heavy_ball_optimum(smallest: float, largest: float) -> Optimum:
    """Step size 4/(√λmax + √λmin)² and momentum ((√κ−1)/(√κ+1))² that minimise heavy ball's worst contraction, (√κ−1)/(√κ+1).

    Args:
        smallest, largest: extreme eigenvalues of the Hessian, 0 < smallest <= largest.

    Source: Polyak 1964; Lessard et al. 2016, prop. 1.
    """
    low, high = np.sqrt(smallest), np.sqrt(largest)
    rate = float((high - low) / (high + low))
    return Optimum(lr=float(4 / (high + low) ** 2), momentum=rate**2, rate=rate)


def nesterov_optimum(smallest: float, largest: float) -> Optimum:
    """Step size 4/(3λmax + λmin) and momentum (√(3κ+1)−2)/(√(3κ+1)+2) that minimise Nesterov's worst contraction, 1 − 2/√(3κ+1).

    Args:
        smallest, largest: extreme eigenvalues of the Hessian, 0 < smallest <= largest.

    Source: Lessard et al. 2016, prop. 1.
    """
    root = float(np.sqrt(3 * largest / smallest + 1))
    return Optimum(lr=4 / (3 * largest + smallest), momentum=(root - 2) / (root + 2), rate=1 - 2 / root)


def taylor_change(slope: ArrayLike, curvature: ArrayLike) -> Array:
    """Second-order Taylor prediction of the loss's change over a step s: g's + ½ s'Hs.

    Args:
        slope: g's. curvature: s'Hs. The error is of third order in ‖s‖.

    Source: Goodfellow et al. 2016, eq. 4.8.
    """
    g, h = _float64(slope, curvature)
    return g + h / 2


def best_step_along_gradient(gradient_squared: ArrayLike, curvature: ArrayLike) -> Array:
    """Step size ε = g'g / g'Hg that minimises the Taylor model f − εg'g + ½ε²g'Hg; infinite where g'Hg <= 0.

    Args:
        gradient_squared: g'g. curvature: g'Hg.

    Source: Goodfellow et al. 2016, eq. 4.10.
    """
    g, h = _float64(gradient_squared, curvature)
    return np.where(h > 0, g / np.where(h > 0, h, 1), np.inf)


def rounding_floor(eigenvalues: ArrayLike, *, eps: float = float(np.finfo(np.float64).eps)) -> float:
    """Size n·eps·max|λ| below which an eigenvalue of an n x n matrix cannot be told from zero.

    Args:
        eigenvalues: all of them, (n,). eps: machine epsilon of the precision that the matrix is computed in.

    Source: the numerical rank of LAPACK and numpy.linalg.matrix_rank.
    """
    values = np.abs(np.asarray(eigenvalues, np.float64))
    return float(values.size * eps * values.max(initial=0.0))


def above_rounding(eigenvalues: ArrayLike, *, eps: float = float(np.finfo(np.float64).eps)) -> Array:
    """The eigenvalues that are not zero to rounding, |λ| > `rounding_floor`, (m,) with m <= n, in their order."""
    values = np.asarray(eigenvalues, np.float64)
    return values[np.abs(values) > rounding_floor(values, eps=eps)]


# ---- a step as a matrix on one eigencomponent of (gradient, momentum) ------------------------------------------------------------


def gradient_descent_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike) -> Array:
    """One step of gradient descent on the gradient's component ⟨v,g⟩ along each eigenvector: the factor 1 − αλ, (..., 1, 1).

    Args:
        eigenvalues: λ of the Hessian (preconditioned where the method is), any shape. lr: α, broadcast against it.
    """
    a, h = _float64(lr, eigenvalues)
    return np.asarray(1 - a * h)[..., None, None]


def heavy_ball_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """One step of heavy ball, m ← βm + g, x ← x − αm, on (⟨v,g⟩, ⟨v,m⟩): [[1 − αλ, −αλβ], [1, β]], (..., 2, 2).

    Source: Polyak 1964; the characteristic polynomial is z² − (1 + β − αλ)z + β.
    """
    a, b, h = _float64(lr, momentum, eigenvalues)
    return _matrix(1 - a * h, -a * h * b, 1.0, b)


def nesterov_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """One step of Nesterov, m ← βm + g, x ← x − α(g + βm), on (⟨v,g⟩, ⟨v,m⟩): [[1 − αλ(1+β), −αλβ²], [1, β]], (..., 2, 2).

    Source: Lessard et al. 2016, prop. 1; the characteristic polynomial is z² − (1 + β)(1 − αλ)z + β(1 − αλ).
    """
    a, b, h = _float64(lr, momentum, eigenvalues)
    return _matrix(1 - a * h * (1 + b), -a * h * b**2, 1.0, b)


def adam_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike, b1: ArrayLike) -> Array:
    """One step of Adam with its preconditioner frozen, m ← β₁m + (1−β₁)g, y ← y − αm, on (⟨u,g⟩, ⟨u,m⟩), (..., 2, 2).

    Everything in the coordinates y = P^(1/2)x, where gradient and momentum are P^(-1/2)g and P^(-1/2)m. It is heavy ball's with the step
    α(1−β₁), momentum counted in units of 1 − β₁.

    Args:
        eigenvalues: of P^(-1/2) H P^(-1/2), any shape. lr: α. b1: β₁.

    Source: Cohen et al. 2022, sec. 3.
    """
    a, b, h = _float64(lr, b1, eigenvalues)
    return _matrix(1 - a * h * (1 - b), -a * h * b, 1 - b, b)


def iteration_contraction(iteration: ArrayLike) -> Array:
    """Spectral radius of a step's matrix, (..., d, d) with d 1 or 2: the factor that an eigencomponent shrinks by, in the long run."""
    m = np.asarray(iteration, np.float64)
    if m.shape[-1] == 1:
        return np.abs(m[..., 0, 0])
    return _spectral_radius(trace=_trace(m), determinant=_determinant(m))


def dominant_mode(iteration: ArrayLike, components: ArrayLike) -> Array:
    """Size |w's| of the dominant mode in s = (⟨v,g⟩, ⟨v,m⟩), w the left eigenvector of the root z of largest modulus, w₁ = 1.

    A step multiplies w's by z exactly, so that the ratio of two sizes is the spectral radius to the number of steps between them, also
    where z is complex and ⟨v,g⟩ itself oscillates, and where z is a double root.

    Args:
        iteration: (..., d, d) with d 1 or 2. components: s, (..., d).

    Returns:
        (...), nan where m does not enter (iteration[1, 0] = 0).
    """
    m, s = np.asarray(iteration, np.float64), np.asarray(components, np.float64)
    if m.shape[-1] == 1:
        return np.abs(s[..., 0])
    trace = _trace(m)
    split = _discriminant(trace, _determinant(m))
    root = np.sqrt(np.abs(split))
    z = np.where(split < 0, trace + 1j * root, trace + np.where(trace < 0, -root, root)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(s[..., 0] + (z - m[..., 0, 0]) / m[..., 1, 0] * s[..., 1])


def best_step_length(slope: ArrayLike, curvature: ArrayLike) -> Array:
    """Multiple ε of a step s that minimises the Taylor model g's·ε + ½ε²·s'Hs: −g's / s'Hs; at 2ε the model is level again.

    Args:
        slope: g's. curvature: s'Hs.

    Returns:
        ε, below 0 where the step leads uphill at once. Where s'Hs <= 0 the model has no minimum: +inf downhill, −inf uphill, nan where
        both are 0.

    Source: Goodfellow et al. 2016, eq. 4.10, for any step.
    """
    g, h = _float64(slope, curvature)
    endless = np.where(g < 0, np.inf, np.where(g > 0, -np.inf, np.nan))
    return np.where(h > 0, -g / np.where(h > 0, h, 1), endless)


def _matrix(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> Array:
    """[[a, b], [c, d]], broadcast, (..., 2, 2)."""
    entries = np.broadcast_arrays(*_float64(a, b, c, d))
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 2, 2)


def _trace(m: Array) -> Array:
    return np.asarray(m[..., 0, 0] + m[..., 1, 1])


def _determinant(m: Array) -> Array:
    return np.asarray(m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0])


# ---- helpers --------------------------------------------------------------------------------------------------------------------


def _spectral_radius(*, trace: Array, determinant: Array) -> Array:
    """Largest |z| with z² − trace·z + determinant = 0; √determinant where the roots are complex."""
    discriminant = _discriminant(trace, determinant)
    real = (np.abs(trace) + np.sqrt(np.maximum(discriminant, 0))) / 2
    return np.where(discriminant < 0, np.sqrt(np.maximum(determinant, 0)), real)


def _discriminant(trace: Array, determinant: Array) -> Array:
    """trace² − 4·determinant, zero where it is within rounding of zero.

    At heavy ball's optimum the roots are double, and a square root would turn an error of 1e-16 there into one of 1e-8.
    """
    discriminant = trace**2 - 4 * determinant
    noise = 8 * np.finfo(np.float64).eps * (trace**2 + 4 * np.abs(determinant))
    return np.where(np.abs(discriminant) <= noise, 0.0, discriminant)


def _float64(*values: ArrayLike) -> tuple[Array, ...]:
    return tuple(np.asarray(value, np.float64) for value in values)
