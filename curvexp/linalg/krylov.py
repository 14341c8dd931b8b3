"""Block Krylov-Schur for a symmetric operator, whole on the device.

An orthonormal basis V, one vector a row, grows by one product a step: row j is multiplied by A, the image is orthogonalised against all
rows, and what is left becomes a new row at the end (band Lanczos, Ruhe 1979). Rows [0, j) are processed, rows [j, q) wait. Since

    A V_j' = V_q' T[:q, :j]        the Ritz pair (θ, V_j'y) of T[:j, :j] has the residual ‖Ax − θx‖ = ‖T[j:q, :j] y‖

exactly, with no further product, and a restart to some Ritz vectors plus the waiting rows keeps this relation
(Stewart 2001; for one waiting
row: thick restart, Wu and Simon 2000). A start from one random vector is Lanczos; a start from several is a block method.

One Krylov sequence sees a multiple eigenvalue once. So the found pairs are checked: plain Lanczos from a random vector orthogonal to them.
Were an eigenvalue missed at or above a level x beyond the check's Ritz values, the check's last Lanczos vector would have the component
γ p(x) along it, with γ the random vector's and p the Lanczos polynomial; as that is at most 1, |γ| <= 1/|p(x)|, whose probability is
at most √(2n/π)/|p(x)| (van Dorsselaer, Hochstenbach, van der Vorst 2000, sec. 3). If the check finds something, the method starts again
from the block of all that it has.

A start from the k pairs of a nearby operator is a block of k + 1 rows. The last one is random, or the scout: what the solution before left
waiting, outside of all that it had processed. Along a newcomer, an eigenvector with an eigenvalue beyond all others, each product
multiplies the scout's component, as in the Lanczos recursion, so that a newcomer comes up within some solutions. While the operator moves
that is no probability: only the check, from a vector drawn anew, states one.

Such a start is good where the pairs are nearly right still. Where they are not, its polynomials have so low a degree that one random
vector is there sooner: then, told by the residuals after the first pass, or by a basis that is full before they have converged, the start
is dropped.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from curvexp.linalg.layout import LARGE, Layout
from curvexp.record import SURE

EXTEND, RESTART, EMPTY, CHECK, MISSED, DROP, STOP = range(7)  # what the inner loop ends with
RUNNING, CONVERGED, BUDGET, NON_FINITE = range(4)
TO_END, EIGHTH, FULL = -1, -2, -3  # products of the check
SMALL = 2048  # parameters, up to which TO_END may take as many products
LEAST, MOST = 6, 50  # products of the check: of EIGHTH and TO_END at least, of FULL at most
FAR = 10  # residuals of a start, in tolerances, from which on it is dropped: measured on networks, 1 to 64 steps between two solutions
CONFIDENCE = SURE  # probability, each end, of a missed eigenvalue that the check is content with


class Wanted(NamedTuple):
    """Which eigenvalues: static. k of them; which: LA, SA, LM, BE; size: rows of the basis; stride: steps between two tests; layout: of
    its vectors."""

    k: int
    which: str
    size: int
    stride: int
    layout: Layout


class Limits(NamedTuple):
    """Numbers of a run, as arrays: tol (relative residual), most products, most products of the check (EIGHTH of those made; TO_END: that,
    but in a small space as many as it takes; FULL: as many as it takes, at most MOST), and of the check after a start that
    was dropped."""

    tol: Any
    products: Any
    check: Any
    check_dropped: Any


class Found(NamedTuple):
    """Eigenvalues (k,) ascending, vectors (k, n), residuals (k,), products made, status, chance that one was
    missed, asymmetry, largest ‖Av‖ seen, what rounding and noise of the products add to a residual; chance that one below the first was
    missed, and above the last, (2,); scout (n,)."""

    values: Any
    vectors: Any
    residuals: Any
    products: Any
    status: Any
    missed: Any
    asymmetry: Any
    scale: Any
    noise: Any
    ends: Any
    scout: Any


class State(NamedTuple):
    """Basis (size, n), T (size, size), counts; `rounding`: sum of the squares of u'Av − v'Au over ‖A‖², their number, and that of
    restarts; then the check's: levels, and the polynomial at each (see `_levels`), products when it began; of a warm start: least products,
    those after which it is judged (0: never); most products of the check; the scout, that of the start, then its own."""

    basis: Any
    matrix: Any
    done: Any
    rows: Any
    products: Any
    scale: Any
    asymmetry: Any
    rounding: Any
    event: Any
    status: Any
    key: Any
    values: Any
    residuals: Any
    checking: Any
    levels: Any
    polynomial: Any
    passed: Any
    begun: Any
    found_end: Any
    least: Any
    trial: Any
    check: Any
    scout: Any


def solve(product: Callable[[Any], Any], start: Any, count: Any, limits: Limits, key: Any, wanted: Wanted) -> Found:
    """The wanted eigenpairs of the symmetric map `product` on (n,) vectors.

    Args:
        start: (k + 1, wanted.layout.length), rows to start from, the first `count` of which are meant; the last one the scout, or zero. One
            row is always added: the scout, or a random one.
    """
    step = functools.partial(_step, product, limits, wanted)
    state = _first(start, count, limits, key, wanted)

    def round_(state: State) -> State:
        state = jax.lax.while_loop(lambda s: s.event == EXTEND, step, state)
        return _turn(state, limits, wanted)

    state = jax.lax.while_loop(lambda s: s.status == RUNNING, round_, state)
    k = wanted.k
    chance = jnp.sqrt(2 * wanted.layout.size / jnp.pi) / jnp.maximum(jnp.abs(state.polynomial[1]), 1e-30)
    chance = jnp.minimum(jnp.where(state.passed, jnp.minimum(chance, CONFIDENCE), chance), 1)
    chance = jnp.where(state.found_end, 0.0, jnp.where(state.checking, chance, jnp.nan))
    looked = jnp.array(_ends(wanted))
    missed = jnp.where(looked, chance[:2], 0).max()
    noise = _noise(state, wanted.layout.size)
    lost = state.status == NON_FINITE
    order = jnp.argsort(state.values)
    return Found(
        jnp.where(lost, jnp.nan, state.values[order]),
        state.basis[:k][order],
        jnp.where(lost, jnp.inf, (state.residuals + noise)[order]),
        state.products,
        state.status,
        missed,
        state.asymmetry,
        state.scale,
        noise,
        jnp.where(looked, chance[2:], jnp.nan),
        state.scout,
    )


def norm(vectors: Any) -> Any:
    """‖v‖ along the first axis, also where squares of entries are beyond the range of the dtype, as those of 1e-25 in float32 are."""
    unit = largest_entry(vectors)
    return unit * jnp.linalg.norm(vectors / unit, axis=0)


def largest_entry(array: Any) -> Any:
    """max |entry|; 1 where that is zero or not finite, so that one can divide by it."""
    size = jnp.max(jnp.abs(array), initial=0)
    return jnp.where(jnp.isfinite(size) & (size > 0), size, 1)


def power_of_two(size: Any) -> Any:
    """The largest power of two up to a size, by which a division does not round; 1 where the size is zero or not finite."""
    size = jnp.where(jnp.isfinite(size) & (size > 0), size, 1)
    return size / (2 * jnp.frexp(size)[0])


def orthogonalized(basis: Any, vector: Any) -> tuple[Any, Any]:
    """What is left of `vector` beside the basis's rows (zero rows are ignored), and its coefficients on them.

    Classical Gram-Schmidt, repeated while a pass still takes off more than 1 %: to rounding (Giraud, Langou, Rozloznik 2005).
    """
    unit = largest_entry(vector)

    def once(carry: Any) -> Any:
        vector, total, _, passes = carry
        c = jnp.matmul(basis, vector, precision="highest")
        vector = vector - jnp.matmul(c, basis, precision="highest")
        again = jnp.vdot(c, c) > 1e-4 * jnp.vdot(vector, vector)
        return vector, total + c, again, passes + 1

    total = jnp.zeros(len(basis), basis.dtype)
    first = (vector / unit, total, jnp.array(True), 0)
    vector, total, _, _ = jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < 4), once, first)
    return unit * vector, unit * total


# ---- one product ----------------------------------------------------------------------------------------------------------------


def _step(product: Callable[[Any], Any], limits: Limits, wanted: Wanted, s: State) -> State:
    """The state after row `done` was multiplied by A."""
    layout, size, k = wanted.layout, wanted.size, wanted.k
    n = layout.size
    eps = jnp.finfo(s.basis.dtype).eps
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
    known = (index < j) & ~(
        s.checking & (index <= k)
    )  # of a check's first row the neighbour before it may be gone from the basis
    defects = jnp.where(known, jnp.abs(c - s.matrix[:, j]), 0)
    asymmetry = jnp.maximum(s.asymmetry, jnp.max(defects))
    beta = norm(rest)
    grows = (beta > 10 * eps * scale) & (s.rows < min(size, n))
    row = jnp.where(grows, s.rows, 0)
    basis = layout.parted(s.basis.at[row].set(jnp.where(grows, rest / jnp.where(beta > 0, beta, 1), s.basis[row])))
    matrix = s.matrix.at[:, j].set(c).at[j, :].set(c)
    coupling = jnp.where(grows, beta, matrix[row, j])
    matrix = matrix.at[row, j].set(coupling).at[j, row].set(coupling)
    rows, done, products = s.rows + grows.astype(jnp.int32), j + 1, s.products + 1

    # the check's Lanczos polynomial at its levels: β p₊ = (x − α) p − β₋ p₋
    p = ((s.levels - a) * s.polynomial[1] - b * s.polynomial[0]) / jnp.where(grows, beta, 10 * eps * scale + 1e-30)
    target = jnp.sqrt(2 * n / jnp.pi) / CONFIDENCE
    polynomial = jnp.where(s.passed | ~s.checking, s.polynomial, jnp.stack([s.polynomial[1], p]))
    passed = s.passed | (s.checking & (jnp.abs(p) >= target))

    exhausted = done == rows
    full = (rows >= size) & (done < rows) & (size < n)
    spent = products >= limits.products
    judged = products == s.trial
    due = exhausted | full | spent | judged | (products == s.least) | (products % wanted.stride == 0)
    allowed = jnp.where(s.check < 0, jnp.maximum(LEAST, s.begun // 8), s.check)
    allowed = jnp.where(s.check == FULL, MOST, allowed)
    allowed = jnp.where((s.check == TO_END) & (n <= SMALL), n, allowed)
    brief = (
        (s.check < 0) & (s.check != FULL) & (n > LARGE) & (products < 8 * LEAST)
    )  # so short a check would gain nothing
    ended = s.checking & (jnp.all(passed) | exhausted | (products - s.begun >= allowed))
    due = ((due | ended) & (done >= k)) | spent
    low, high = _ends(wanted)
    blank = (s.values, s.residuals, jnp.array(False), jnp.array(False), jnp.array(False))

    def look() -> Any:
        theta, y, order, off = _ritz(matrix, jnp.where(s.checking, k, 0), done, wanted)
        # in the check: is anything beyond what was found?
        bottom, top = theta[0], theta[done - jnp.where(s.checking, k, 0) - 1]
        beyond = s.checking & ((low & (bottom < s.levels[0])) | (high & (top > s.levels[1])))
        waiting = (index >= done) & (index < rows)
        residual = norm(jnp.where(waiting[:, None], matrix, 0) @ y)
        largest = jnp.maximum(jnp.abs(theta[0]), jnp.abs(theta[jnp.maximum(done - 1, 0)]))
        there = jnp.arange(k) < done
        values = jnp.where(there, theta[order[:k]], jnp.nan)
        residuals = jnp.where(there, residual[order[:k]], jnp.inf)
        limit = limits.tol * largest
        limit = jnp.maximum(
            limit - _noise(s, n), jnp.maximum(limit / 2, 10 * eps * largest)
        )  # what is reported is to be under tol
        accurate = jnp.all(residuals <= limit) & (done >= k) & (exhausted | (products >= s.least))
        return (
            jnp.where(s.checking, s.values, values),
            jnp.where(s.checking, s.residuals, jnp.hypot(residuals, jnp.where(there, off[order[:k]], jnp.inf))),
            accurate & ~s.checking,
            beyond,
            jnp.any(residuals > FAR * limits.tol * largest),
        )

    values, residuals, accurate, beyond, far = jax.lax.cond(due, look, lambda: blank)
    everything = exhausted & (done == n)
    event = jnp.select(
        [
            ~finite,
            beyond,
            ended,
            accurate & (everything | (k == n) | (s.check == 0) | brief),
            accurate & ~spent,
            spent,
            exhausted,
            (s.trial > 0) & ~s.checking & (full | (judged & far)),
            full,
        ],
        [STOP, MISSED, STOP, STOP, CHECK, STOP, EMPTY, DROP, RESTART],
        EXTEND,
    )
    good = accurate | s.checking
    status = jnp.select([~finite, good, spent], [NON_FINITE, CONVERGED, BUDGET], CONVERGED)
    return s._replace(
        basis=basis,
        matrix=matrix,
        done=done,
        rows=rows,
        products=products,
        scale=scale,
        asymmetry=asymmetry,
        rounding=s.rounding.at[0]
        .add(jnp.sum(jnp.square(defects / jnp.where(scale > 0, scale, 1))))
        .at[1]
        .add(known.sum()),
        event=event.astype(jnp.int32),
        status=jnp.where(event == STOP, -status, RUNNING).astype(jnp.int32),
        values=values,
        residuals=residuals,
        polynomial=polynomial,
        passed=passed,
        found_end=s.found_end | (s.checking & exhausted & (event == STOP)) | (accurate & (everything | (k == n))),
    )


def _noise(s: State, n: int) -> Any:
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


# ---- between two stretches of products ------------------------------------------------------------------------------------------


def _turn(s: State, limits: Limits, wanted: Wanted) -> State:
    """The state with its basis compressed as the event asks: fewer rows, a random row, or the answer."""
    size, k = wanted.size, wanted.k
    index, layout = jnp.arange(size), wanted.layout
    event, j, waiting = s.event, s.done, s.rows - s.done
    _, y, order, _ = _ritz(s.matrix, 0, j, wanted)
    best = y[:, order]
    kept = jnp.minimum(k + jnp.maximum(size - k - waiting, 2) // 2, jnp.minimum(j, size - waiting - 1))
    stays = (event == EMPTY) | ((event == STOP) & s.checking)
    slides = (event == RESTART) & s.checking
    kept = jnp.select([stays, slides, event == RESTART, event == DROP], [j, k + 1, kept, 0], k)
    tail = jnp.where((event == RESTART) | stays, waiting, 0)
    identity = jnp.eye(size, dtype=s.basis.dtype)
    sliding = jnp.where(index[None, :] < k, identity, identity[:, jnp.minimum(j - 1, size - 1)][:, None])
    heads = jnp.where(stays, identity, jnp.where(slides, sliding, best))
    tails = identity[:, jnp.clip(j + index - kept, 0, size - 1)]
    q = jnp.where(index < kept, heads, jnp.where(index < kept + tail, tails, 0))
    few = ~stays & (event != RESTART)  # only the first k columns of q are not zero
    basis = jax.lax.switch(
        jnp.where(stays, 0, jnp.where(few, 1, 2)),
        [
            lambda: s.basis,
            lambda: jnp.zeros_like(s.basis).at[:k].set(jnp.matmul(q[:, :k].T, s.basis, precision="highest")),
            lambda: jnp.matmul(q.T, s.basis, precision="highest"),
        ],
    )
    matrix = jnp.matmul(q.T, jnp.matmul(s.matrix, q, precision="highest"), precision="highest")
    matrix = (matrix + matrix.T) / 2
    matrix = jnp.where(event == MISSED, 0, matrix)

    rows = kept + tail
    key, sub = jax.random.split(s.key)
    ends_first = ~s.checking & ((event == CHECK) | (event == STOP))
    next_ = jnp.where(
        waiting > 0, s.basis[jnp.minimum(j, size - 1)], 0
    )  # of the scout's sequence, as it ends after its first image
    adds = ((event == EMPTY) | (event == CHECK) | (event == MISSED) | (event == DROP)) & (rows < min(size, layout.size))
    row = jnp.where(adds, rows, 0)
    scout = jnp.where(s.products == 0, s.scout, 0)
    basis = jax.lax.cond(adds, lambda: basis.at[row].set(_new_row(basis, sub, scout, layout)), lambda: basis)
    enters, leaves, drops = event == CHECK, event == MISSED, event == DROP
    margin = limits.tol * jnp.max(jnp.abs(s.values)) + 10 * jnp.finfo(basis.dtype).eps * s.scale
    levels = _levels(s.values, margin, wanted)
    return s._replace(
        basis=layout.parted(basis),
        matrix=matrix,
        done=jnp.where(leaves, 0, kept).astype(jnp.int32),
        rows=(rows + adds).astype(jnp.int32),
        key=key,
        event=jnp.where(event == STOP, STOP, EXTEND).astype(jnp.int32),
        rounding=s.rounding.at[2].add(jnp.where(stays, 0, 1)),
        status=-s.status,
        checking=jnp.where(enters, True, jnp.where(leaves, False, s.checking)),
        levels=jnp.where(enters, levels, s.levels),
        polynomial=jnp.where(enters, jnp.array([[0.0] * 4, [1.0] * 4], basis.dtype), s.polynomial),
        passed=jnp.where(enters, ~jnp.array(2 * _ends(wanted)), s.passed),
        begun=jnp.where(enters, s.products, s.begun),
        trial=jnp.where(drops, 0, s.trial),
        check=jnp.where(drops, limits.check_dropped, s.check),
        scout=jnp.where(ends_first, next_, s.scout),
    )


def _first(start: Any, count: Any, limits: Limits, key: Any, wanted: Wanted) -> State:
    """The state before the first product: the start's rows made orthonormal; a random one is still to come."""
    k, size, dtype = wanted.k, wanted.size, start.dtype
    basis = wanted.layout.parted(jnp.zeros((size, wanted.layout.length), dtype))

    def put(i: Any, carry: Any) -> Any:
        basis, rows = carry
        row = start[i]
        length = jnp.linalg.norm(row)
        row = row / jnp.where(length > 0, length, 1)
        rest, _ = orthogonalized(basis, jnp.where(jnp.isfinite(row), row, 0))
        left = jnp.linalg.norm(rest)
        good = (left > 1e-3) & (rows < size)
        at = jnp.where(good, rows, 0)
        basis = basis.at[at].set(jnp.where(good, rest / jnp.where(left > 0, left, 1), basis[at]))
        return basis, (rows + good).astype(jnp.int32)

    basis, rows = jax.lax.fori_loop(0, count, put, (basis, jnp.int32(0)))
    zero, no = jnp.zeros((), dtype), jnp.array(False)
    nothing = jnp.full(k, jnp.nan, dtype)
    return State(
        basis=basis,
        matrix=jnp.zeros((size, size), dtype),
        done=jnp.int32(0),
        rows=rows,
        products=jnp.int32(0),
        scale=zero,
        asymmetry=zero,
        rounding=jnp.zeros(3, dtype),
        event=jnp.int32(EMPTY),
        status=jnp.int32(RUNNING),
        key=key,
        values=nothing,
        residuals=jnp.full(k, jnp.inf, dtype),
        checking=no,
        levels=jnp.zeros(4, dtype),
        polynomial=jnp.ones((2, 4), dtype),
        passed=jnp.zeros(4, bool),
        begun=jnp.int32(0),
        found_end=no,
        # after a warm start: the scout is multiplied, and what the product leaves of each row of the start
        least=jnp.asarray(jnp.where(count > 0, 2 * rows + 1, 0), jnp.int32),
        trial=jnp.asarray(jnp.where((rows == k) & (k > 2), rows + 1, 0), jnp.int32),
        check=jnp.asarray(limits.check, jnp.int32),
        scout=start[k],
    )


def _new_row(basis: Any, key: Any, scout: Any, layout: Layout) -> Any:
    """A unit vector orthogonal to the basis's rows: the scout, where it is not zero and has a part outside of them, else random, uniform
    on the sphere."""

    def attempt(carry: Any) -> Any:
        _, made = carry
        row = layout.parted(jax.random.normal(key, (layout.size,), basis.dtype))
        row, _ = orthogonalized(basis, jnp.where(made == 0, jnp.where(jnp.isfinite(scout), scout, 0), row))
        return row, made + 1

    def lacks(carry: Any) -> Any:
        row, made = carry
        return (made < 2) & (jnp.linalg.norm(row) <= 1e-3)

    row, _ = jax.lax.while_loop(lacks, attempt, (jnp.zeros_like(scout), 0))
    return row / jnp.linalg.norm(row)


# ---- Ritz pairs -----------------------------------------------------------------------------------------------------------------


def _ritz(matrix: Any, first: Any, last: Any, wanted: Wanted) -> tuple[Any, Any, Any, Any]:
    """Eigenpairs of matrix[first:last, first:last]: ascending first, then sentinels; indices in order of wish; and
    ‖matrix y − θy‖, the eigensolver's own rounding."""
    size = wanted.size
    index = jnp.arange(size)
    active = (index >= first) & (index < last)
    inside = active[:, None] & active[None, :]
    core = jnp.where(inside, (matrix + matrix.T) / 2, 0)
    unit = power_of_two(jnp.max(jnp.abs(core)))
    core = core / unit
    sentinel = 2 * jnp.linalg.norm(core) + 1e-30
    theta, y = jnp.linalg.eigh(core + jnp.diag(jnp.where(active, 0, sentinel)))
    y = jnp.where(active[:, None], y, 0)
    length = jnp.linalg.norm(
        y, axis=0
    )  # a float32 eigensolver's y and θ have errors of some ten eps, which restarts would add up
    y = y / jnp.where(length > 0, length, 1)
    image = core @ y
    theta = jnp.where(index < last - first, jnp.sum(y * image, axis=0), theta)
    off = unit * jnp.linalg.norm(image - y * theta, axis=0)
    theta = unit * theta
    count = last - first
    if wanted.which == "LM":
        order = jnp.argsort(-jnp.where(index < count, jnp.abs(theta), -1), stable=True)
    else:
        down = count - 1 - index
        turns = jnp.where(index % 2 == 0, count - 1 - index // 2, index // 2)  # top, bottom, next to top, ...
        order = jnp.where(index < count, {"LA": down, "SA": index, "BE": turns}[wanted.which], index)
    return theta, y, order, off


def _ends(wanted: Wanted) -> tuple[bool, bool]:
    """Whether the lower and the upper end of the spectrum are wanted."""
    return wanted.which != "LA" and (wanted.which != "BE" or wanted.k > 1), wanted.which != "SA"


def _levels(values: Any, margin: Any, wanted: Wanted) -> Any:
    """Beyond which an eigenvalue that was not found would have been wanted: below the first, above the second; and would have been the
    outermost of its end: below the third, above the fourth, (4,)."""
    k, none = wanted.k, jnp.full_like(margin, jnp.inf)
    if wanted.which == "LA":
        return jnp.stack([-none, values.min() + margin, -none, values.max() + margin])
    if wanted.which == "SA":
        return jnp.stack([values.max() - margin, none, values.min() - margin, none])
    if wanted.which == "LM":
        edge, last = jnp.abs(values).min() + margin, jnp.abs(values).max() + margin
        return jnp.stack([-edge, edge, -last, last])
    low, high = values[1::2], values[::2]  # as _ritz has them
    below = jnp.stack([low.max() - margin, low.min() - margin]) if k > 1 else jnp.stack([-none, -none])
    return jnp.stack([below[0], high.min() + margin, below[1], high.max() + margin])
