"""curvexp: how curvature governs optimization, measured beside theory.

The names below load when they are first used, so that `import curvexp` is instant and pulls in neither Hydra, W&B nor pandas.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvexp.app.rebuilt import load_problem as load_problem
    from curvexp.curvature import Operator as Operator
    from curvexp.curvature import WeightedMean as WeightedMean
    from curvexp.curvature import block as block
    from curvexp.curvature import difference as difference
    from curvexp.curvature import fisher as fisher
    from curvexp.curvature import ggn as ggn
    from curvexp.curvature import gradient_covariance as gradient_covariance
    from curvexp.curvature import hessian as hessian
    from curvexp.curvature import layers as layers
    from curvexp.curvature import preconditioned as preconditioned
    from curvexp.curvature import sampling_error as sampling_error
    from curvexp.curvature import scaled as scaled
    from curvexp.curvature import shifted as shifted
    from curvexp.errors import ConfigError as ConfigError
    from curvexp.errors import Unsupported as Unsupported
    from curvexp.linalg import Density as Density
    from curvexp.linalg import Eigenpairs as Eigenpairs
    from curvexp.linalg import Estimate as Estimate
    from curvexp.linalg import Inertia as Inertia
    from curvexp.linalg import diagonal as diagonal
    from curvexp.linalg import eigsh as eigsh
    from curvexp.linalg import eigsh_above as eigsh_above
    from curvexp.linalg import frobenius_norm as frobenius_norm
    from curvexp.linalg import inertia as inertia
    from curvexp.linalg import spectral_density as spectral_density
    from curvexp.linalg import trace as trace
    from curvexp.optim import Optimizer as Optimizer
    from curvexp.optim import preconditioner as preconditioner
    from curvexp.preprocess import Preprocess as Preprocess
    from curvexp.probe import Probe as Probe
    from curvexp.probe import condition_numbers as condition_numbers
    from curvexp.problem import Problem as Problem
    from curvexp.quantities import Quantity as Quantity
    from curvexp.record import Reading as Reading
    from curvexp.record import Record as Record
    from curvexp.store import Runs as Runs
    from curvexp.store import load_block_densities as load_block_densities
    from curvexp.store import load_blocks as load_blocks
    from curvexp.store import load_densities as load_densities
    from curvexp.store import load_ledger as load_ledger
    from curvexp.store import load_params as load_params
    from curvexp.store import load_planes as load_planes
    from curvexp.store import load_runs as load_runs
    from curvexp.training import Run as Run
    from curvexp.training.run import run as run
    from curvexp.training.run import run_many as run_many

__version__ = "0.1.0"

_HOME = {
    "app.rebuilt": ("load_problem",),
    "curvature": (
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
    ),
    "errors": ("ConfigError", "Unsupported"),
    "linalg": (
        "Density",
        "Eigenpairs",
        "Estimate",
        "Inertia",
        "diagonal",
        "eigsh",
        "eigsh_above",
        "frobenius_norm",
        "inertia",
        "spectral_density",
        "trace",
    ),
    "optim": ("Optimizer", "preconditioner"),
    "preprocess": ("Preprocess",),
    "probe": ("Probe", "condition_numbers"),
    "problem": ("Problem",),
    "quantities": ("Quantity",),
    "record": ("Reading", "Record"),
    "store": (
        "Runs",
        "load_block_densities",
        "load_blocks",
        "load_densities",
        "load_ledger",
        "load_params",
        "load_planes",
        "load_runs",
    ),
    "training": ("Run", "run", "run_many"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = [
    "__version__",
    *sorted(_MODULE),
]


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(importlib.import_module(f"curvexp.{_MODULE[name]}"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module 'curvexp' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
