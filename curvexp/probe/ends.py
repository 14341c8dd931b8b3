"""The eigenvalues at the ends of an operator's spectrum, followed from reading to reading."""

from typing import NamedTuple

from curvexp.curvature import Objective, Operator
from curvexp.linalg.eigenpairs import Which
from curvexp.probe.base import State
from curvexp.probe.readings import dense_reading, partial_reading, size_of
from curvexp.probe.solve import extreme_pairs, next_state, tracked_from
from curvexp.record import Reading
from curvexp.types import Params, RandomKey


class Ends(NamedTuple):
    """How the ends of a spectrum are measured: options of `top`.

    Attributes:
        pairs: eigenpairs from each end that is looked at. which: BE, both ends; LA, the largest alone.
        tol, check_every, above, dense_below: as for `top`.
    """

    pairs: int
    which: Which
    tol: float
    check_every: int
    above: float | None = None
    dense_below: int = 0

    @property
    def wanted(self) -> int:
        """Number of eigenpairs that are asked for."""
        return (2 if self.which == "BE" else 1) * self.pairs

    def is_dense(self, size: int) -> bool:
        """Whether the whole spectrum of so many parameters is computed, as it costs less."""
        return size <= max(self.dense_below, self.wanted)


def ends_reading(
    ends: Ends,
    loss: Objective,
    params: Params,
    op: Operator,
    state: State,
    key: RandomKey,
    *,
    operator: str,
    last: bool,
) -> tuple[Reading, State]:
    """The reading of an operator's ends, and the state that the next one starts from.

    Args:
        op: of `loss` at `params`, by its name `operator`. state: of the reading before, or None. last: of the run.
    """
    size = size_of(params)
    if ends.is_dense(size):
        return dense_reading(loss, params, op, operator=operator), state
    tracked = tracked_from(state, ends.check_every, last)
    found = extreme_pairs(
        op, ends.pairs, size, which=ends.which, tol=ends.tol, above=ends.above, tracked=tracked, key=key
    )
    return partial_reading(loss, params, found, ends.which, operator=operator), next_state(tracked, found)
