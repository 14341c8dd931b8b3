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
from typing import Any

import jax
import jax.numpy as jnp

from curvexp.linalg.gram_schmidt import orthogonalized
from curvexp.linalg.krylov_state import (
    CHECK,
    CONFIDENCE,
    DROP,
    EMPTY,
    EXTEND,
    MISSED,
    NON_FINITE,
    RESTART,
    RUNNING,
    STOP,
    Found,
    Limits,
    State,
    Wanted,
)
from curvexp.linalg.krylov_step import noise_of, step
from curvexp.linalg.layout import Layout
from curvexp.linalg.ritz import levels_of, ritz_pairs, wanted_ends


def solve(product: Callable[[Any], Any], start: Any, count: Any, limits: Limits, key: Any, wanted: Wanted) -> Found:
    """The wanted eigenpairs of the symmetric map `product` on (n,) vectors.

    Args:
        start: (k + 1, wanted.layout.length), rows to start from, the first `count` of which are meant; the last one the scout, or zero. One
            row is always added: the scout, or a random one.
    """
    advance = functools.partial(step, product, limits, wanted)
    state = _first(start, count, limits, key, wanted)

    def round_(state: State) -> State:
        state = jax.lax.while_loop(lambda s: s.event == EXTEND, advance, state)
        return _turn(state, limits, wanted)

    state = jax.lax.while_loop(lambda s: s.status == RUNNING, round_, state)
    k = wanted.k
    chance = jnp.sqrt(2 * wanted.layout.size / jnp.pi) / jnp.maximum(jnp.abs(state.polynomial[1]), 1e-30)
    chance = jnp.minimum(jnp.where(state.passed, jnp.minimum(chance, CONFIDENCE), chance), 1)
    chance = jnp.where(state.found_end, 0.0, jnp.where(state.checking, chance, jnp.nan))
    looked = jnp.array(wanted_ends(wanted))
    missed = jnp.where(looked, chance[:2], 0).max()
    noise = noise_of(state, wanted.layout.size)
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


def _turn(s: State, limits: Limits, wanted: Wanted) -> State:
    """The state with its basis compressed as the event asks: fewer rows, a random row, or the answer."""
    size, k = wanted.size, wanted.k
    index, layout = jnp.arange(size), wanted.layout
    event, j, waiting = s.event, s.done, s.rows - s.done
    _, y, order, _ = ritz_pairs(s.matrix, 0, j, wanted)
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
    levels = levels_of(s.values, margin, wanted)
    return s._replace(
        basis=layout.parted(basis),
        matrix=matrix,
        done=jnp.where(leaves, 0, kept).astype(jnp.int32),
        rows=(rows + adds).astype(jnp.int32),
        key=key,
        event=jnp.where(event == STOP, STOP, EXTEND).astype(jnp.int32),
        rounding=s.rounding.at[2].add(jnp.where(stays, 0, 1)),
        checking=jnp.where(enters, True, jnp.where(leaves, False, s.checking)),
        levels=jnp.where(enters, levels, s.levels),
        polynomial=jnp.where(enters, jnp.array([[0.0] * 4, [1.0] * 4], basis.dtype), s.polynomial),
        passed=jnp.where(enters, ~jnp.array(2 * wanted_ends(wanted)), s.passed),
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
