"""What a reading looks back at."""

from typing import Any, NamedTuple


class Past(NamedTuple):
    """What a reading looks back at.

    Attributes:
        step: of the record before. gradient, momentum: there, or None.
        vectors, scout: of the preconditioned Hessian at the last reading, the next one's warm start (see `eigsh`); or None.
        readings: made so far.
    """

    step: Any = None
    gradient: Any = None
    momentum: Any = None
    vectors: Any = None
    scout: Any = None
    readings: int = 0
