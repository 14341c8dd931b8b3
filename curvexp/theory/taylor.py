"""The second-order Taylor model of a step, f − εg'g + ½ε²g'Hg along the gradient: predicted change and best length.

Source: Goodfellow et al. 2016, sec. 4.3.1.
"""

import numpy as np
from numpy.typing import ArrayLike

from curvexp.theory.recurrence import Array, float64


def taylor_change(slope: ArrayLike, curvature: ArrayLike) -> Array:
    """Second-order Taylor prediction of the loss's change over a step s: g's + ½ s'Hs.

    Args:
        slope: g's. curvature: s'Hs. The error is of third order in ‖s‖.

    Source: Goodfellow et al. 2016, eq. 4.8.

    >>> float(taylor_change(-1.0, 0.5))
    -0.75
    """
    g, h = float64(slope, curvature)
    return g + h / 2


def best_step_along_gradient(gradient_squared: ArrayLike, curvature: ArrayLike) -> Array:
    """Step size ε = g'g / g'Hg that minimises the Taylor model f − εg'g + ½ε²g'Hg; infinite where g'Hg <= 0.

    Args:
        gradient_squared: g'g. curvature: g'Hg.

    Source: Goodfellow et al. 2016, eq. 4.10.

    >>> best_step_along_gradient(4.0, [8.0, -1.0])
    array([0.5, inf])
    """
    g, h = float64(gradient_squared, curvature)
    return np.where(h > 0, g / np.where(h > 0, h, 1), np.inf)


def uphill_step_along_gradient(gradient_squared: ArrayLike, curvature: ArrayLike) -> Array:
    """Step size 2g'g/g'Hg from which on a step along −g raises the Taylor model; infinite where g'Hg <= 0.

    Source: Goodfellow et al. 2016, eq. 4.9.

    >>> float(uphill_step_along_gradient(4.0, 8.0))
    1.0
    """
    return 2 * best_step_along_gradient(gradient_squared, curvature)


def best_step_length(slope: ArrayLike, curvature: ArrayLike) -> Array:
    """Multiple ε of a step s that minimises the Taylor model g's·ε + ½ε²·s'Hs: −g's / s'Hs; at 2ε the model is level again.

    Args:
        slope: g's. curvature: s'Hs.

    Returns:
        ε, below 0 where the step leads uphill at once. Where s'Hs <= 0 the model has no minimum: +inf downhill, −inf uphill, nan where
        both are 0.

    Source: Goodfellow et al. 2016, eq. 4.10, for any step.

    >>> float(best_step_length(-1.0, 0.5))
    2.0
    """
    g, h = float64(slope, curvature)
    endless = np.where(g < 0, np.inf, np.where(g > 0, -np.inf, np.nan))
    return np.where(h > 0, -g / np.where(h > 0, h, 1), endless)
