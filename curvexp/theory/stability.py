"""How fast a method contracts along an eigenvector, and the largest curvature at which the method is stable.

A method is stable along an eigenvector where the spectral radius of its iteration is at most 1. For adaptive methods the eigenvalues are
those of the preconditioned Hessian P^(-1/2) H P^(-1/2), with P frozen.

Sources: Lessard et al. 2016, prop. 1; Cohen et al. 2021 (arXiv:2103.00065) and 2022 (arXiv:2207.14484); Wu, Ma, E 2018; Lewkowycz et al.
2020 (arXiv:2003.02218).
"""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

from curvexp.theory.recurrence import Array, discriminant, float64, spectral_radius


def gradient_descent_contraction(eigenvalues: ArrayLike, *, lr: ArrayLike) -> Array:
    """Factor |1 − αλ| by which gradient descent multiplies the component along each eigenvector in a step.

    Args:
        eigenvalues: λ of the Hessian, any shape. lr: step size α, broadcast against it.

    Returns:
        Contraction, the broadcast shape; above 1 the component grows.

    Source: Nesterov 2018, thm 2.1.15.

    >>> gradient_descent_contraction([1.0, 3.0], lr=0.5)
    array([0.5, 0.5])
    """
    return np.abs(1 - np.asarray(lr, np.float64) * np.asarray(eigenvalues, np.float64))


def heavy_ball_contraction(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Spectral radius of heavy ball's iteration along each eigenvector: the largest |z| with z² − (1 + β − αλ)z + β = 0.

    Args:
        eigenvalues: λ, any shape. lr: α. momentum: β.

    Source: Polyak 1964; Lessard et al. 2016, prop. 1.

    >>> float(heavy_ball_contraction(1.0, lr=0.5, momentum=0.81)).__round__(12)  # complex roots: √momentum
    0.9
    """
    a, b, h = float64(lr, momentum, eigenvalues)
    return spectral_radius(trace=1 + b - a * h, determinant=b + 0 * a * h)


def nesterov_contraction(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Spectral radius of Nesterov's iteration along each eigenvector: the largest |z| with z² − (1+β)(1−αλ)z + β(1−αλ) = 0.

    Args:
        eigenvalues: λ, any shape. lr: α. momentum: β.

    Source: Lessard et al. 2016, prop. 1.

    >>> float(nesterov_contraction(1.0, lr=1.0, momentum=0.9))
    0.0
    """
    a, b, h = float64(lr, momentum, eigenvalues)
    return spectral_radius(trace=(1 + b) * (1 - a * h), determinant=b * (1 - a * h))


def gradient_descent_threshold(*, lr: ArrayLike) -> Array:
    """Largest curvature 2/α at which gradient descent is stable. Source: Cohen et al. 2021, sec. 2.

    >>> float(gradient_descent_threshold(lr=0.5))
    4.0
    """
    return 2 / np.asarray(lr, np.float64)


def heavy_ball_threshold(*, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Largest curvature 2(1+β)/α at which heavy ball is stable. Source: Cohen et al. 2021, eq. 1.

    >>> float(heavy_ball_threshold(lr=0.5, momentum=0.5))
    6.0
    """
    a, b = float64(lr, momentum)
    return 2 * (1 + b) / a


def nesterov_threshold(*, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Largest curvature 2(1+β)/(α(1+2β)) at which Nesterov momentum is stable. Source: Cohen et al. 2021, eq. 1.

    >>> float(nesterov_threshold(lr=0.5, momentum=0.5))
    3.0
    """
    a, b = float64(lr, momentum)
    return 2 * (1 + b) / (a * (1 + 2 * b))


def adam_threshold(*, lr: ArrayLike, b1: ArrayLike) -> Array:
    """Largest preconditioned curvature 2(1+β₁)/((1−β₁)α) at which frozen Adam is stable: 38/α for β₁ = 0.9.

    Source: Cohen et al. 2022, sec. 3 (momentum as an exponential moving average).

    >>> float(adam_threshold(lr=0.5, b1=0.5))
    12.0
    """
    a, b = float64(lr, b1)
    return 2 * (1 + b) / ((1 - b) * a)


def rmsprop_threshold(*, lr: ArrayLike) -> Array:
    """Largest preconditioned curvature 2/α at which frozen RMSProp is stable. Source: Cohen et al. 2022, sec. 3.

    >>> float(rmsprop_threshold(lr=0.5))
    4.0
    """
    return gradient_descent_threshold(lr=lr)


def adamw_threshold(*, lr: ArrayLike, b1: ArrayLike, weight_decay: ArrayLike) -> Array:
    """Largest preconditioned curvature (1+β₁)(2 − αw)/((1−β₁)α) at which frozen AdamW is stable.

    Source: −1 as a root of z² − (1 − αw + β₁ − α(1−β₁)λ)z + β₁(1 − αw), the iteration x ← (1−αw)x − αm/P of Loshchilov, Hutter 2019.

    >>> float(adamw_threshold(lr=0.5, b1=0.5, weight_decay=1.0))
    9.0
    """
    a, b, w = float64(lr, b1, weight_decay)
    return (1 + b) * (2 - a * w) / ((1 - b) * a)


def decayed_threshold(threshold: ArrayLike, *, weight_decay: ArrayLike) -> Array:
    """Largest curvature of the loss itself that is stable beside a penalty ½w‖θ‖², which adds w to each eigenvalue: threshold − w.

    Source: the shift of the spectrum; gradient descent's decoupled decay is the same iteration (Loshchilov, Hutter 2019, prop. 1).

    >>> float(decayed_threshold(4.0, weight_decay=0.5))
    3.5
    """
    t, w = float64(threshold, weight_decay)
    return t - w


def gradient_descent_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike) -> Float64[np.ndarray, "... 1 1"]:
    """One step of gradient descent on the gradient's component ⟨v,g⟩ along each eigenvector: the factor 1 − αλ.

    Args:
        eigenvalues: λ of the Hessian (preconditioned where the method is), any shape. lr: α, broadcast against it.

    >>> gradient_descent_iteration(1.0, lr=0.25)
    array([[0.75]])
    """
    a, h = float64(lr, eigenvalues)
    return np.asarray(1 - a * h)[..., None, None]


def heavy_ball_iteration(
    eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike
) -> Float64[np.ndarray, "... 2 2"]:
    """One step of heavy ball, m ← βm + g, x ← x − αm, on (⟨v,g⟩, ⟨v,m⟩): [[1 − αλ, −αλβ], [1, β]].

    Source: Polyak 1964; the characteristic polynomial is z² − (1 + β − αλ)z + β.

    >>> heavy_ball_iteration(1.0, lr=0.5, momentum=0.5)
    array([[ 0.5 , -0.25],
           [ 1.  ,  0.5 ]])
    """
    a, b, h = float64(lr, momentum, eigenvalues)
    return step_matrix(1 - a * h, -a * h * b, 1.0, b)


def nesterov_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Float64[np.ndarray, "... 2 2"]:
    """One step of Nesterov, m ← βm + g, x ← x − α(g + βm), on (⟨v,g⟩, ⟨v,m⟩): [[1 − αλ(1+β), −αλβ²], [1, β]].

    Source: Lessard et al. 2016, prop. 1; the characteristic polynomial is z² − (1 + β)(1 − αλ)z + β(1 − αλ).

    >>> nesterov_iteration(1.0, lr=0.5, momentum=0.5)
    array([[ 0.25 , -0.125],
           [ 1.   ,  0.5  ]])
    """
    a, b, h = float64(lr, momentum, eigenvalues)
    return step_matrix(1 - a * h * (1 + b), -a * h * b**2, 1.0, b)


def adam_iteration(eigenvalues: ArrayLike, *, lr: ArrayLike, b1: ArrayLike) -> Float64[np.ndarray, "... 2 2"]:
    """One step of Adam with its preconditioner frozen, m ← β₁m + (1−β₁)g, y ← y − αm, on (⟨u,g⟩, ⟨u,m⟩).

    Everything in the coordinates y = P^(1/2)x, where gradient and momentum are P^(-1/2)g and P^(-1/2)m. It is heavy ball's with the step
    α(1−β₁), momentum counted in units of 1 − β₁.

    Args:
        eigenvalues: of P^(-1/2) H P^(-1/2), any shape. lr: α. b1: β₁.

    Source: Cohen et al. 2022, sec. 3.

    >>> adam_iteration(1.0, lr=0.5, b1=0.5)
    array([[ 0.75, -0.25],
           [ 0.5 ,  0.5 ]])
    """
    a, b, h = float64(lr, b1, eigenvalues)
    return step_matrix(1 - a * h * (1 - b), -a * h * b, 1 - b, b)


def adamw_iteration(
    eigenvalues: ArrayLike, *, lr: ArrayLike, b1: ArrayLike, weight_decay: ArrayLike
) -> Float64[np.ndarray, "... 2 2"]:
    """One step of AdamW with its preconditioner frozen, m ← β₁m + (1−β₁)g, y ← (1 − αw)y − αm.

    In the coordinates of `adam_iteration`, of the distance from AdamW's own fixed point, where the gradient is not zero.

    Args:
        eigenvalues: of P^(-1/2) H P^(-1/2), any shape. lr: α. b1: β₁. weight_decay: w.

    Source: Loshchilov, Hutter 2019, alg. 2.

    >>> adamw_iteration(1.0, lr=0.5, b1=0.5, weight_decay=0.5)
    array([[ 0.5 , -0.25],
           [ 0.5 ,  0.5 ]])
    """
    a, b, w, h = float64(lr, b1, weight_decay, eigenvalues)
    return step_matrix(1 - a * w - a * h * (1 - b), -a * h * b, 1 - b, b)


def step_matrix(a: ArrayLike, b: ArrayLike, c: ArrayLike, d: ArrayLike) -> Float64[np.ndarray, "... 2 2"]:
    """[[a, b], [c, d]] with the entries broadcast: the step of an optimizer on (⟨v,g⟩, ⟨v,m⟩), v an eigenvector.

    >>> step_matrix([1.0, 2.0], 0.0, 0.0, 1.0).shape
    (2, 2, 2)
    """
    entries = np.broadcast_arrays(*float64(a, b, c, d))
    return np.stack(entries, axis=-1).reshape(*entries[0].shape, 2, 2)


def iteration_threshold(iteration: Callable[[ArrayLike], ArrayLike], *, lr: ArrayLike) -> Array:
    """Largest λ up to which the spectral radius of a step's matrix is at most 1, from λ = 0 on.

    A 2 x 2 matrix is stable where 1 + tr + det, 1 − tr + det and 1 − det are at least 0 (Jury 1962), a 1 x 1 matrix m where 1 + m and 1 − m
    are. Where the entries are linear in λ these are quadratics, known by three values; the threshold is the first root at which one of
    them turns negative. Errors are of a few roundings.

    Args:
        iteration: λ, any shape -> the matrix, (..., d, d) with d 1 or 2, its entries linear in λ.
        lr: α, broadcast against it; 1/α is the scale of λ.

    Returns:
        λ, inf where no λ is unstable.

    >>> float(iteration_threshold(lambda h: heavy_ball_iteration(h, lr=0.5, momentum=0.5), lr=0.5))
    6.0
    """
    (a,) = float64(lr)
    reach = np.where((a > 0) & np.isfinite(a), a, 1)
    with np.errstate(invalid="ignore", over="ignore"):  # of an infinite step, whose threshold is 0
        at = [_margins(np.asarray(iteration(x / reach), np.float64)) for x in (0.0, 1.0, 2.0)]
        half = (at[2] - 2 * at[1] + at[0]) / 2
        slope = at[1] - at[0] - half
        first = _first_fall(half, slope, at[0]).min(axis=0) / reach
    return np.where(a == 0, np.inf, np.where(np.isposinf(a), 0.0, first))


def iteration_contraction(iteration: ArrayLike) -> Array:
    """Spectral radius of a step's matrix, (..., d, d) with d 1 or 2: the factor that an eigencomponent shrinks by, in the long run.

    >>> float(iteration_contraction(heavy_ball_iteration(1.0, lr=0.5, momentum=0.25)))
    0.5
    """
    m = np.asarray(iteration, np.float64)
    if m.shape[-1] == 1:
        return np.abs(m[..., 0, 0])
    return spectral_radius(trace=_trace(m), determinant=_determinant(m))


def dominant_mode(iteration: ArrayLike, components: ArrayLike) -> Array:
    """Size |w's| of the dominant mode in s = (⟨v,g⟩, ⟨v,m⟩), w the left eigenvector of the root z of largest modulus, w₁ = 1.

    A step multiplies w's by z exactly, so that the ratio of two sizes is the spectral radius to the number of steps between them, also
    where z is complex and ⟨v,g⟩ itself oscillates, and where z is a double root.

    Args:
        iteration: (..., d, d) with d 1 or 2. components: s, (..., d).

    Returns:
        |w's|, nan where m does not enter (iteration[1, 0] = 0).

    >>> float(dominant_mode([[0.5]], [-2.0]))
    2.0
    """
    m, s = np.asarray(iteration, np.float64), np.asarray(components, np.float64)
    if m.shape[-1] == 1:
        return np.abs(s[..., 0])
    trace = _trace(m)
    split = discriminant(trace, _determinant(m))
    root = np.sqrt(np.abs(split))
    z = np.where(split < 0, trace + 1j * root, trace + np.where(trace < 0, -root, root)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(s[..., 0] + (z - m[..., 0, 0]) / m[..., 1, 0] * s[..., 1])


def sgd_second_moment_factor(
    *, lr: ArrayLike, mean: ArrayLike, variance: ArrayLike, examples: ArrayLike, batch_size: ArrayLike
) -> Array:
    """Factor of E x² a step of minibatch SGD on ½a_i x², (1−ηa)² + η²(n−B)s²/(B(n−1)): stable up to 1.

    Args:
        lr: η. mean, variance: a and s² of the examples' curvatures a_i (divided by n). examples: n. batch_size: B, without replacement.

    Source: Wu, Ma, E 2018, eq. 6.

    >>> float(sgd_second_moment_factor(lr=0.5, mean=1.0, variance=1.0, examples=3, batch_size=1))
    0.5
    """
    e, a, s, n, b = float64(lr, mean, variance, examples, batch_size)
    return (1 - e * a) ** 2 + e**2 * (n - b) * s / (b * (n - 1))


def sgd_largest_lr(*, mean: ArrayLike, variance: ArrayLike, examples: ArrayLike, batch_size: ArrayLike) -> Array:
    """Largest stable step 2a/(a² + (n−B)s²/(B(n−1))) of minibatch SGD. Source: Wu, Ma, E 2018, eq. 6.

    >>> float(sgd_largest_lr(mean=1.0, variance=1.0, examples=3, batch_size=1))
    1.0
    """
    a, s, n, b = float64(mean, variance, examples, batch_size)
    return 2 * a / (a**2 + (n - b) * s / (b * (n - 1)))


def catapult_range(curvature: ArrayLike) -> tuple[Array, Array]:
    """Step sizes 2/λ₀ and 4/λ₀ between which a wide two-layer linear network, unstable at first, ends where it is flatter.

    Source: Lewkowycz et al. 2020, sec. 3.

    >>> [float(lr) for lr in catapult_range(4.0)]
    [0.5, 1.0]
    """
    (h,) = float64(curvature)
    return 2 / h, 4 / h


def _margins(m: Array) -> Array:
    """What is at least 0 where the matrix is stable, stacked first."""
    if m.shape[-1] == 1:
        return np.stack([1 + m[..., 0, 0], 1 - m[..., 0, 0]])
    trace, determinant = _trace(m), _determinant(m)
    return np.stack([1 + trace + determinant, 1 - trace + determinant, 1 - determinant])


def _first_fall(a: Array, b: Array, c: Array) -> Array:
    """The least x >= 0 from which on ax² + bx + c is negative; inf where there is none. c >= 0, to rounding."""
    tiny = 1e-13 * (np.abs(a) + np.abs(b) + np.abs(c))
    a, b, c = (np.where(np.abs(part) <= tiny, 0.0, part) for part in (a, b, c))
    with np.errstate(divide="ignore", invalid="ignore"):
        split = b**2 - 4 * a * c
        q = -(b + np.where(b < 0, -1.0, 1.0) * np.sqrt(np.maximum(split, 0))) / 2
        roots = np.stack([q / a, c / q])  # without cancellation
        falls = (2 * a * roots + b < 0) | ((roots == 0) & (b == 0) & (a < 0))
    return np.where((split >= 0) & (roots >= 0) & falls, roots, np.inf).min(axis=0)


def _trace(m: Array) -> Array:
    return np.asarray(m[..., 0, 0] + m[..., 1, 1])


def _determinant(m: Array) -> Array:
    return np.asarray(m[..., 0, 0] * m[..., 1, 1] - m[..., 0, 1] * m[..., 1, 0])
