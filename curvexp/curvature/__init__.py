"""Curvature of a loss as symmetric operators on its parameters' space: products, never matrices, unless asked for.

With f the model's outputs, L = c(f) the loss, J = ∂f/∂θ:

    Hessian      H = ∇²L = J'(∇²c)J + Σ ∂c/∂f_i ∇²f_i
    GGN          G = J'(∇²c)J                 (Schraudolph 2002); H − G is the residual part
    Fisher       F = Σ E_y[∇log p ∇log p']    = G for softmax cross-entropy and squared error (Martens 2020, sec. 9)

An Operator is a pytree: what it is made of (parameters, data) are arrays that jit takes as arguments, what it does is static. So one
compiled program serves all parameters and all data of the same shapes.
"""

from curvexp.curvature.blocks import block, layers
from curvexp.curvature.gauss_newton import ggn
from curvexp.curvature.hessians import hessian
from curvexp.curvature.information import fisher, gradient_covariance
from curvexp.curvature.objective import Objective, WeightedMean
from curvexp.curvature.operator import Operator, difference, preconditioned, scaled, shifted
from curvexp.curvature.samples import sampling_error

__all__ = [
    "Objective",
    "Operator",
    "WeightedMean",
    "block",
    "difference",
    "fisher",
    "ggn",
    "gradient_covariance",
    "hessian",
    "layers",
    "preconditioned",
    "sampling_error",
    "scaled",
    "shifted",
]
