"""What comes after a stretch of block Krylov-Schur: decided by its small matrix and some counts.

In a program (xp: jax.numpy), or on the host (xp: numpy), where the eigenproblem of 20 rows takes less than a call of a program.
"""

from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from curvexp.linalg.gram_schmidt import norm, smallest_difference
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
from curvexp.types import AnyArray, AnyCount, AnyFlag, AnyReal


class Seen(NamedTuple):
    """What the Ritz pairs say.

    Attributes:
        values, residuals: of the wanted. accurate: all wanted are. beyond: the check found what was missed. far: the start's are
            far from converged. vectors: of T, in order of wish. missing: products at least until they are accurate.
    """

    values: Float[AnyArray, "k"]
    residuals: Float[AnyArray, "k"]
    accurate: AnyFlag
    beyond: AnyFlag
    far: AnyFlag
    vectors: Float[AnyArray, "size size"]
    missing: AnyCount


def first_tally(wanted: Wanted, dtype: np.dtype, xp: ModuleType) -> Tally:
    """The tally of no row.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> first_tally(wanted, np.dtype("float32"), np).columns.tolist()
    [[0.0, 0.0], [0.0, 0.0]]
    """
    nothing = xp.zeros((wanted.size, wanted.size), dtype)
    return Tally(nothing, xp.zeros((), dtype), xp.int32(0), xp.int32(0), xp.array(True))


def first_state(rows: AnyCount | int, limits: Limits, wanted: Wanted, dtype: np.dtype, xp: ModuleType) -> State:
    """The state before the first product, with so many rows of a warm start, and one more, the scout or a random one.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> limits = Limits(np.float32(1e-3), np.int32(9), np.int32(0), np.int32(0))
    >>> first_state(0, limits, wanted, np.dtype("float32"), np).status == RUNNING
    np.True_
    """
    k = wanted.k
    zero, no = xp.zeros((), dtype), xp.array(False)
    tally = first_tally(wanted, dtype, xp)._replace(rows=xp.int32(rows + 1))
    state = State(
        tally=tally,
        matrix=tally.columns,
        asymmetry=zero,
        defects=xp.zeros(2, dtype),
        products=xp.int32(0),
        drawn=xp.int32(1),
        restarts=xp.int32(0),
        until=xp.int32(0),
        most=xp.int32(0),
        status=xp.int32(RUNNING),
        values=xp.full(k, xp.nan, dtype),
        residuals=xp.full(k, xp.inf, dtype),
        checking=no,
        levels=xp.zeros(4, dtype),
        polynomial=xp.ones((2, 4), dtype),
        passed=xp.zeros(4, bool),
        taken=xp.int32(0),
        begun=xp.int32(0),
        check=xp.int32(limits.check),
        found_end=no,
        started=xp.int32(rows),
        trial=xp.asarray((rows == k) & (k > 2)),
        judged=no,
        dropped=no,
    )
    return state._replace(
        until=_until(state, limits, wanted, 2 * k + (8 if wanted.known else 4), xp), most=xp.int32(limits.products)
    )


def decide(s: State, tally: Tally, limits: Limits, wanted: Wanted, xp: ModuleType) -> tuple[State, Plan]:
    """The state that the next stretch begins with, and what is done to the basis before it; the last one where the status is not
    RUNNING.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> limits = Limits(np.float32(1e-3), np.int32(9), np.int32(0), np.int32(0))
    >>> state = first_state(0, limits, wanted, np.dtype("float32"), np)
    >>> tally = state.tally._replace(columns=np.diag(np.float32([3, 0])), scale=np.float32(3), done=np.int32(1))
    >>> state, plan = decide(state, tally, limits, wanted, np)  # Av = 3v for the first row: nothing was left of its image
    >>> state.status == CONVERGED, state.values.tolist()
    (np.True_, [3.0])
    """
    s = _checked(_multiplied(s, tally, wanted, xp), wanted, xp)
    seen = _looked(limits, wanted, s, xp)
    event, s = _event(seen, limits, wanted, s, xp)
    if xp is np and event == EXTEND:
        nothing: list[Any] = [event == EXTEND, None, *[event != EXTEND] * 3, 0, event != EXTEND, -1]
        plan = Plan(*nothing)
    else:
        plan, kept, rows = _plan(event, seen, wanted, s, xp)
        s = _after(event, plan, kept, rows, limits, wanted, s, xp)
    return s._replace(until=_until(s, limits, wanted, seen.missing, xp), most=_most(s, limits, wanted, xp)), plan


def outcome(s: State, limits: Limits, wanted: Wanted, xp: ModuleType) -> tuple[Numbers, Int[AnyArray, "k"]]:
    """The solution's numbers, and the order in which its k vectors belong to them.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=2, which="LA", size=2, stride=1, layout=Layout(2))
    >>> limits = Limits(np.float32(1e-3), np.int32(9), np.int32(0), np.int32(0))
    >>> state = first_state(0, limits, wanted, np.dtype("float32"), np)._replace(values=np.float32([3, 1]))
    >>> outcome(state, limits, wanted, np)[0].eigenvalues.tolist()  # in ascending order
    [1.0, 3.0]
    """
    t, tol = s.tally, limits.tol
    eps = xp.finfo(t.scale.dtype).eps
    chance = xp.sqrt(2 * wanted.layout.size / xp.pi) / xp.maximum(xp.abs(s.polynomial[1]), 1e-30)
    chance = xp.minimum(xp.where(s.passed, xp.minimum(chance, CONFIDENCE), chance), 1)
    chance = xp.where(s.found_end, 0.0, xp.where(s.checking, chance, xp.nan))
    looked = xp.array(wanted_ends(wanted))
    noise = noise_of(s, wanted.layout.size, xp)
    lost = s.status == NON_FINITE
    order = xp.argsort(s.values)
    residuals = xp.where(lost, xp.inf, (s.residuals + noise)[order])
    largest = xp.maximum(t.scale, xp.max(xp.abs(s.values)))
    hidden = xp.maximum(FLOOR * eps * largest, noise)
    above = (tol * largest < hidden) | xp.any(residuals > tol * largest)
    reached = xp.where(above, BELOW_FLOOR, CONVERGED)
    scatters = noise > xp.maximum(tol, xp.sqrt(eps)) * largest  # no rounding comes near √eps
    reached = xp.where(scatters, NOISY, reached)
    numbers = Numbers(
        xp.where(lost, xp.nan, s.values[order]),
        residuals,
        s.products,
        xp.where(s.status == CONVERGED, reached, s.status),
        xp.where(looked, chance[:2], 0).max(),
        s.asymmetry,
        hidden,
        xp.where(looked, chance[2:], xp.nan),
        t.scale,
    )
    return numbers, order


def noise_of(s: State, n: int, xp: ModuleType) -> AnyReal:
    """What the rounding of all that was computed adds at most to the residual of a Ritz pair, from what was seen of it.

    The image of a basis vector v is Av + e with the product's own rounding, or noise, e. Where two images are known, u'Av − v'Au shows e's
    part along u: the root mean square over all such pairs, times √n, is ‖e‖, for an e that prefers no direction, and a unit combination of
    the basis has no larger one. It is taken three times, for the part of a perturbation that is itself symmetric and shows nowhere, and
    for the spread. Besides, each restart rounds the basis, as Gram-Schmidt does: independent errors of a few eps·‖A‖. Measured on 150
    random matrices of n = 10 to 1600, float32, 10 to 2300 products: what the residual lacked was at most 0.9 of this. What is smaller than
    the smallest normal number is zero to XLA: n terms of each entry of an image may be, so that n times that number hides in it.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> limits = Limits(np.float32(1e-3), np.int32(9), np.int32(0), np.int32(0))
    >>> state = first_state(0, limits, wanted, np.dtype("float32"), np)
    >>> float(noise_of(state._replace(tally=state.tally._replace(scale=np.float32(1))), 2, np) / np.finfo("float32").eps)
    5.0
    """
    total, pairs = s.defects
    scale = s.tally.scale
    product = 3 * xp.sqrt(n * total / xp.maximum(pairs, 1))
    rounding = scale * (product + 5 * xp.finfo(scale.dtype).eps * xp.sqrt(1.0 + s.restarts).astype(scale.dtype))
    return rounding + xp.where(scale > 0, smallest_difference(n, scale.dtype), 0).astype(scale.dtype)


def _multiplied(s: State, t: Tally, wanted: Wanted, xp: ModuleType) -> State:
    """The state with what the last products say: T, and how far it is from symmetric."""
    rows, columns = xp.arange(wanted.size)[:, None], xp.arange(wanted.size)[None, :]
    above = rows < columns
    upper = xp.where(above, xp.where(columns < t.done, t.columns, t.columns.T), 0)
    matrix = upper + upper.T + xp.where(rows == columns, t.columns, 0)
    known = above & (columns >= s.tally.done) & (columns < t.done) & (rows >= s.unknown(wanted))
    defects = xp.where(known, xp.abs(t.columns - t.columns.T), 0)
    relative = defects / xp.where(t.scale > 0, t.scale, 1).astype(defects.dtype)
    return s._replace(
        tally=t,
        matrix=matrix,
        asymmetry=xp.maximum(s.asymmetry, xp.max(defects)),
        defects=s.defects + xp.stack([xp.sum(xp.square(relative)), xp.sum(known).astype(relative.dtype)]),
        products=s.products + t.done - s.tally.done,
    )


def _checked(s: State, wanted: Wanted, xp: ModuleType) -> State:
    """The state with the check's Lanczos polynomial at its levels, β p₊ = (x − α) p − β₋ p₋, and which of them it has passed."""
    t = s.tally
    target = xp.sqrt(2 * wanted.layout.size / xp.pi) / CONFIDENCE

    def take(
        j: AnyCount | int, carry: tuple[Float[AnyArray, "2 4"], Bool[AnyArray, "4"]]
    ) -> tuple[Float[AnyArray, "2 4"], Bool[AnyArray, "4"]]:
        polynomial, passed = carry
        beta = xp.where(j + 1 < t.rows, s.matrix[xp.minimum(j + 1, wanted.size - 1), j], 0)
        divisor = xp.where(beta > 0, beta, nothing_left(t.scale, xp) + 1e-30)
        p = ((s.levels - s.matrix[j, j]) * polynomial[1] - s.matrix[j - 1, j] * polynomial[0]) / divisor
        return xp.where(passed, polynomial, xp.stack([polynomial[1], p])), passed | (xp.abs(p) >= target)

    last = xp.where(s.checking, t.done, s.taken)
    carry = s.polynomial, s.passed
    if xp is np:
        for j in range(int(s.taken), int(last)):
            carry = take(j, carry)
    else:
        carry = jax.lax.fori_loop(s.taken, last, take, carry)
    polynomial, passed = carry
    return s._replace(polynomial=polynomial, passed=passed, taken=last)


def _looked(limits: Limits, wanted: Wanted, s: State, xp: ModuleType) -> Seen:
    """Ritz pairs of all processed rows; in the check those of its own rows, against its levels."""
    k, t = wanted.k, s.tally
    first = xp.where(s.checking, k, 0)
    theta, y, order, off = ritz_pairs(s.matrix, first, t.done, wanted, xp)
    low, high = wanted_ends(wanted)
    bottom, top = theta[0], theta[xp.maximum(t.done - first - 1, 0)]
    beyond = s.checking & (t.done > first) & ((low & (bottom < s.levels[0])) | (high & (top > s.levels[1])))
    largest = xp.maximum(xp.abs(theta[0]), xp.abs(theta[xp.maximum(t.done - 1, 0)]))
    residual = _residuals(s, y, xp)
    there = xp.arange(k) < t.done
    values = xp.where(there, theta[order[:k]], xp.nan)
    residuals = xp.where(there, residual[order[:k]], xp.inf)
    # what is reported, noise included, is to be under tol; of a residual that noise hides an eighth of it is small enough
    limit, noise = _tolerance(limits, xp) * largest, noise_of(s, wanted.layout.size, xp)
    limit = xp.maximum(xp.maximum(limit - noise, noise / 8), xp.maximum(limit / 2, nothing_left(largest, xp)))
    enough = (t.done == t.rows) | (s.products >= _least(s, xp))
    accurate = xp.all(residuals <= limit) & (t.done >= k) & enough
    return Seen(
        xp.where(s.checking, s.values, values),
        xp.where(s.checking, s.residuals, xp.hypot(residuals, xp.where(there, off[order[:k]], xp.inf))),
        accurate & ~s.checking,
        beyond,
        xp.any(residuals > FAR * _tolerance(limits, xp) * largest),
        y[:, order],
        _missing(xp.max(residuals), limit, xp),
    )


def _missing(worst: AnyReal, limit: AnyReal, xp: ModuleType) -> AnyCount:
    """Products that are missing at least, as residuals fall to a quarter a product at most: of networks' top 1 they do, of their top 5 to
    four tenths, of their top 10 to a half."""
    tiny = xp.finfo(limit.dtype).tiny
    products = xp.log2(xp.maximum(worst, tiny) / xp.maximum(limit, tiny)) / 2
    return xp.clip(xp.where(xp.isfinite(products), products, 0), 0, MOST).astype(xp.int32)


def _all_vectors(s: State, wanted: Wanted, xp: ModuleType) -> Float[AnyArray, "size size"]:
    """Eigenvectors of T, in order of wish."""
    _, y, order, _ = ritz_pairs(s.matrix, 0, s.tally.done, wanted, xp)
    return y[:, order]


def _residuals(s: State, y: Float[AnyArray, "size size"], xp: ModuleType) -> Float[AnyArray, "size"]:
    """‖Ax − θx‖ of the Ritz vectors V'y."""
    index = xp.arange(len(y))
    waiting = (index >= s.tally.done) & (index < s.tally.rows)
    return norm(xp.where(waiting[:, None], s.matrix, 0) @ y, xp)


def _event(seen: Seen, limits: Limits, wanted: Wanted, s: State, xp: ModuleType) -> tuple[AnyCount, State]:
    """What comes next, and the state that says it."""
    k, n, size, t = wanted.k, wanted.layout.size, wanted.size, s.tally
    exhausted = t.done == t.rows
    full = (t.rows >= size) & (t.done < t.rows) & (size < n)
    spent = s.products >= limits.products
    judged = s.trial & ~s.judged & (s.products > s.started)
    ended = s.checking & (t.done >= k) & (xp.all(s.passed) | exhausted | (s.products - s.begun >= _allowed(s, n, xp)))
    by_share = (s.check < 0) & (s.check != FULL)
    brief = by_share & (n > LARGE) & (s.products < 8 * LEAST)  # so short a check would gain nothing
    whole = (exhausted & (t.done == n)) | (k == n)
    event = _first_true(
        [
            ~t.finite,
            seen.beyond & ~spent,
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
        xp,
    )
    good = seen.accurate | (s.checking & ~seen.beyond)
    status = _first_true([~t.finite, good, spent], [NON_FINITE, CONVERGED, BUDGET], CONVERGED, xp)
    found_end = (s.checking & exhausted & (event == STOP)) | (seen.accurate & whole)
    return event, s._replace(
        status=xp.where(event == STOP, status, RUNNING).astype(xp.int32),
        values=seen.values,
        residuals=seen.residuals,
        found_end=s.found_end | found_end,
        judged=s.judged | judged,
    )


def _plan(event: AnyCount, seen: Seen, wanted: Wanted, s: State, xp: ModuleType) -> tuple[Plan, AnyCount, AnyCount]:
    """What is done to the basis; the rows that are kept of those multiplied, and all rows that there then are."""
    size, k, t = wanted.size, wanted.k, s.tally
    index, j, waiting = xp.arange(size), t.done, t.rows - t.done
    stays = (event == EXTEND) | (event == EMPTY) | ((event == STOP) & s.checking)
    slides = (event == RESTART) & s.checking
    restarted = xp.minimum(k + xp.maximum(size - k - waiting, 2) // 2, xp.minimum(j, size - waiting - 1))
    kept = _first_true([stays, slides, event == RESTART, event == DROP], [j, k + 1, restarted, 0], k, xp)
    tail = xp.where((event == RESTART) | stays, waiting, 0)
    identity = xp.eye(size, dtype=s.matrix.dtype)
    sliding = xp.where(index[None, :] < k, identity, identity[:, xp.minimum(j - 1, size - 1)][:, None])
    # the check's Ritz pairs are those of its own rows: where it found what was missed, those of all rows are to go on
    all_vectors, own = lambda: _all_vectors(s, wanted, xp), lambda: seen.vectors
    cond = _cond if xp is np else jax.lax.cond
    vectors = cond(seen.beyond, all_vectors, own)
    heads = xp.where(stays, identity, xp.where(slides, sliding, vectors))
    tails = identity[:, xp.clip(j + index - kept, 0, size - 1)]
    turn = xp.where(index < kept, heads, xp.where(index < kept + tail, tails, 0))
    rows = kept + tail
    random = (event == EMPTY) | (event == CHECK) | (event == MISSED) | (event == DROP)
    adds = random & (rows < min(size, wanted.layout.size))
    ends_first = ~s.checking & ((event == CHECK) | (event == STOP))
    scout = xp.where(waiting > 0, xp.minimum(j, size - 1), -1)  # the first row that waits
    few = ~stays & (event != RESTART)
    plan = Plan(event == EXTEND, turn, ~stays, few, adds, xp.where(adds, rows, 0), ends_first, scout)
    return plan, kept, rows + adds


def _first_true(
    conditions: Sequence[AnyFlag], choices: Sequence[int | AnyCount], default: int | AnyCount, xp: ModuleType
) -> AnyCount:
    """xp.select of scalars, which in numpy takes as long as all the rest."""
    if xp is not np:
        return xp.select(conditions, choices, default)
    chosen = (choice for condition, choice in zip(conditions, choices, strict=True) if condition)
    return np.int32(next(chosen, default))


def _cond(condition: AnyFlag, yes: Callable[[], AnyArray], no: Callable[[], AnyArray]) -> AnyArray:
    return yes() if condition else no()


def _after(
    event: AnyCount,
    plan: Plan,
    kept: AnyCount,
    rows: AnyCount,
    limits: Limits,
    wanted: Wanted,
    s: State,
    xp: ModuleType,
) -> State:
    """The state after what was planned."""
    t = s.tally
    matrix = plan.turn.T @ s.matrix @ plan.turn
    matrix = xp.where(event == MISSED, 0, (matrix + matrix.T) / 2)
    enters, leaves, drops = event == CHECK, event == MISSED, event == DROP
    margin = _tolerance(limits, xp) * xp.max(xp.abs(s.values)) + nothing_left(t.scale, xp)
    dtype = s.matrix.dtype
    done = xp.where(leaves, 0, kept).astype(xp.int32)
    stays = ~plan.turns
    return s._replace(
        tally=t._replace(columns=xp.where(stays, t.columns, matrix), done=done, rows=rows.astype(xp.int32)),
        drawn=(s.drawn + plan.adds).astype(xp.int32),
        restarts=(s.restarts + plan.turns).astype(xp.int32),
        checking=(s.checking | enters) & ~leaves,
        levels=xp.where(enters, levels_of(s.values, margin, wanted, xp), s.levels),
        polynomial=xp.where(enters, xp.array([[0.0] * 4, [1.0] * 4], dtype), s.polynomial),
        passed=xp.where(enters, ~xp.array(2 * wanted_ends(wanted)), s.passed),
        taken=xp.where(stays, s.taken, done),
        begun=xp.where(enters, s.products, s.begun),
        trial=s.trial & ~drops,
        dropped=s.dropped | drops,
        check=xp.where(drops, limits.check_dropped, s.check).astype(xp.int32),
    )


def _tolerance(limits: Limits, xp: ModuleType) -> AnyReal:
    """What is aimed at: the tolerance asked for, or the floor of the dtype."""
    return xp.maximum(limits.tol, FLOOR * xp.finfo(limits.tol.dtype).eps)


def _least(s: State, xp: ModuleType) -> AnyCount:
    """Products after a warm start: the scout is multiplied, and what the product leaves of each row of the start."""
    return xp.where(s.started > 0, 2 * s.started + 1, 0)


def _allowed(s: State, n: int, xp: ModuleType) -> AnyCount:
    """Most products of the check."""
    allowed = xp.where(s.check < 0, xp.maximum(LEAST, s.begun // 8), s.check)
    allowed = xp.where(s.check == FULL, MOST, allowed)
    return xp.where((s.check == TO_END) & (n <= SMALL), n, allowed)


def _most(s: State, limits: Limits, wanted: Wanted, xp: ModuleType) -> AnyCount:
    """Products that are not to be exceeded before the next look."""
    ends = xp.where(s.checking, s.begun + _allowed(s, wanted.layout.size, xp), limits.products)
    return xp.minimum(ends, limits.products).astype(xp.int32)


def _until(s: State, limits: Limits, wanted: Wanted, missing: AnyCount | int, xp: ModuleType) -> AnyCount:
    """Products at which the next look is due: a multiple of the stride; after a warm start when it can be judged, and when it can have
    converged. On the host, where a look ends a call, not before so many are
    made as are missing at least, or as are a sixteenth of all."""
    made, least = s.products, _least(s, xp)
    missing = xp.maximum(xp.where(s.checking, LEAST if wanted.known else 1, missing), made // 16) if xp is np else 1
    missing = xp.maximum(wanted.k - s.tally.done, xp.maximum(missing, 1))
    until = -(-(made + missing) // wanted.stride) * wanted.stride
    until = xp.where(made < least, least, until)
    if not wanted.known:
        until = xp.where(s.trial & ~s.judged & (made <= s.started), s.started + 1, until)
    return xp.minimum(until, _most(s, limits, wanted, xp)).astype(xp.int32)
