"""Block Krylov-Schur for a symmetric operator.

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

The work goes in stretches of some products, between which a small matrix alone decides what comes next. `solve` has all of it in one
program, with loops of unknown length. `solve_from_host` calls one program for a stretch, and decides on the host, which reads one small
array. On an accelerator, which waits for the host at each turn of a loop of unknown length, a stretch has a known one. On a CPU its first
call takes three fifths of the seconds of `solve`'s, as little but the product is compiled. In a large space `solve` is quicker there:
each call of a stretch would compute anew what its products share.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from curvexp.linalg.gram_schmidt import orthogonalized
from curvexp.linalg.krylov_decision import decide, first_state, first_tally, outcome
from curvexp.linalg.krylov_state import RUNNING, Basis, Found, Limits, Numbers, Packed, Plan, Row, State, Tally, Wanted
from curvexp.linalg.krylov_stretch import PASSES, stretch
from curvexp.linalg.lapack import one_thread
from curvexp.linalg.layout import LARGE
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, flat_product, linearized
from curvexp.programs import compiled
from curvexp.types import AnyArray, AnyCount, AnyFlag, Flat, FlatMatvec, Matvec, RandomKey, Vector


def solve(
    product: FlatMatvec,
    start: Float[Array, "k+1 p"],
    count: AnyCount,
    limits: Limits,
    key: RandomKey,
    wanted: Wanted,
) -> Found:
    """The wanted eigenpairs of the symmetric map `product` on flat vectors, in one program.

    Args:
        start: rows to start from, the first `count` of which are meant; the last one the scout, or zero. One
            row is always added: the scout, or a random one.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> limits = Limits(np.float32(1e-3), np.int32(9), np.int32(0), np.int32(0))
    >>> product, start = lambda v: jnp.array([3.0, 1.0]) * v, jnp.zeros((2, 2))
    >>> found = jax.eval_shape(lambda key: solve(product, start, jnp.int32(0), limits, key, wanted), jax.random.key(0))
    >>> found.numbers.eigenvalues.shape, found.vectors.shape
    ((1,), (1, 2))
    """
    basis, rows = _begun(start, count, key, wanted)
    state = first_state(rows, limits, wanted, start.dtype, jnp)
    layout = wanted.layout

    def round_(carry: tuple[Basis, Row, State]) -> tuple[Basis, Row, State]:
        basis, scout, state = carry
        until = jnp.minimum(state.products + wanted.stride, state.most) if wanted.known else state.until
        basis, tally = stretch(product, wanted, basis, state.tally, state.tally.done + until - state.products)
        state, plan = decide(state, tally, limits, wanted, jnp)
        scout = jnp.where(plan.takes_scout, _waiting(basis, plan.scout), scout)
        which = jnp.where(plan.turns, jnp.where(plan.few, 1, 2), 0)
        few, all_ = lambda: _first_rows(plan, basis, wanted), lambda: _combined(plan.turn, basis)
        basis = jax.lax.switch(which, [lambda: basis, few, all_])
        row = functools.partial(_random_row, basis, key, state.drawn, wanted)
        basis = jax.lax.cond(plan.adds, lambda: basis.at[plan.row].set(row()), lambda: basis)
        return layout.parted(basis), scout, state

    basis, scout, state = jax.lax.while_loop(
        lambda carry: carry[2].status == RUNNING, round_, (basis, start[-1], state)
    )
    numbers, order = outcome(state, limits, wanted, jnp)
    return Found(numbers, basis[: wanted.k][order], scout)


class UnderTraceError(Exception):
    """What a function captured is traced: its products have no values that the host could decide by."""


def solve_from_host(
    op: Matvec,
    space: Space,
    start: Float[AnyArray, "k+1 p"] | None,
    count: int,
    limits: Limits,
    key: RandomKey,
    wanted: Wanted,
) -> Found:
    """As `solve`, with pytrees for vectors and scout, and numbers that lie on the host.

    In a large space an accelerator makes the next stretch while the host looks at the last one; where that one ends something, the next
    one is looked at too.

    Args:
        op: of `domain`. start: as for `solve`; on an accelerator None where there are no rows to start from.

    Raises:
        UnderTraceError: then `solve` is to be used.

    >>> from curvexp.linalg.vectors import domain
    >>> op, space = domain(lambda v: jnp.array([3.0, 1.0]) * v, jnp.zeros(2))
    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> limits = Limits(np.float32(1e-3), np.int32(9), np.int32(0), np.int32(0))
    >>> found = solve_from_host(op, space, jnp.zeros((2, 2)), 0, limits, jax.random.key(0), wanted)
    >>> found.numbers.eigenvalues.round(3).tolist()
    [3.0]
    """
    plan, call = None, None
    if not wanted.known:  # no program with the product in it but the one that any solution has
        basis, rows, scout = _warm(start, np.int32(count), key, wanted=wanted)
        state = first_state(int(_read(rows)), limits, wanted, space.dtype, np)
    elif start is None:
        basis, scout = _cold(key, dtype=space.dtype, wanted=wanted)
        state = first_state(0, limits, wanted, space.dtype, np)
    else:
        basis, numbers, scout = _tracked(op, start, np.int32(count), key, space=space, wanted=wanted)
        read = _read(numbers)
        state = first_state(int(read[-1]), limits, wanted, space.dtype, np)
        state, plan = _looked(state, read[:-1], limits, wanted)
    with one_thread(True):  # small eigenproblems
        while True:
            if plan is None:
                call = call or _calls(op, space, basis, wanted)
                basis, state, plan = _until_an_event(call, basis, state, limits, wanted)
            if state.status != RUNNING:
                break
            if plan.turns or plan.adds:
                basis, waiting = _rebuilt(basis, plan, key, state.drawn, few=bool(plan.few), wanted=wanted)
                scout = waiting if plan.takes_scout else scout
            plan = None
    numbers, order = outcome(state, limits, wanted, np)
    vectors, scout = _ended(basis, plan, order, scout, space=space, wanted=wanted)
    return Found(_of_dtype(numbers, space.dtype), vectors, scout)


def _calls(op: Matvec, space: Space, basis: Basis, wanted: Wanted) -> Callable[..., tuple[Basis, Tally, Packed]]:
    """A call of `_stretched` with this operator."""
    held = _hoisted(op, space=space) if wanted.known else None
    product, form = (op, space) if held is None else (held, None)
    tally = first_tally(wanted, basis.dtype, np)
    stretched = _stretched_in_place if wanted.known else _stretched_anew
    program = stretched.program(product, basis, tally, np.int32(0), space=form, wanted=wanted)
    constants = jax.tree.leaves(product)

    def call(basis: Basis, tally: Tally, last: AnyCount) -> tuple[Basis, Tally, Packed]:
        return program(*constants, basis, *tally, last)

    return call


def _until_an_event(
    call: Callable[..., tuple[Basis, Tally, Packed]], basis: Basis, state: State, limits: Limits, wanted: Wanted
) -> tuple[Basis, State, Plan]:
    """Basis, state and plan after as many stretches as change nothing else."""
    tally = state.tally
    stride = wanted.stride if wanted.known else 2**31  # a stretch of unknown length ends where it is to
    flying = 0  # stretches that the device has yet to make
    while True:
        overlaps = _overlaps(state, wanted)
        last = np.int32(state.tally.done + (state.most if overlaps else state.until) - state.products)
        for _ in range(-(-int(state.until - state.products) // stride) - flying):
            basis, tally, numbers = call(basis, tally, last)
        latest = numbers
        if overlaps:
            basis, tally, latest = call(basis, tally, last)
        after, plan = _looked(state, numbers, limits, wanted)
        flying = int(overlaps)
        if overlaps and not plan.goes_on:  # then with all products that were made
            after, plan = _looked(state, latest, limits, wanted)
            flying = 0
        state, numbers = after, latest
        if not plan.goes_on:
            return basis, state, plan


def _of_dtype(numbers: Numbers, dtype: np.dtype) -> Numbers:
    """Those that are no integers in this dtype, which numpy's float64 scalars widen."""
    return Numbers(
        *[np.asarray(part, None if np.issubdtype(np.result_type(part), np.integer) else dtype) for part in numbers]
    )


def _overlaps(state: State, wanted: Wanted) -> AnyFlag:
    """Whether the device makes the next stretch while the host looks: in a large space, where it takes longer than the look, and where it
    is not known when the stretches will come to something."""
    return wanted.known & (wanted.layout.size > LARGE) & ~state.checking & ((state.started == 0) | state.dropped)


def _read(array: AnyArray) -> np.ndarray:
    """An array of the device's, waited for."""
    if isinstance(array, jax.core.Tracer):
        raise UnderTraceError
    return np.asarray(array)


def _looked(state: State, numbers: AnyArray, limits: Limits, wanted: Wanted) -> tuple[State, Plan]:
    """What comes after a stretch, of whose tally one array is read."""
    read, parts, begin = _read(numbers), [], 0
    for part in state.tally:
        parts.append(read[begin : begin + part.size].reshape(part.shape).astype(part.dtype))
        begin += part.size
    with np.errstate(all="ignore"):
        return decide(state, Tally(*parts), limits, wanted, np)


# ---- the programs of `solve_from_host` ---------------------------------------------------------------------------------------------


@functools.partial(compiled, static=("dtype", "wanted"))
@full_precision
def _cold(key: RandomKey, *, dtype: np.dtype, wanted: Wanted) -> tuple[Basis, Row]:
    """A basis of one random row, and no scout."""
    layout = wanted.layout
    row = layout.parted(_random(key, 0, wanted, dtype))
    basis = layout.parted(jnp.zeros((wanted.size, layout.length), dtype))
    return layout.parted(basis.at[0].set(row / jnp.linalg.norm(row))), jnp.zeros_like(row)


@functools.partial(compiled, static=("wanted",))
@full_precision
def _warm(
    start: Float[Array, "k+1 p"], count: AnyCount, key: RandomKey, *, wanted: Wanted
) -> tuple[Basis, Int[Array, ""], Row]:
    return *_begun(start, count, key, wanted), start[-1]


@functools.partial(compiled, static=("space", "wanted"), tells=True)
@full_precision
def _tracked(
    op: Matvec, start: Float[Array, "k+1 p"], count: AnyCount, key: RandomKey, *, space: Space, wanted: Wanted
) -> tuple[Basis, Packed, Row]:
    """A warm start as far as a solution that has not moved far needs, in one program: basis; tally, and the rows that were begun with, as
    one array; the start's scout."""
    basis, rows = _begun(start, count, key, wanted)
    tally = first_tally(wanted, start.dtype, jnp)._replace(rows=rows + 1)
    least = 2 * len(start) - 1  # as `_least` has it where all of the start's rows are independent
    product = linearized(op, space) or flat_product(op, space)
    basis, tally = stretch(product, wanted._replace(stride=least), basis, tally, jnp.minimum(2 * rows + 1, least))
    return basis, _packed(tally, rows, dtype=basis.dtype), start[-1]


@functools.partial(compiled, static=("space",), tells=True)
@full_precision
def _hoisted(op: Matvec, *, space: Space) -> FlatMatvec | None:
    """`linearized`."""
    return linearized(op, space)


@full_precision
def _stretched(
    product: Matvec | FlatMatvec, basis: Basis, tally: Tally, last: AnyCount, *, space: Space | None, wanted: Wanted
) -> tuple[Basis, Tally, Packed]:
    """Basis, tally, and the tally as one array. space: of the product's pytrees, None where it takes flat vectors."""
    basis, tally = stretch(product if space is None else flat_product(product, space), wanted, basis, tally, last)
    return basis, tally, _packed(tally, dtype=basis.dtype)


_stretched_in_place = compiled(_stretched, static=("space", "wanted"), donate=(1,), tells=True)
_stretched_anew = compiled(
    _stretched, static=("space", "wanted"), tells=True
)  # what is donated to a traced call is warned of


def _packed(*tree: PyTree, dtype: np.dtype) -> Packed:
    return jnp.concatenate([jnp.ravel(part).astype(dtype) for part in jax.tree.leaves(tree)])


@functools.partial(compiled, static=("few", "wanted"), donate=(0,))
@full_precision
def _rebuilt(
    basis: Basis, plan: Plan, key: RandomKey, number: AnyCount | int, *, few: bool, wanted: Wanted
) -> tuple[Basis, Row]:
    """The basis as it is planned, and the row that the next solution's scout may be."""
    waiting = _waiting(basis, plan.scout)
    basis = _first_rows(plan, basis, wanted) if few else _combined(plan.turn, basis)
    row = jnp.where(plan.adds, _random_row(basis, key, number, wanted), basis[plan.row])
    return wanted.layout.parted(basis.at[plan.row].set(row)), waiting


@functools.partial(compiled, static=("space", "wanted"))
@full_precision
def _ended(
    basis: Basis, plan: Plan, order: Int[AnyArray, "k"], scout: Row, *, space: Space, wanted: Wanted
) -> tuple[Vector, Vector]:
    """The k vectors and the scout as pytrees."""
    # put in order after the product, so that their bits are those of a solution whose check followed
    vectors = _first_rows(plan, basis, wanted)[order]
    scout = jnp.where(plan.takes_scout, _waiting(basis, plan.scout), scout)
    return space.trees(vectors, wanted.layout), space.trees(scout[None], wanted.layout)


# ---- vectors -----------------------------------------------------------------------------------------------------------------------


def _begun(
    start: Float[Array, "k+1 p"], count: AnyCount, key: RandomKey, wanted: Wanted
) -> tuple[Basis, Int[Array, ""]]:
    """The basis with the first `count` rows of the start, made orthonormal, and one more row: the start's last one, the scout,
    where it is not zero and has a part outside of them, else a random one; and the number of rows but for that one."""
    dtype, size = start.dtype, wanted.size
    basis = wanted.layout.parted(jnp.zeros((size, wanted.layout.length), dtype))

    def put(i: Int[Array, ""], carry: tuple[Basis, Int[Array, ""]]) -> tuple[Basis, Int[Array, ""]]:
        basis, rows = carry
        row, good = _outside(basis, start[i], wanted)
        good = good & (rows < size) & (i < count)
        at = jnp.where(good, rows, 0)
        return basis.at[at].set(jnp.where(good, row, basis[at])), (rows + good).astype(jnp.int32)

    most = len(start) - 1 if wanted.known else count
    basis, rows = jax.lax.fori_loop(0, most, put, (basis, jnp.int32(0)))
    scout, good = _outside(basis, start[-1], wanted)
    if wanted.known:
        row = jnp.where(good, scout, _random_row(basis, key, 0, wanted))
    else:
        row = jax.lax.cond(good, lambda: scout, lambda: _random_row(basis, key, 0, wanted))
    return wanted.layout.parted(basis.at[rows].set(row)), rows


def _outside(basis: Basis, row: Row, wanted: Wanted) -> tuple[Row, Bool[Array, ""]]:
    """The part of a vector outside of the basis's rows, of length 1; and whether there is one to speak of."""
    row = jnp.where(jnp.isfinite(row), row, 0)
    length = jnp.linalg.norm(row)
    rest, _ = orthogonalized(basis, row / jnp.where(length > 0, length, 1), passes=_passes(wanted))
    left = jnp.linalg.norm(rest)
    return rest / jnp.where(left > 0, left, 1), left > 1e-3


def _random_row(basis: Basis, key: RandomKey, number: AnyCount | int, wanted: Wanted) -> Row:
    """A random unit vector orthogonal to the basis's rows, uniform on the sphere."""
    row = wanted.layout.parted(_random(key, number, wanted, basis.dtype))
    row, _ = orthogonalized(basis, row, passes=_passes(wanted))
    return row / jnp.linalg.norm(row)


def _random(key: RandomKey, number: AnyCount | int, wanted: Wanted, dtype: np.dtype) -> Flat:
    return jax.random.normal(jax.random.fold_in(key, number), (wanted.layout.size,), dtype)


def _passes(wanted: Wanted) -> int:
    return PASSES if wanted.known else 0


def _combined(turn: Float[AnyArray, "size m"], basis: Basis) -> Float[Array, "m p"]:
    """Q'V."""
    return jnp.matmul(turn.T, basis, precision="highest")


def _first_rows(plan: Plan, basis: Basis, wanted: Wanted) -> Basis:
    """Q'V where all but its first k rows are zero."""
    return jnp.zeros_like(basis).at[: wanted.k].set(_combined(plan.turn[:, : wanted.k], basis))


def _waiting(basis: Basis, row: AnyCount) -> Row:
    """A row of the basis, zero for −1."""
    return jnp.where(row >= 0, basis[jnp.maximum(row, 0)], 0)
