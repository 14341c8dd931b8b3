"""curvexp: how curvature governs optimization, measured beside theory.

The names below load when they are first used, so that `import curvexp` is instant and pulls in neither Hydra, W&B nor pandas.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from curvexp.curvature import Operator, block, fisher, ggn, hessian, preconditioned
    from curvexp.errors import ConfigError, Unsupported
    from curvexp.linalg import (
        Density,
        Eigenpairs,
        Estimate,
        diagonal,
        eigsh,
        frobenius_norm,
        spectral_density,
        trace,
    )
    from curvexp.optim import Optimizer
    from curvexp.preprocess import Preprocess
    from curvexp.probe import Probe
    from curvexp.problem import Problem
    from curvexp.record import Reading, Record
    from curvexp.runner import run
    from curvexp.store import Runs, load_runs

__version__ = "0.1.0"

_HOME = {
    "curvature": ("Operator", "block", "fisher", "ggn", "hessian", "preconditioned"),
    "errors": ("ConfigError", "Unsupported"),
    "linalg": (
        "Density",
        "Eigenpairs",
        "Estimate",
        "diagonal",
        "eigsh",
        "frobenius_norm",
        "spectral_density",
        "trace",
    ),
    "optim": ("Optimizer",),
    "preprocess": ("Preprocess",),
    "probe": ("Probe",),
    "problem": ("Problem",),
    "record": ("Reading", "Record"),
    "runner": ("run",),
    "store": ("Runs", "load_runs"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}
__all__ = [  # noqa: PLE0604
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
