"""Problems: what is minimised, with what is known of it exactly. A builder is called as builder(preprocess=..., dtype=..., **options)."""

from curvexp.problem.base import Examples, Known, Problem
from curvexp.problem.data import Dataset
from curvexp.problem.linear import least_squares, logistic
from curvexp.problem.network import mlp
from curvexp.problem.quadratics import Quadratic, bowl, dome, quadratic, saddle, valley
from curvexp.problem.surface import himmelblau, monkey_saddle, rosenbrock

__all__ = [
    "Dataset",
    "Examples",
    "Known",
    "Problem",
    "Quadratic",
    "bowl",
    "dome",
    "himmelblau",
    "least_squares",
    "logistic",
    "mlp",
    "monkey_saddle",
    "quadratic",
    "rosenbrock",
    "saddle",
    "valley",
]
