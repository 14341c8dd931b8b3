"""Problems: what is minimised, with what is known of it exactly. A builder is called as builder(preprocess=..., dtype=..., **options).

Without preprocess it is raw, without dtype float32.
"""

import importlib
from typing import TYPE_CHECKING, Any

from curvexp.problem.base import Examples, Known, Problem
from curvexp.problem.data import Dataset
from curvexp.problem.linear_network import two_layers
from curvexp.problem.quadratics import Quadratic, bowl, dome, quadratic, saddle, valley
from curvexp.problem.surface import himmelblau, monkey_saddle, rosenbrock

if TYPE_CHECKING:
    from curvexp.problem.flax_models import from_flax, from_nnx
    from curvexp.problem.linear import least_squares, logistic
    from curvexp.problem.network import mlp
    from curvexp.problem.other_models import from_equinox, from_haiku
    from curvexp.problem.wrappers import from_apply

__all__ = [
    "Dataset",
    "Examples",
    "Known",
    "Problem",
    "Quadratic",
    "bowl",
    "dome",
    "from_apply",
    "from_equinox",
    "from_flax",
    "from_haiku",
    "from_nnx",
    "himmelblau",
    "least_squares",
    "logistic",
    "mlp",
    "monkey_saddle",
    "quadratic",
    "rosenbrock",
    "saddle",
    "two_layers",
    "valley",
]
_LATE = {
    "from_apply": "wrappers",
    "from_equinox": "other_models",
    "from_haiku": "other_models",
    "from_flax": "flax_models",
    "from_nnx": "flax_models",
    "least_squares": "linear",
    "logistic": "linear",
    "mlp": "network",
}  # Flax and scipy.special load when one is used


def __getattr__(name: str) -> Any:
    if name in _LATE:
        value = getattr(importlib.import_module(f"curvexp.problem.{_LATE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'curvexp.problem' has no attribute {name!r}")
