"""One product of block Krylov-Schur: the basis grows by a row, and what is to happen next is decided."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from curvexp.linalg.gram_schmidt import norm, orthogonalized
from curvexp.linalg.krylov_state import (
    BUDGET,
    CHECK,
    CONFIDENCE,
    CONVERGED,
    DROP,
    EMPTY,
    EXTEND,
    FAR,
    FULL,
    LEAST,
    MISSED,
    MOST,
    NON_FINITE,
    RESTART,
    RUNNING,
    SMALL,
    STOP,
    TO_END,
    Limits,
    State,
    Wanted,
)
from curvexp.linalg.layout import LARGE
from curvexp.linalg.ritz import ritz_pairs, wanted_ends


class Grown(NamedTuple):
    """What one product adds.

    Attributes:
        basis: (size, n). matrix: T (size, size) with the image of row j. scale: largest ‖Av‖ seen.
        a, b: coefficients of the image on row j and on the row before. beta: length of what is left, a new row where `grows`.
        known: rows whose images were known, (size,). defects: |u'Av − v'Au| on them, (size,). finite: whether the image is.
    """

    basis: Any
    matrix: Any
    scale: Any
    a: Any
    b: Any
    beta: Any
    grows: Any
    known: Any
    defects: Any
    finite: Any


class Moment(NamedTuple):
    """What has come about after a product.

    Attributes:
        exhausted: no row waits. full: no row can be added. spent: no product is left. judged: the start is to be judged.
        ended: the check is over. brief: a check would be too short to gain anything. due: Ritz pairs are wanted.
    """

    exhausted: Any
    full: Any
    spent: Any
    judged: Any
    ended: Any
    brief: Any
    due: Any


class Seen(NamedTuple):
    """What the Ritz pairs say: values, residuals (k,); accurate: all wanted are; beyond: the check found what was missed; far: the start's
    are far from converged."""

    values: Any
    residuals: Any
    accurate: Any
    beyond: Any
    far: Any


def step(product: Callable[[Any], Any], limits: Limits, wanted: Wanted, s: State) -> State:
    """The state after row `done` was multiplied by A."""
    grown = _multiplied(product, wanted, s)
    polynomial, passed = _checked(grown, wanted, s)
    s = s._replace(
        basis=grown.basis,
        matrix=grown.matrix,
        done=s.done + 1,
        rows=s.rows + grown.grows.astype(jnp.int32),
        products=s.products + 1,
        scale=grown.scale,
        asymmetry=jnp.maximum(s.asymmetry, jnp.max(grown.defects)),
        rounding=_rounding(grown, s),
        polynomial=polynomial,
        passed=passed,
    )
    now = _moment(limits, wanted, s)
    nothing = Seen(s.values, s.residuals, jnp.array(False), jnp.array(False), jnp.array(False))
    seen = jax.lax.cond(now.due, lambda: _looked(limits, wanted, s, now.exhausted), lambda: nothing)
    return _decided(grown.finite, now, seen, wanted, s)


def _multiplied(product: Callable[[Any], Any], wanted: Wanted, s: State) -> Grown:
    """The image of row `done`, orthogonalised against all rows."""
    layout, size = wanted.layout, wanted.size
    j, index = s.done, jnp.arange(size)
    image = layout.parted(product(layout.whole(s.basis[j])))
    length = norm(image)
    finite = jnp.isfinite(length)
    image = jnp.where(finite, image, 0)
    scale = jnp.maximum(s.scale, jnp.where(finite, length, 0))

    # the two neighbours first: what is then left for the whole basis is rounding, and one pass does
    before = jnp.where(j > 0, j - 1, 0)
    a, b = jnp.vdot(s.basis[j], image), jnp.where(j > 0, s.matrix[before, j], 0)
    rest, c = orthogonalized(s.basis, image - a * s.basis[j] - b * s.basis[before])
    c = c.at[j].add(a).at[before].add(b)
    # of a check's first row the neighbour before it may be gone from the basis
    known = (index < j) & ~(s.checking & (index <= wanted.k))
    defects = jnp.where(known, jnp.abs(c - s.matrix[:, j]), 0)
    beta = norm(rest)
    grows = (beta > _nothing_left(scale)) & (s.rows < min(size, layout.size))
    row = jnp.where(grows, s.rows, 0)
    basis = layout.parted(s.basis.at[row].set(jnp.where(grows, rest / jnp.where(beta > 0, beta, 1), s.basis[row])))
    matrix = s.matrix.at[:, j].set(c).at[j, :].set(c)
    coupling = jnp.where(grows, beta, matrix[row, j])
    matrix = matrix.at[row, j].set(coupling).at[j, row].set(coupling)
    return Grown(basis, matrix, scale, a, b, beta, grows, known, defects, finite)


def _rounding(grown: Grown, s: State) -> Any:
    """The sum of the squared defects, over ‖A‖², and their number, with those of this product."""
    defects = jnp.square(grown.defects / jnp.where(grown.scale > 0, grown.scale, 1))
    return s.rounding.at[0].add(jnp.sum(defects)).at[1].add(grown.known.sum())


def _nothing_left(scale: Any) -> Any:
    """Length up to which what is left of an image is rounding."""
    return 10 * jnp.finfo(scale.dtype).eps * scale


def _checked(grown: Grown, wanted: Wanted, s: State) -> tuple[Any, Any]:
    """The check's Lanczos polynomial at its levels, β p₊ = (x − α) p − β₋ p₋, and which of them it has passed."""
    divisor = jnp.where(grown.grows, grown.beta, _nothing_left(grown.scale) + 1e-30)
    p = ((s.levels - grown.a) * s.polynomial[1] - grown.b * s.polynomial[0]) / divisor
    target = jnp.sqrt(2 * wanted.layout.size / jnp.pi) / CONFIDENCE
    polynomial = jnp.where(s.passed | ~s.checking, s.polynomial, jnp.stack([s.polynomial[1], p]))
    return polynomial, s.passed | (s.checking & (jnp.abs(p) >= target))


def _moment(limits: Limits, wanted: Wanted, s: State) -> Moment:
    """What has come about after a product."""
    n, size = wanted.layout.size, wanted.size
    exhausted = s.done == s.rows
    full = (s.rows >= size) & (s.done < s.rows) & (size < n)
    spent = s.products >= limits.products
    judged = s.products == s.trial
    due = exhausted | full | spent | judged | (s.products == s.least) | (s.products % wanted.stride == 0)
    allowed = jnp.where(s.check < 0, jnp.maximum(LEAST, s.begun // 8), s.check)
    allowed = jnp.where(s.check == FULL, MOST, allowed)
    allowed = jnp.where((s.check == TO_END) & (n <= SMALL), n, allowed)
    by_share = (s.check < 0) & (s.check != FULL)
    brief = by_share & (n > LARGE) & (s.products < 8 * LEAST)  # so short a check would gain nothing
    ended = s.checking & (jnp.all(s.passed) | exhausted | (s.products - s.begun >= allowed))
    due = ((due | ended) & (s.done >= wanted.k)) | spent
    return Moment(exhausted, full, spent, judged, ended, brief, due)


def _looked(limits: Limits, wanted: Wanted, s: State, exhausted: Any) -> Seen:
    """Ritz pairs of all processed rows; in the check those of its own rows, against its levels."""
    k, index = wanted.k, jnp.arange(wanted.size)
    first = jnp.where(s.checking, k, 0)
    theta, y, order, off = ritz_pairs(s.matrix, first, s.done, wanted)
    low, high = wanted_ends(wanted)
    bottom, top = theta[0], theta[s.done - first - 1]
    beyond = s.checking & ((low & (bottom < s.levels[0])) | (high & (top > s.levels[1])))
    waiting = (index >= s.done) & (index < s.rows)
    residual = norm(jnp.where(waiting[:, None], s.matrix, 0) @ y)
    largest = jnp.maximum(jnp.abs(theta[0]), jnp.abs(theta[jnp.maximum(s.done - 1, 0)]))
    there = jnp.arange(k) < s.done
    values = jnp.where(there, theta[order[:k]], jnp.nan)
    residuals = jnp.where(there, residual[order[:k]], jnp.inf)
    limit = limits.tol * largest  # what is reported is to be under tol
    limit = jnp.maximum(limit - noise_of(s, wanted.layout.size), jnp.maximum(limit / 2, _nothing_left(largest)))
    accurate = jnp.all(residuals <= limit) & (s.done >= k) & (exhausted | (s.products >= s.least))
    return Seen(
        jnp.where(s.checking, s.values, values),
        jnp.where(s.checking, s.residuals, jnp.hypot(residuals, jnp.where(there, off[order[:k]], jnp.inf))),
        accurate & ~s.checking,
        beyond,
        jnp.any(residuals > FAR * limits.tol * largest),
    )


def _decided(finite: Any, now: Moment, seen: Seen, wanted: Wanted, s: State) -> State:
    """The state with what is to happen next."""
    k, n = wanted.k, wanted.layout.size
    everything = now.exhausted & (s.done == n)
    whole = everything | (k == n)
    event = jnp.select(
        [
            ~finite,
            seen.beyond,
            now.ended,
            seen.accurate & (whole | (s.check == 0) | now.brief),
            seen.accurate & ~now.spent,
            now.spent,
            now.exhausted,
            (s.trial > 0) & ~s.checking & (now.full | (now.judged & seen.far)),
            now.full,
        ],
        [STOP, MISSED, STOP, STOP, CHECK, STOP, EMPTY, DROP, RESTART],
        EXTEND,
    )
    good = seen.accurate | s.checking
    status = jnp.select([~finite, good, now.spent], [NON_FINITE, CONVERGED, BUDGET], CONVERGED)
    found_end = (s.checking & now.exhausted & (event == STOP)) | (seen.accurate & whole)
    return s._replace(
        event=event.astype(jnp.int32),
        status=jnp.where(event == STOP, status, RUNNING).astype(jnp.int32),
        values=seen.values,
        residuals=seen.residuals,
        found_end=s.found_end | found_end,
    )


def noise_of(s: State, n: int) -> Any:
    """What the rounding of all that was computed adds at most to the residual of a Ritz pair, from what was seen of it.

    The image of a basis vector v is Av + e with the product's own rounding, or noise, e. Where two images are known, u'Av − v'Au shows e's
    part along u: the root mean square over all such pairs, times √n, is ‖e‖, for an e that prefers no direction, and a unit combination of
    the basis has no larger one. It is taken three times, for the part of a perturbation that is itself symmetric and shows nowhere, and
    for the spread. Besides, each restart rounds the basis, as Gram-Schmidt does: independent errors of a few eps·‖A‖. Measured on 150
    random matrices of n = 10 to 1600, float32, 10 to 2300 products: what the residual lacked was at most 0.9 of this.
    """
    total, pairs, restarts = s.rounding
    product = 3 * jnp.sqrt(n * total / jnp.maximum(pairs, 1))
    return s.scale * (product + 5 * jnp.finfo(s.scale.dtype).eps * jnp.sqrt(1 + restarts))
