"""Second-order linear recurrences x_{k+1} = trace·x_k − determinant·x_{k−1}: discriminant, spectral radius, solution.

Heavy ball and Nesterov momentum are such recurrences along each eigenvector of a quadratic's Hessian. The numbers `trace` and
`determinant` are those of the 2x2 matrix of one step, whose eigenvalues are the roots z of z² − trace·z + determinant = 0.
"""

import numpy as np
from jaxtyping import Float64
from numpy.typing import ArrayLike

Array = Float64[np.ndarray, "..."]  # of the shape to which the arguments broadcast; numpy's float64 for numbers


def solution(trace: Array, determinant: Array, first: Array, steps: Array) -> Array:
    """Term x_k of x_{k+1} = trace·x_k − determinant·x_{k−1} with x_0 = 1 and x_1 = first; all arguments broadcast.

    The term is first·U_{k−1} − determinant·U_{k−2} with U_{k−1} = (z₁^k − z₂^k)/(z₁ − z₂), or k·z^{k−1} where the roots agree to rounding.

    >>> solution(float64(1.0)[0], float64(-1.0)[0], float64(1.0)[0], float64(6)[0])  # Fibonacci's numbers
    array(13.)
    """
    trace, determinant, first, k = np.broadcast_arrays(trace, determinant, first, steps)
    split = discriminant(trace, determinant)
    double = split == 0
    root = np.sqrt(np.where(double, 1, split).astype(complex))
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


def spectral_radius(*, trace: Array, determinant: Array) -> Array:
    """Largest |z| of the roots of z² − trace·z + determinant: √determinant where the roots are complex.

    >>> float(spectral_radius(trace=np.array(5.0), determinant=np.array(6.0)))  # of the roots 2 and 3
    3.0
    """
    split = discriminant(trace, determinant)
    real = (np.abs(trace) + np.sqrt(np.maximum(split, 0))) / 2
    return np.where(split < 0, np.sqrt(np.maximum(determinant, 0)), real)


def discriminant(trace: Array, determinant: Array) -> Array:
    """Discriminant trace² − 4·determinant, set to zero where rounding hides it.

    Heavy ball's best momentum makes the roots equal. A square root would turn an error of 1e-16 in a zero discriminant into 1e-8.

    >>> discriminant(np.array([2.0, 5.0]), np.array([1.0, 6.0])).tolist()
    [0.0, 1.0]
    """
    found = trace**2 - 4 * determinant
    noise = 8 * np.finfo(np.float64).eps * (trace**2 + 4 * np.abs(determinant))
    return np.where(np.abs(found) <= noise, 0.0, found)


def float64(*values: ArrayLike) -> tuple[Float64[np.ndarray, "..."], ...]:
    """The arguments as float64 arrays.

    >>> float64(1, [2])
    (array(1.), array([2.]))
    """
    return tuple(np.asarray(value, np.float64) for value in values)
