"""What a reading looks back at, and where it stands."""

from typing import Any, NamedTuple

from jaxtyping import PyTree

from curvexp.types import AnyCount, Params


class Past(NamedTuple):
    """What a reading looks back at.

    Attributes:
        step: of the record before. gradient, momentum: there, or None.
        vectors, scout: of the preconditioned Hessian at the last reading, the next one's warm start (see `eigsh`); or None.
        readings: made so far.
    """

    step: AnyCount | int | None = None
    gradient: Params | None = None
    momentum: Params | None = None
    vectors: PyTree = None
    scout: PyTree = None
    readings: int = 0


class Now(NamedTuple):
    """Where a reading stands.

    Attributes:
        state: of the training: params, opt_state, gradient and step are read. hyper: the numbers of the step that comes.
        loss: over all training data. base: the minimum, or a lower bound of it; None where neither is known.
        optimum: parameters at the minimum, or None.
    """

    state: Any
    hyper: dict[str, float]
    loss: float
    base: float | None
    optimum: Params | None
