"""What comes after a stretch of block Krylov-Schur: decided by its small matrix and some counts, on whatever device these lie."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from curvexp.linalg.gram_schmidt import norm
from curvexp.linalg.krylov_state import (
    BELOW_FLOOR,
    BUDGET,
    CHECK,
    CONFIDENCE,
    CONVERGED,
    DROP,
    EMPTY,
    EXTEND,
    FAR,
    FLOOR,
    FULL,
    LEAST,
    MISSED,
    MOST,
    NOISY,
    NON_FINITE,
    RESTART,
    RUNNING,
    SMALL,
    STOP,
    TO_END,
    Limits,
    Numbers,
    Plan,
    State,
    Tally,
    Wanted,
)
from curvexp.linalg.krylov_stretch import nothing_left
from curvexp.linalg.layout import LARGE
from curvexp.linalg.ritz import levels_of, ritz_pairs, wanted_ends


class Seen(NamedTuple):
    """What the Ritz pairs say.

    Attributes:
        values, residuals: of the wanted, (k,). accurate: all wanted are. beyond: the check found what was missed. far: the start's are
            far from converged. vectors: of T, (size, size), in order of wish.
    """

    values: Any
    residuals: Any
    accurate: Any
    beyond: Any
    far: Any
    vectors: Any


def first_state(rows: Any, limits: Limits, wanted: Wanted, dtype: Any) -> State:
    """The state before the first product, with so many rows of a warm start, and one more, the scout or a random one."""
    k, size = wanted.k, wanted.size
    zero, no = jnp.zeros((), dtype), jnp.array(False)
    tally = Tally(
        matrix=jnp.zeros((size, size), dtype),
        scale=zero,
        asymmetry=zero,
        defects=jnp.zeros(2, dtype),
        done=jnp.int32(0),
        rows=jnp.int32(rows + 1),
        finite=jnp.array(True),
    )
    state = State(
        tally=tally,
        products=jnp.int32(0),
        drawn=jnp.int32(1),
        restarts=jnp.int32(0),
        until=jnp.int32(0),
        most=jnp.int32(0),
        status=jnp.int32(RUNNING),
        values=jnp.full(k, jnp.nan, dtype),
        residuals=jnp.full(k, jnp.inf, dtype),
        checking=no,
        levels=jnp.zeros(4, dtype),
        polynomial=jnp.ones((2, 4), dtype),
        passed=jnp.zeros(4, bool),
        taken=jnp.int32(0),
        begun=jnp.int32(0),
        check=jnp.int32(limits.check),
        found_end=no,
        started=jnp.int32(rows),
        trial=jnp.asarray((rows == k) & (k > 2)),
        judged=no,
        dropped=no,
    )
    return state._replace(until=_until(state, limits, wanted), most=jnp.int32(limits.products))


def decide(s: State, tally: Tally, limits: Limits, wanted: Wanted) -> tuple[State, Plan]:
    """The state that the next stretch begins with, and what is done to the basis before it; the last one where the status is not
    RUNNING."""
    s = s._replace(products=s.products + tally.done - s.tally.done, tally=tally)
    s = _checked(s, wanted)
    seen = _looked(limits, wanted, s)
    event, s = _event(seen, limits, wanted, s)
    plan, kept, rows = _plan(event, seen, wanted, s)
    s = _after(event, plan, kept, rows, limits, wanted, s)
    return s._replace(until=_until(s, limits, wanted), most=_most(s, limits, wanted)), plan


def outcome(s: State, limits: Limits, wanted: Wanted) -> tuple[Numbers, Any]:
    """The solution's numbers, and the order in which its k vectors belong to them."""
    t, tol = s.tally, limits.tol
    eps = jnp.finfo(t.scale.dtype).eps
    chance = jnp.sqrt(2 * wanted.layout.size / jnp.pi) / jnp.maximum(jnp.abs(s.polynomial[1]), 1e-30)
    chance = jnp.minimum(jnp.where(s.passed, jnp.minimum(chance, CONFIDENCE), chance), 1)
    chance = jnp.where(s.found_end, 0.0, jnp.where(s.checking, chance, jnp.nan))
    looked = jnp.array(wanted_ends(wanted))
    noise = noise_of(s, wanted.layout.size)
    lost = s.status == NON_FINITE
    order = jnp.argsort(s.values)
    residuals = jnp.where(lost, jnp.inf, (s.residuals + noise)[order])
    largest = jnp.maximum(t.scale, jnp.max(jnp.abs(s.values)))
    hidden = jnp.maximum(FLOOR * eps * largest, noise)
    above = (tol * largest < hidden) | jnp.any(residuals > tol * largest)
    reached = jnp.where(above, BELOW_FLOOR, CONVERGED)
    reached = jnp.where(
        noise > jnp.maximum(tol, jnp.sqrt(eps)) * largest, NOISY, reached
    )  # no rounding comes near √eps
    numbers = Numbers(
        jnp.where(lost, jnp.nan, s.values[order]),
        residuals,
        s.products,
        jnp.where(s.status == CONVERGED, reached, s.status),
        jnp.where(looked, chance[:2], 0).max(),
        t.asymmetry,
        hidden,
        jnp.where(looked, chance[2:], jnp.nan),
        t.scale,
    )
    return numbers, order


def noise_of(s: State, n: int) -> Any:
    """What the rounding of all that was computed adds at most to the residual of a Ritz pair, from what was seen of it.

    The image of a basis vector v is Av + e with the product's own rounding, or noise, e. Where two images are known, u'Av − v'Au shows e's
    part along u: the root mean square over all such pairs, times √n, is ‖e‖, for an e that prefers no direction, and a unit combination of
    the basis has no larger one. It is taken three times, for the part of a perturbation that is itself symmetric and shows nowhere, and
    for the spread. Besides, each restart rounds the basis, as Gram-Schmidt does: independent errors of a few eps·‖A‖. Measured on 150
    random matrices of n = 10 to 1600, float32, 10 to 2300 products: what the residual lacked was at most 0.9 of this.
    """
    total, pairs = s.tally.defects
    scale = s.tally.scale
    product = 3 * jnp.sqrt(n * total / jnp.maximum(pairs, 1))
    return scale * (product + 5 * jnp.finfo(scale.dtype).eps * jnp.sqrt(1.0 + s.restarts).astype(scale.dtype))


def _checked(s: State, wanted: Wanted) -> State:
    """The state with the check's Lanczos polynomial at its levels, β p₊ = (x − α) p − β₋ p₋, and which of them it has passed."""
    t = s.tally
    target = jnp.sqrt(2 * wanted.layout.size / jnp.pi) / CONFIDENCE

    def take(j: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
        polynomial, passed = carry
        beta = jnp.where(j + 1 < t.rows, t.matrix[jnp.minimum(j + 1, wanted.size - 1), j], 0)
        divisor = jnp.where(beta > 0, beta, nothing_left(t.scale) + 1e-30)
        p = ((s.levels - t.matrix[j, j]) * polynomial[1] - t.matrix[j - 1, j] * polynomial[0]) / divisor
        return jnp.where(passed, polynomial, jnp.stack([polynomial[1], p])), passed | (jnp.abs(p) >= target)

    last = jnp.where(s.checking, t.done, s.taken)
    polynomial, passed = jax.lax.fori_loop(s.taken, last, take, (s.polynomial, s.passed))
    return s._replace(polynomial=polynomial, passed=passed, taken=last)


def _looked(limits: Limits, wanted: Wanted, s: State) -> Seen:
    """Ritz pairs of all processed rows; in the check those of its own rows, against its levels."""
    k, t = wanted.k, s.tally
    first = jnp.where(s.checking, k, 0)
    theta, y, order, off = ritz_pairs(t.matrix, first, t.done, wanted)
    low, high = wanted_ends(wanted)
    bottom, top = theta[0], theta[jnp.maximum(t.done - first - 1, 0)]
    beyond = s.checking & (t.done > first) & ((low & (bottom < s.levels[0])) | (high & (top > s.levels[1])))
    largest = jnp.maximum(jnp.abs(theta[0]), jnp.abs(theta[jnp.maximum(t.done - 1, 0)]))
    residual = _residuals(t, y, t.done)
    there = jnp.arange(k) < t.done
    values = jnp.where(there, theta[order[:k]], jnp.nan)
    residuals = jnp.where(there, residual[order[:k]], jnp.inf)
    limit = _tolerance(limits) * largest  # what is reported is to be under tol
    limit = jnp.maximum(limit - noise_of(s, wanted.layout.size), jnp.maximum(limit / 2, nothing_left(largest)))
    enough = (t.done == t.rows) | (s.products >= _least(s))
    accurate = jnp.all(residuals <= limit) & (t.done >= k) & enough
    return Seen(
        jnp.where(s.checking, s.values, values),
        jnp.where(s.checking, s.residuals, jnp.hypot(residuals, jnp.where(there, off[order[:k]], jnp.inf))),
        accurate & ~s.checking,
        beyond,
        jnp.any(residuals > FAR * _tolerance(limits) * largest),
        y[:, order],
    )


def _all_vectors(t: Tally, wanted: Wanted) -> Any:
    """Eigenvectors of T (size, size), in order of wish."""
    _, y, order, _ = ritz_pairs(t.matrix, 0, t.done, wanted)
    return y[:, order]


def _residuals(t: Tally, y: Any, done: Any) -> Any:
    """‖Ax − θx‖ of the Ritz vectors V'y of the first `done` rows, (size,)."""
    index = jnp.arange(len(t.matrix))
    waiting = (index >= done) & (index < t.rows)
    return norm(jnp.where(waiting[:, None], t.matrix, 0) @ y)


def _event(seen: Seen, limits: Limits, wanted: Wanted, s: State) -> tuple[Any, State]:
    """What comes next, and the state that says it."""
    k, n, size, t = wanted.k, wanted.layout.size, wanted.size, s.tally
    exhausted = t.done == t.rows
    full = (t.rows >= size) & (t.done < t.rows) & (size < n)
    spent = s.products >= limits.products
    judged = s.trial & ~s.judged & (s.products > s.started)
    ended = s.checking & (t.done >= k) & (jnp.all(s.passed) | exhausted | (s.products - s.begun >= _allowed(s, n)))
    by_share = (s.check < 0) & (s.check != FULL)
    brief = by_share & (n > LARGE) & (s.products < 8 * LEAST)  # so short a check would gain nothing
    whole = (exhausted & (t.done == n)) | (k == n)
    event = jnp.select(
        [
            ~t.finite,
            seen.beyond,
            ended,
            seen.accurate & (whole | (s.check == 0) | brief),
            seen.accurate & ~spent,
            spent,
            exhausted,
            s.trial & ~s.checking & (full | (judged & seen.far)),
            full,
        ],
        [STOP, MISSED, STOP, STOP, CHECK, STOP, EMPTY, DROP, RESTART],
        EXTEND,
    )
    good = seen.accurate | s.checking
    status = jnp.select([~t.finite, good, spent], [NON_FINITE, CONVERGED, BUDGET], CONVERGED)
    found_end = (s.checking & exhausted & (event == STOP)) | (seen.accurate & whole)
    return event, s._replace(
        status=jnp.where(event == STOP, status, RUNNING).astype(jnp.int32),
        values=seen.values,
        residuals=seen.residuals,
        found_end=s.found_end | found_end,
        judged=s.judged | judged,
    )


def _plan(event: Any, seen: Seen, wanted: Wanted, s: State) -> tuple[Plan, Any, Any]:
    """What is done to the basis; the rows that are kept of those multiplied, and all rows that there then are."""
    size, k, t = wanted.size, wanted.k, s.tally
    index, j, waiting = jnp.arange(size), t.done, t.rows - t.done
    stays = (event == EXTEND) | (event == EMPTY) | ((event == STOP) & s.checking)
    slides = (event == RESTART) & s.checking
    restarted = jnp.minimum(k + jnp.maximum(size - k - waiting, 2) // 2, jnp.minimum(j, size - waiting - 1))
    kept = jnp.select([stays, slides, event == RESTART, event == DROP], [j, k + 1, restarted, 0], k)
    tail = jnp.where((event == RESTART) | stays, waiting, 0)
    identity = jnp.eye(size, dtype=t.matrix.dtype)
    sliding = jnp.where(index[None, :] < k, identity, identity[:, jnp.minimum(j - 1, size - 1)][:, None])
    # the check's Ritz pairs are those of its own rows: where it found what was missed, those of all rows are to go on
    vectors = jax.lax.cond(seen.beyond, lambda: _all_vectors(t, wanted), lambda: seen.vectors)
    heads = jnp.where(stays, identity, jnp.where(slides, sliding, vectors))
    tails = identity[:, jnp.clip(j + index - kept, 0, size - 1)]
    turn = jnp.where(index < kept, heads, jnp.where(index < kept + tail, tails, 0))
    rows = kept + tail
    random = (event == EMPTY) | (event == CHECK) | (event == MISSED) | (event == DROP)
    adds = random & (rows < min(size, wanted.layout.size))
    ends_first = ~s.checking & ((event == CHECK) | (event == STOP))
    scout = jnp.where(
        waiting > 0, jnp.minimum(j, size - 1), -1
    )  # the first row that waits, as it was not yet multiplied
    few = ~stays & (event != RESTART)
    return (
        Plan(event == EXTEND, turn, ~stays, few, adds, jnp.where(adds, rows, 0), ends_first, scout),
        kept,
        rows + adds,
    )


def _after(event: Any, plan: Plan, kept: Any, rows: Any, limits: Limits, wanted: Wanted, s: State) -> State:
    """The state after what was planned."""
    t = s.tally
    matrix = jnp.matmul(plan.turn.T, jnp.matmul(t.matrix, plan.turn, precision="highest"), precision="highest")
    matrix = jnp.where(event == MISSED, 0, (matrix + matrix.T) / 2)
    enters, leaves, drops = event == CHECK, event == MISSED, event == DROP
    margin = _tolerance(limits) * jnp.max(jnp.abs(s.values)) + nothing_left(t.scale)
    dtype = t.matrix.dtype
    done = jnp.where(leaves, 0, kept).astype(jnp.int32)
    stays = ~plan.turns
    return s._replace(
        tally=t._replace(matrix=jnp.where(stays, t.matrix, matrix), done=done, rows=rows.astype(jnp.int32)),
        drawn=(s.drawn + plan.adds).astype(jnp.int32),
        restarts=(s.restarts + plan.turns).astype(jnp.int32),
        checking=(s.checking | enters) & ~leaves,
        levels=jnp.where(enters, levels_of(s.values, margin, wanted), s.levels),
        polynomial=jnp.where(enters, jnp.array([[0.0] * 4, [1.0] * 4], dtype), s.polynomial),
        passed=jnp.where(enters, ~jnp.array(2 * wanted_ends(wanted)), s.passed),
        taken=jnp.where(stays, s.taken, done),
        begun=jnp.where(enters, s.products, s.begun),
        trial=s.trial & ~drops,
        dropped=s.dropped | drops,
        check=jnp.where(drops, limits.check_dropped, s.check).astype(jnp.int32),
    )


def _tolerance(limits: Limits) -> Any:
    """What is aimed at: the tolerance asked for, or the floor of the dtype."""
    return jnp.maximum(limits.tol, FLOOR * jnp.finfo(limits.tol.dtype).eps)


def _least(s: State) -> Any:
    """Products after a warm start: the scout is multiplied, and what the product leaves of each row of the start."""
    return jnp.where(s.started > 0, 2 * s.started + 1, 0)


def _allowed(s: State, n: int) -> Any:
    """Most products of the check."""
    allowed = jnp.where(s.check < 0, jnp.maximum(LEAST, s.begun // 8), s.check)
    allowed = jnp.where(s.check == FULL, MOST, allowed)
    return jnp.where((s.check == TO_END) & (n <= SMALL), n, allowed)


def _most(s: State, limits: Limits, wanted: Wanted) -> Any:
    """Products that are not to be exceeded before the next look."""
    ends = jnp.where(s.checking, s.begun + _allowed(s, wanted.layout.size), limits.products)
    return jnp.minimum(ends, limits.products).astype(jnp.int32)


def _until(s: State, limits: Limits, wanted: Wanted) -> Any:
    """Products at which the next look is due: a multiple of the stride; after a warm start when it can be judged, and when it can have
    converged."""
    made, least = s.products, _least(s)
    missing = jnp.maximum(wanted.k - s.tally.done, 1)
    if wanted.known:
        missing = jnp.where(s.checking, jnp.maximum(missing, LEAST), missing)
    until = -(-(made + missing) // wanted.stride) * wanted.stride
    until = jnp.where(made < least, least, until)
    judged = s.trial & ~s.judged & (made <= s.started)
    until = jnp.where(judged, s.started + 1, until)
    return jnp.minimum(until, _most(s, limits, wanted)).astype(jnp.int32)
