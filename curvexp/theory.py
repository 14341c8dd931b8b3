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


def quadratic_gradient(matrix: ArrayLike, vector: ArrayLike, x: ArrayLike) -> Array:
    """Gradient Ax − b of ½x'Ax − b'x.

    Args:
        matrix: A (n, n) symmetric. vector: b (n,). x: (..., n).

    Source: Goodfellow et al. 2016, sec. 4.3.
    """
    a, b, point = _float64(matrix, vector, x)
    return point @ a - b


def quadratic_hessian(matrix: ArrayLike) -> Array:
    """Hessian of ½x'Ax − b'x, the symmetric part (A + A')/2, (n, n)."""
    (a,) = _float64(matrix)
    return (a + a.T) / 2


def quadratic_minimum(matrix: ArrayLike, vector: ArrayLike) -> tuple[Array, float]:
    """Critical point A⁻¹b of ½x'Ax − b'x, (n,), and its value −½b'A⁻¹b: a minimum where A is positive definite.

    Raises:
        numpy.linalg.LinAlgError: A is singular.
    """
    a, b = _float64(matrix, vector)
    x: Array = np.linalg.solve(a, b).astype(np.float64)
    return x, float(-b @ x / 2)


def directional_curvature(eigenvalues: ArrayLike, components: ArrayLike) -> Array:
    """Curvature d'Hd/d'd along d: the mean of the eigenvalues, weighted by d's squared components.

    Args:
        eigenvalues: (n,). components: of d in the eigenvectors, (..., n).

    Source: Goodfellow et al. 2016, sec. 4.3.1.
    """
    h, d = _float64(eigenvalues, components)
    return (h * d**2).sum(axis=-1) / (d**2).sum(axis=-1)


def level_set_axes(eigenvalues: ArrayLike, *, level: ArrayLike) -> Array:
    """Semi-axes √(2c/λ) of the ellipsoid ½x'Ax = c, along each eigenvector; λ > 0.

    Source: Boyd, Vandenberghe 2004, sec. 9.3.1.
    """
    h, c = _float64(eigenvalues, level)
    return np.sqrt(2 * c / h)


def gradient_descent_trajectory(eigenvalues: ArrayLike, *, lr: ArrayLike, steps: ArrayLike) -> Array:
    """Component (1 − αλ)^k along an eigenvector after k steps, in units of the first; all arguments broadcast.

    Source: Nesterov 2018, thm 2.1.15.
    """
    h, a, k = _float64(eigenvalues, lr, steps)
    return (1 - a * h) ** k


def heavy_ball_trajectory(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Array:
    """Heavy ball's component along an eigenvector after k steps from 1, momentum buffer 0; all arguments broadcast.

    Source: the solution of x_{k+1} = (1 + β − αλ)x_k − βx_{k−1}, x_1 = 1 − αλ; Polyak 1964.
    """
    h, a, b, k = _float64(eigenvalues, lr, momentum, steps)
    return _recurrence(1 + b - a * h, b + 0 * a * h, 1 - a * h, k)


def nesterov_trajectory(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike, steps: ArrayLike) -> Array:
    """Nesterov's component along an eigenvector after k steps from 1, momentum buffer 0; all arguments broadcast.

    With x ← x − α(g + βm) the iterate is Nesterov's extrapolated point less α·β·m: it starts at 1 − α(1+β)λ.

    Source: the solution of x_{k+1} = (1+β)(1−αλ)x_k − β(1−αλ)x_{k−1}; Lessard et al. 2016, sec. 4.5.
    """
    h, a, b, k = _float64(eigenvalues, lr, momentum, steps)
    return _recurrence((1 + b) * (1 - a * h), b * (1 - a * h), 1 - a * (1 + b) * h, k)


def heavy_ball_angle(eigenvalues: ArrayLike, *, lr: ArrayLike, momentum: ArrayLike) -> Array:
    """Angle of heavy ball's complex roots, cos φ = (1 + β − αλ)/(2√β): the component changes sign φ/π times a step.

    0 where the roots are real and positive, π where they are real and negative.

    Source: O'Donoghue, Candès 2015, sec. 4.
    """
    h, a, b = _float64(eigenvalues, lr, momentum)
    trace = 1 + b - a * h
    root = 2 * np.sqrt(b)
    return np.where(
        np.abs(trace) < root,
        np.arccos(np.clip(trace / np.where(root > 0, root, 1), -1, 1)),
        np.where(trace < 0, np.pi, 0.0),
    )


def rmsprop_threshold(*, lr: ArrayLike) -> Array:
    """Largest preconditioned curvature 2/α at which frozen RMSProp is stable. Source: Cohen et al. 2022, sec. 3."""
    return gradient_descent_threshold(lr=lr)


def decayed_threshold(threshold: ArrayLike, *, weight_decay: ArrayLike) -> Array:
    """Largest curvature of the loss itself that is stable beside a penalty ½w‖θ‖², which adds w to each eigenvalue: threshold − w.

    Source: the shift of the spectrum; gradient descent's decoupled decay is the same iteration (Loshchilov, Hutter 2019, prop. 1).
    """
    t, w = _float64(threshold, weight_decay)
    return t - w


def adamw_threshold(*, lr: ArrayLike, b1: ArrayLike, weight_decay: ArrayLike) -> Array:
    """Largest preconditioned curvature (1+β₁)(2 − αw)/((1−β₁)α) at which frozen AdamW is stable.

    Source: −1 as a root of z² − (1 − αw + β₁ − α(1−β₁)λ)z + β₁(1 − αw), the iteration x ← (1−αw)x − αm/P of Loshchilov, Hutter 2019.
    """
    a, b, w = _float64(lr, b1, weight_decay)
    return (1 + b) * (2 - a * w) / ((1 - b) * a)


def steps_to_target(rate: ArrayLike, *, target: ArrayLike) -> Array:
    """Steps ⌈ln target / ln rate⌉ until rate^k <= target; infinite for rate >= 1, which never gets there.

    Args:
        rate: contraction a step. target: in (0, 1).
    """
    r, t = _float64(rate, target)
    inside = (r > 0) & (r < 1)
    return np.where(inside, np.ceil(np.log(t) / np.log(np.where(inside, r, 0.5))), np.where(r <= 0, 1.0, np.inf))


def uphill_step_along_gradient(gradient_squared: ArrayLike, curvature: ArrayLike) -> Array:
    """Step size 2g'g/g'Hg from which on a step along −g raises the Taylor model; infinite where g'Hg <= 0.

    Source: Goodfellow et al. 2016, eq. 4.9.
    """
    return 2 * best_step_along_gradient(gradient_squared, curvature)


def second_derivative_test(
    eigenvalues: ArrayLike,
    *,
    gradient: float = 0.0,
    tolerance: float = 0.0,
    eps: float = float(np.finfo(np.float64).eps),
) -> str:
    """What a point is by its Hessian: minimum, maximum, saddle, inconclusive, or not critical.

    Args:
        eigenvalues: all of them, (n,); zero where below `rounding_floor`, or all where none exceeds `tolerance`.
        gradient: its norm. tolerance: what counts as zero for it, and for curvature that has no scale of its own.

    Source: Goodfellow et al. 2016, sec. 4.3.1.
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


def top_of_second_moment(covariance: ArrayLike, mean: ArrayLike) -> float:
    """Largest eigenvalue of C + mm', the Hessian of least squares on inputs of covariance C and mean m: the secular equation.

    The root above λmax(C) of 1 = Σ m_i²/(x − c_i), with m_i the mean's components in C's eigenvectors; it lies within ‖m‖² of λmax(C).

    Args:
        covariance: (n, n). mean: (n,).

    Source: Golub 1973, sec. 5; LeCun, Kanter, Solla 1991.
    """
    c, m = _float64(covariance, mean)
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


class InputConditions(NamedTuple):
    """Condition numbers of the second moment of inputs as they are, centred, and centred and divided by their deviations."""

    raw: float
    centered: float
    normalized: float


def input_conditions(covariance: ArrayLike, mean: ArrayLike) -> InputConditions:
    """κ of C + mm', of C, and of the correlation matrix D^(-1/2) C D^(-1/2).

    Source: LeCun et al. 1998, sec. 4.3 and 5.1.
    """
    c, m = _float64(covariance, mean)
    scale = 1 / np.sqrt(np.diagonal(c))
    return InputConditions(*(float(np.linalg.cond(a)) for a in (c + np.outer(m, m), c, scale[:, None] * c * scale)))


def marchenko_pastur_edges(ratio: ArrayLike, *, variance: ArrayLike = 1.0) -> tuple[Array, Array]:
    """Edges v(1 − √γ)² and v(1 + √γ)² of the spectrum of a sample covariance; γ = features / samples <= 1.

    Source: Marchenko, Pastur 1967.
    """
    g, v = _float64(ratio, variance)
    return v * (1 - np.sqrt(g)) ** 2, v * (1 + np.sqrt(g)) ** 2


def outlier_threshold(ratio: ArrayLike) -> Array:
    """Strength √γ that a spike θ² must pass for an eigenvalue to leave the bulk. Source: Baik, Ben Arous, Péché 2005, thm 1.1."""
    return np.sqrt(_float64(ratio)[0])


def spiked_top_eigenvalue(strength: ArrayLike, *, ratio: ArrayLike, variance: ArrayLike = 1.0) -> Array:
    """Largest eigenvalue of a sample second moment with a spike: v(1+θ²)(1+γ/θ²) above the threshold √γ, else the bulk's edge.

    Args:
        strength: θ², of a mean m in N features N·m²/v. ratio: γ = N/P.

    Source: Baik, Silverstein 2006, thm 1.1; Benaych-Georges, Nadakuditi 2012, sec. 3.1.
    """
    s, g, v = _float64(strength, ratio, variance)
    out = s > outlier_threshold(g)
    return np.where(out, v * (1 + s) * (1 + g / np.where(out, s, 1)), marchenko_pastur_edges(g, variance=v)[1])


def classifier_outliers(classes: ArrayLike) -> Array:
    """Outliers K − 1 of the Hessian of a classifier of K classes: the gradients' class means, of which one is fixed by the others.

    Source: Sagun et al. 2017, sec. 3; Papyan 2019, sec. 3.
    """
    return np.asarray(classes) - 1


def sgd_second_moment_factor(
    *, lr: ArrayLike, mean: ArrayLike, variance: ArrayLike, examples: ArrayLike, batch_size: ArrayLike
) -> Array:
    """Factor of E x² a step of minibatch SGD on ½a_i x², (1−ηa)² + η²(n−B)s²/(B(n−1)): stable up to 1.

    Args:
        lr: η. mean, variance: a and s² of the examples' curvatures a_i (divided by n). examples: n. batch_size: B, without replacement.

    Source: Wu, Ma, E 2018, eq. 6.
    """
    e, a, s, n, b = _float64(lr, mean, variance, examples, batch_size)
    return (1 - e * a) ** 2 + e**2 * (n - b) * s / (b * (n - 1))


def sgd_largest_lr(*, mean: ArrayLike, variance: ArrayLike, examples: ArrayLike, batch_size: ArrayLike) -> Array:
    """Largest stable step 2a/(a² + (n−B)s²/(B(n−1))) of minibatch SGD. Source: Wu, Ma, E 2018, eq. 6."""
    a, s, n, b = _float64(mean, variance, examples, batch_size)
    return 2 * a / (a**2 + (n - b) * s / (b * (n - 1)))


def catapult_range(curvature: ArrayLike) -> tuple[Array, Array]:
    """Step sizes 2/λ₀ and 4/λ₀ between which a wide two-layer linear network, unstable at first, ends where it is flatter.

    Source: Lewkowycz et al. 2020, sec. 3.
    """
    (h,) = _float64(curvature)
    return 2 / h, 4 / h


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


def _recurrence(trace: Array, determinant: Array, first: Array, steps: Array) -> Array:
    """x_k of x_{k+1} = trace·x_k − determinant·x_{k−1}, x_0 = 1, x_1 = first: first·U_{k−1} − determinant·U_{k−2}.

    U_{k−1} = (z₁^k − z₂^k)/(z₁ − z₂), and k·z^{k−1} at a double root: double within rounding.
    """
    trace, determinant, first, k = np.broadcast_arrays(trace, determinant, first, steps)
    discriminant = _discriminant(trace, determinant)
    double = discriminant == 0
    root = np.sqrt(np.where(double, 1, discriminant).astype(complex))
    one, two = (trace + root) / 2, (trace - root) / 2

    def u(power: Array) -> Array:
        """U_{power−1}."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            same = power * np.power(trace / 2, power - 1)
            apart = (np.power(one, power) - np.power(two, power)) / root
        return np.where(power == 0, 0.0, np.where(double, same, apart.real))

    with np.errstate(invalid="ignore"):
        found = first * u(k) - determinant * u(np.maximum(k - 1, 0))
    return np.where(k == 0, 1.0, found)


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
