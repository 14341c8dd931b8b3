"""The probes that ship: off, exact, top, density."""

import functools
import math
from typing import Literal

import numpy as np

from curvexp import memory
from curvexp.curvature import Objective
from curvexp.errors import ConfigError
from curvexp.linalg import spectral_density
from curvexp.linalg.lapack import SMALL, fetch
from curvexp.linalg.layout import LARGE
from curvexp.numeric import is_number
from curvexp.probe.arguments import (
    GROUPS,
    check_basis,
    check_count,
    check_data,
    check_optional_count,
    check_pairs,
    check_tolerance,
    checked_pairs,
)
from curvexp.probe.base import CHECK_EVERY, Probe, State
from curvexp.probe.ends import Ends, ends_reading
from curvexp.probe.operators import check_operator, check_parts, operator_of
from curvexp.probe.readings import dense_reading, drawn_sample, marked_as_sample, partial_reading
from curvexp.probe.solve import extreme_pairs, next_state, tracked_from
from curvexp.problem import Problem
from curvexp.record import Reading
from curvexp.types import Params, RandomKey


def off() -> Probe:
    """No curvature at all: loss and gradient norm only."""
    return Probe("off", None)


def exact(*, every: int = 100, limit: int = 4000, chunk: int | None = None, operator: str = "hessian") -> Probe:
    """All eigenvalues of the dense Hessian, by LAPACK in float64.

    The matrix itself is computed in the run's precision and is exact to its rounding; its asymmetry, which is rounding alone, enters
    the residuals.

    Args:
        every: steps between readings.
        limit: most parameters it accepts; n parameters take 8n² bytes three times over and n³ operations.
        chunk: examples taken at once; None: all.
        operator: hessian; ggn, the generalized Gauss-Newton matrix; or fisher, the Fisher information. The latter two need a problem with
            a model and a criterion, and decide no stability: sharpness and the ledger's directions are then absent.
    """
    check_operator(operator)
    check_count("every", every)
    check_count("limit", limit)
    check_optional_count("chunk", chunk)

    def check(size: int, problem: Problem) -> None:
        if size > limit:
            raise ConfigError(
                f"probe.limit={limit}: probe=exact would need the dense Hessian of {size} parameters, "
                f"{3 * 8 * size**2 / 2**30:.1f} GiB. Choose probe=top, or raise probe.limit."
            )
        memory.check(
            "probe.limit", limit, f"the dense Hessian of {size} parameters", 3 * 8 * size**2, "Choose probe=top."
        )
        check_parts(operator, problem)
        check_data(problem, None, chunk)

    def measure(loss: Objective, params: Params, state: State, key: RandomKey) -> tuple[Reading, State]:
        op = operator_of(loss, params, operator=operator, chunk=chunk)
        return dense_reading(loss, params, op, operator=operator), state

    return Probe("exact", measure, every, None, check, fills=lambda size: size > SMALL)


def top(
    *,
    k: int | None = None,
    which: Literal["BE", "LA"] = "BE",
    every: int = 100,
    check_every: int = CHECK_EVERY,
    tol: float = 1e-3,
    above: float | None = None,
    samples: int | None = None,
    chunk: int | None = None,
    dense_below: int = 200,
    operator: str = "hessian",
) -> Probe:
    """The k largest and the k smallest eigenvalues, by block Krylov-Schur with residual bounds, warm-started from the last reading.

    Args:
        k: eigenpairs from each end; None: five, or all where there are fewer.
        which: BE, both ends; LA, the largest alone, in fewer products.
        every: steps between readings.
        check_every: readings between two that are checked in full for what the warm start missed; the first and the last always are. The
            others are marked as unchecked.
        tol: residual ‖Hv − λv‖ asked for, relative to ‖H‖.
        above: k is doubled, and stays so, while the smallest of the k largest stands above this, up to MOST_PAIRS, half of the
            spectrum, and what the memory holds a basis for; None: k it is.
        samples: examples, drawn anew at each reading, whose Hessian is measured, its sampling error beside it; None: all of them.
        chunk: examples taken at once; None: all. The same numbers in less memory.
        dense_below: up to this many parameters (or where 2k cover them all) the whole spectrum is computed densely: it costs less.
        operator: as for `exact`.
    """
    check_operator(operator)
    pairs = checked_pairs(k)
    if which not in ("BE", "LA"):
        raise ConfigError(f"probe.which={which}: expected BE (both ends) or LA (the largest). Change probe.which.")
    check_count("every", every)
    check_count("check_every", check_every)
    check_tolerance(tol)
    check_optional_count("samples", samples, least=2 * GROUPS)
    check_optional_count("chunk", chunk)
    check_count("dense_below", dense_below, least=0)
    if above is not None and not (is_number(above) and math.isfinite(above) and above > 0):
        raise ConfigError(
            f"probe.above={above}: expected a positive number, an eigenvalue, or null. Change probe.above."
        )

    ends = Ends(pairs, which, tol, check_every, above, dense_below)

    def check(size: int, problem: Problem) -> None:
        check_pairs(k, size)
        check_parts(operator, problem)
        check_data(problem, samples, chunk)
        if not ends.is_dense(size):
            check_basis(ends.wanted, size, problem)

    def measure(
        loss: Objective, params: Params, state: State, key: RandomKey, *, last: bool = False
    ) -> tuple[Reading, State]:
        part = loss if samples is None else drawn_sample(loss, samples, key)
        op = operator_of(part, params, operator=operator, chunk=chunk)
        reading, kept = ends_reading(ends, part, params, op, state, key, operator=operator, last=last)
        return marked_as_sample(reading, loss, part, params, operator=operator), kept

    def fills(size: int) -> bool:
        return size > (SMALL if ends.is_dense(size) else LARGE)

    last = functools.partial(measure, last=True)
    return Probe("top", measure, every, None, check, tol, check_every, last, fills=fills)


def density(
    *,
    k: int | None = None,
    every: int = 100,
    check_every: int = CHECK_EVERY,
    tol: float = 1e-3,
    vectors: int = 10,
    depth: int = 80,
    chunk: int | None = None,
    operator: str = "hessian",
) -> Probe:
    """The spectral density with its standard error, and the k largest and k smallest eigenvalues one by one.

    Args:
        k, every, check_every, tol, chunk, operator: as for `top`.
        vectors: random vectors of the stochastic Lanczos quadrature. depth: Lanczos steps from each.
    """
    check_operator(operator)
    pairs = checked_pairs(k)
    check_count("every", every)
    check_count("check_every", check_every)
    check_tolerance(tol)
    check_count("vectors", vectors, least=2)
    check_count("depth", depth)
    check_optional_count("chunk", chunk)

    def check(size: int, problem: Problem) -> None:
        check_pairs(k, size)
        if 2 * pairs >= size:
            raise ConfigError(
                f"probe.k={k}: {2 * pairs} eigenvalues of {size} leave nothing for a density. Lower probe.k, or choose probe=exact."
            )
        check_parts(operator, problem)
        check_data(problem, None, chunk)
        check_basis(2 * pairs, size, problem)

    def measure(
        loss: Objective, params: Params, state: State, key: RandomKey, *, last: bool = False
    ) -> tuple[Reading, State]:
        op = operator_of(loss, params, operator=operator, chunk=chunk)
        tracked = tracked_from(state, check_every, last)
        found = extreme_pairs(op, pairs, op.size, which="BE", tol=tol, above=None, tracked=tracked, key=key)
        reading, kept = partial_reading(loss, params, found, "BE", operator=operator), next_state(tracked, found)
        if kept is None:
            return reading, kept
        rest = fetch(spectral_density(op, probes=vectors, steps=depth, spikes=found, key=key))
        n = op.size
        scalars = {
            **reading.scalars,
            "trace": n * float(rest.mean),
            "trace_stderr": n * float(rest.mean_stderr),
            "negative_share": float(rest.negative),
            "negative_share_stderr": float(rest.negative_stderr),
            "hvps": reading.scalars["hvps"] + int(rest.matvecs),
        }
        curve = {name: np.asarray(getattr(rest, name), np.float64) for name in ("x", "density", "stderr")}
        return reading._replace(
            scalars=scalars, extra={**reading.extra, "density": {**curve, "width": float(rest.width)}}
        ), kept

    return Probe("density", measure, every, None, check, tol, check_every, functools.partial(measure, last=True))
