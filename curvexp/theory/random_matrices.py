"""Spectra of random matrices: the bulk of a sample covariance, and the outliers that leave it.

Sources: Marchenko, Pastur 1967; Baik, Ben Arous, Péché 2005; Papyan 2019.
"""

import numpy as np
from jaxtyping import Shaped
from numpy.typing import ArrayLike

from curvexp.theory.recurrence import Array, float64


def marchenko_pastur_edges(ratio: ArrayLike, *, variance: ArrayLike = 1.0) -> tuple[Array, Array]:
    """Edges v(1 − √γ)² and v(1 + √γ)² of the spectrum of a sample covariance; γ = features / samples <= 1.

    Source: Marchenko, Pastur 1967.

    >>> [float(edge) for edge in marchenko_pastur_edges(0.25)]
    [0.25, 2.25]
    """
    g, v = float64(ratio, variance)
    return v * (1 - np.sqrt(g)) ** 2, v * (1 + np.sqrt(g)) ** 2


def outlier_threshold(ratio: ArrayLike) -> Array:
    """Strength √γ that a spike θ² must pass for an eigenvalue to leave the bulk. Source: Baik, Ben Arous, Péché 2005, thm 1.1.

    >>> float(outlier_threshold(0.25))
    0.5
    """
    return np.sqrt(float64(ratio)[0])


def spiked_top_eigenvalue(strength: ArrayLike, *, ratio: ArrayLike, variance: ArrayLike = 1.0) -> Array:
    """Largest eigenvalue of a sample second moment with a spike: v(1+θ²)(1+γ/θ²) above the threshold √γ, else the bulk's edge.

    Args:
        strength: θ², of a mean m in N features N·m²/v. ratio: γ = N/P.

    Source: Baik, Silverstein 2006, thm 1.1; Benaych-Georges, Nadakuditi 2012, sec. 3.1.

    >>> spiked_top_eigenvalue([0.4, 1.0], ratio=0.25)
    array([2.25, 2.5 ])
    """
    s, g, v = float64(strength, ratio, variance)
    out = s > outlier_threshold(g)
    return np.where(out, v * (1 + s) * (1 + g / np.where(out, s, 1)), marchenko_pastur_edges(g, variance=v)[1])


def classifier_outliers(classes: ArrayLike) -> Shaped[np.ndarray, "..."]:
    """Number K − 1 of outliers in the Hessian of a classifier of K classes.

    The outliers come from the K class means of the gradients; the K means sum to the gradient, which is small late in training.

    Source: Sagun et al. 2017, sec. 3; Papyan 2019, sec. 3.

    >>> int(classifier_outliers(10))
    9
    """
    return np.asarray(classes) - 1
