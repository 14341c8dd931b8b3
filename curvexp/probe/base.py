"""A Probe: what is measured of the curvature, and when."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

from jaxtyping import PyTree

from curvexp.curvature import Objective
from curvexp.linalg.layout import LARGE
from curvexp.problem import Problem
from curvexp.quantities import Quantity
from curvexp.record import Reading
from curvexp.types import Params, RandomKey

State: TypeAlias = PyTree  # what a probe hands on from reading to reading, as it likes


CHECK_EVERY = 10  # readings


class Probe(NamedTuple):
    """What is measured of the loss's curvature, and when.

    Attributes:
        name: the option's name.
        measure: (loss, params, state, key) -> (Reading, state). `loss` is a `curvexp.curvature.Objective`, a function of the parameters
            over all the training data, with model, criterion and data where the problem has them: pass it through `jax.jit` as an
            argument, and one program serves every run. None measures nothing.
        every: steps between two readings; the first and the last step are always read.
        state: what `measure` gets at its first call.
        check: (parameters, problem) -> None, raises ConfigError where the probe cannot serve a problem of so many parameters.
        tol: relative residual asked of the sharpness of a preconditioned Hessian.
        check_every: readings between two of which that sharpness is checked for larger eigenvalues that were missed.
        measure_last: measures the last reading of a run in place of `measure`; None: `measure` does.
        quantities: descriptions of the scalars that `measure` adds to those of curvexp, see `curvexp.Quantity`.
        fills: parameters -> whether a reading takes all cores, or much memory, for itself; else rows of `run_many` are read side by side.
    """

    name: str
    measure: Callable[[Objective, Params, State, RandomKey], tuple[Reading, State]] | None
    every: int = 100
    state: State = None
    check: Callable[[int, Problem], None] = lambda size, problem: None
    tol: float = 1e-3
    check_every: int = CHECK_EVERY
    measure_last: Callable[[Objective, Params, State, RandomKey], tuple[Reading, State]] | None = None
    quantities: tuple[Quantity, ...] = ()
    fills: Callable[[int], bool] = lambda size: size > LARGE
