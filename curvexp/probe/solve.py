"""Eigenpairs of an operator, followed from reading to reading."""

import math
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jaxtyping import PyTree

from curvexp import memory
from curvexp.curvature import Operator, preconditioned
from curvexp.linalg import Eigenpairs, eigsh
from curvexp.linalg.eigenpairs import Start, Which
from curvexp.linalg.lapack import one_thread
from curvexp.linalg.layout import LARGE, devices_of
from curvexp.probe.arguments import MOST_PAIRS, PAIRS, basis_bytes
from curvexp.probe.base import State
from curvexp.types import AnyReal, RandomKey


def sharpness(op: Operator, *, tol: float, key: RandomKey) -> float:
    """Largest eigenvalue of a Hessian, plain or preconditioned; the largest |λ| where none is positive.

    Up to LARGE parameters it asks for the pairs that `top` asks for where it is told nothing: they share a compiled program, and to compile
    another one takes far longer than the products that it would save.

    Args:
        tol: relative residual.
    """
    if op.size <= LARGE:
        found = solved(op, k=min(2 * PAIRS, op.size), which="BE", tol=tol, check=0, key=key).eigenvalues
    else:
        found = solved(op, k=1, which="LA", tol=tol, key=key).eigenvalues
        if float(found[-1]) <= 0:
            found = solved(op, k=1, which="LM", tol=tol, key=key).eigenvalues
    values = np.asarray(found, np.float64)
    return float(values[-1] if values[-1] > 0 else np.abs(values).max())


def undivided(op: Operator) -> Operator:
    """The operator in the form that a preconditioned one has, P = 1: to divide by 1 is exact.

    `eigsh` then has one program for the Hessian and for the preconditioned one, of which it would take seconds to compile a second. In a
    large space, where products take longer than that, the operator as it is.
    """
    if op.size > LARGE:
        return op
    return preconditioned(op, jax.tree.map(lambda leaf: np.ones(leaf.shape, leaf.dtype), op.like))


class Tracked(NamedTuple):
    """Eigenpairs that are followed from reading to reading.

    Attributes:
        readings: made so far. start: what the last one left to start from, or None. full: whether this one is checked in full.
    """

    readings: int
    start: Start | None
    full: bool


def tracked_from(state: State, check_every: int, last: bool) -> Tracked:
    """Of the state that a probe gets, `next_state`'s."""
    readings = state["readings"] if state else 0
    start = Start(state["eigenvectors"], state["scout"]) if state else None
    return Tracked(readings, start, last or readings % check_every == 0)


def next_state(tracked: Tracked, found: Eigenpairs) -> dict[str, PyTree] | None:
    """What the next reading starts from, in dicts and arrays alone, as a checkpoint keeps them; None where nothing was found.

    A full check adds nothing to it, unless it finds what was missed: a run to which steps are added goes on as if it had not ended.
    """
    if not np.isfinite(found.eigenvalues).all():
        return None
    return {"readings": tracked.readings + 1, "eigenvectors": found.eigenvectors, "scout": found.scout}


def extreme_pairs(
    op: Operator,
    pairs: int,
    size: int,
    *,
    which: Which,
    tol: float,
    above: float | None,
    tracked: Tracked,
    key: RandomKey,
) -> Eigenpairs:
    """`pairs` eigenpairs from each end (BE) or of the largest (LA), more where `above` or the last reading asks for them."""
    op = undivided(op)
    made, ends, start = 0, 2 if which == "BE" else 1, tracked.start
    check: Literal["full"] | None = "full" if tracked.full else None
    if above is not None and start is not None:
        pairs = max(pairs, len(jax.tree.leaves(start.eigenvectors)[0]) // ends)
    while True:
        found = solved(op, k=ends * pairs, which=which, tol=tol, start=start, check=check, key=key)
        made += int(found.matvecs)
        grows = above is not None and found.converged and float(found.eigenvalues[-pairs]) > above
        if (
            not grows
            or 2 * ends * pairs >= size
            or 2 * pairs > MOST_PAIRS
            or basis_bytes(2 * ends * pairs, size, op) > memory.device()
        ):
            return found._replace(matvecs=made)
        pairs, start = 2 * pairs, found.start


def chance(missed: AnyReal) -> float:
    """A probability of Eigenpairs as it is recorded, in six digits: 1 bounds any that was not checked."""
    return 1.0 if math.isnan(missed) else float(f"{float(missed):.6g}")


def solved(op: Operator, **options: Any) -> Eigenpairs:
    """`eigsh`, whose small eigenproblems have one thread of LAPACK where the products are small too: more wait for XLA's."""
    with one_thread(op.size <= LARGE and devices_of(op) == 1):
        return eigsh(op, **options)
