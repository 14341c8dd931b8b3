"""Eigenpairs of a symmetric operator that is known by its products only, each with its residual."""

import contextlib
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from curvexp.linalg import krylov, krylov_state
from curvexp.linalg.krylov_state import BELOW_FLOOR, BUDGET, CONVERGED, NOISY, NON_FINITE
from curvexp.linalg.layout import LARGE, Layout, layout_of, waits_for_host
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, domain, flat_product, random_key
from curvexp.programs import compiled
from curvexp.types import AnyArray, AnyCount, AnyReal, Flat, KeyLike, Matvec, RandomKey, Scalar, Vector

Which = Literal["LA", "SA", "LM", "BE"]
STATUS = ("running", "converged", "out of products", "not finite", "tolerance below floor", "noisy products")


FIRST = 4  # pairs that `eigsh_above` looks for at first
HUGE = 1_000_000  # parameters, from which on two products take an accelerator longer than the call of a program


class Start(NamedTuple):
    """What an `eigsh` of a nearby operator starts from: eigenvectors and scout of Eigenpairs, as it has them.

    >>> pairs = eigsh(lambda v: jnp.array([1.0, 5.0]) * v, jnp.zeros(2), k=1)
    >>> nearby = eigsh(lambda v: jnp.array([1.0, 5.1]) * v, jnp.zeros(2), k=1, start=pairs.start)
    >>> round(float(nearby.eigenvalues[0]), 3)
    5.1
    """

    eigenvectors: Vector
    scout: Vector


class Eigenpairs(NamedTuple):
    """Some eigenvalues of a symmetric operator A, with unit eigenvectors.

    Attributes:
        eigenvalues: in ascending order.
        eigenvectors: pytree of the domain, each leaf with a leading axis k; orthonormal to rounding.
        residuals: ‖Av − λv‖₂ from the Krylov relation, and what rounding adds to it: of the products, as measured by u'Av − v'Au
            between basis vectors, of the orthogonalization, and of the small eigenproblem. Some eigenvalue of A lies within it
            (Parlett 1998, thm 4.5.1).
        matvecs: products with A that it took.
        status: 1 converged; 2 out of products; 3 an entry was not finite; 4 converged, to the floor of the dtype, which lies
            above the tolerance asked for; 5 not converged, because the products scatter by more than the tolerance and than any rounding
            of the dtype (√eps·‖A‖): a precision below that of the vectors, or a product that differs from call to call. `message` says
            it in words.
        missed: upper bound of the probability that an eigenvalue which belongs to the k was missed, by more than tol·‖A‖, because
            the start had no part of it (a copy of a multiple eigenvalue; after a warm start a newcomer): from a Lanczos run from a random
            vector in the complement of what was found. 0 where the whole space was searched; 1 where the check gained nothing; nan where
            there was none (a warm start without `check`, no convergence).
        asymmetry: largest |u'Av − v'Au| seen between basis vectors: rounding, if A is symmetric.
        floor: absolute residual below which rounding hides everything: 10·eps·‖A‖, or the measured rounding and noise of the
            products where that is more.
        missed_ends: (2,) the same for the ends alone: of an eigenvalue below all the found, and of one above them; nan at an end that was
            not looked at. A few products bound it where the k-th pair's neighbours ask for many.
        scout: pytree with a leading axis 1: a vector outside of what was searched, in which newcomers grow from solution to solution
            where `start` is the result before; zero where there is none.

    >>> pairs = eigsh(lambda v: jnp.array([1.0, 2.0]) * v, jnp.zeros(2), k=1, max_matvecs=1)
    >>> pairs.converged, pairs.message[:15]
    (False, 'out of products')
    """

    eigenvalues: Float[AnyArray, "k"]
    eigenvectors: Vector
    residuals: Float[AnyArray, "k"]
    matvecs: AnyCount | int
    status: AnyCount
    missed: AnyReal
    asymmetry: AnyReal
    floor: AnyReal
    missed_ends: Float[AnyArray, "2"]
    scout: Vector

    @property
    def converged(self) -> bool | Bool[Array, "..."]:
        """Whether every residual is under the tolerance, or under the floor where that is higher.

        A bool; an array of them for several solutions at once (`jax.vmap`), and under a trace.
        """
        if isinstance(self.status, jax.core.Tracer) or jnp.ndim(self.status):
            return (self.status == CONVERGED) | (self.status == BELOW_FLOOR)
        return int(self.status) in (CONVERGED, BELOW_FLOOR)

    @property
    def start(self) -> Start:
        """What the next solution starts from."""
        return Start(self.eigenvectors, self.scout)

    @property
    def message(self) -> str:
        """What happened, and what to do where that is not what one wants.

        Raises:
            TypeError: under a trace, or for several solutions at once.
        """
        if isinstance(self.status, jax.core.Tracer):
            raise TypeError(
                "message: expected a solution's numbers, got tracers. Ask for it outside of jax.jit and jax.vmap."
            )
        if jnp.ndim(self.status):
            raise TypeError(
                f"message: expected one solution, got {jnp.shape(self.status)} of them. Take one first, the i-th by "
                "jax.tree.map(lambda a: a[i], pairs); pairs.converged and pairs.status are arrays."
            )
        code, worst = int(self.status), float(np.max(np.asarray(self.residuals)))
        name, made = STATUS[code], int(self.matvecs)
        if code == BUDGET:
            return f"{name}: {made} products left a residual of {worst:.2e}. Raise max_matvecs, or basis, or tol, or ask for a smaller k."
        if code == NON_FINITE:
            return f"{name}: product {made} has an entry that is nan or inf. Look at the loss there; float64 may be wide enough."
        if code == BELOW_FLOOR:
            return (
                f"{name}: rounding hides residuals under {float(self.floor):.2e}; {worst:.2e} was reached in {made} products. "
                "Raise tol, or compute in float64."
            )
        if code == NOISY and float(np.max(np.abs(np.asarray(self.eigenvalues)))) <= float(self.floor):
            return (
                f"{name}: the operator's numbers are near the smallest normal number of their dtype, and vanish. Multiply the loss by a "
                "power of two, or compute in float64."
            )
        if code == NOISY:
            return (
                f"{name}: they scatter by {float(self.floor):.2e}, more than rounding of their dtype; {worst:.2e} was reached in "
                f"{made} of them. Let the operator multiply in the precision of its vectors, and give every call the same random "
                "numbers; or raise tol."
            )
        chance = float(self.missed)
        if np.isnan(chance):
            check = "completeness was not checked (check='full' does)"
        elif chance == 0:
            check = "complete: the Krylov spaces were exhausted"
        else:
            check = (
                f"missed a wanted one with probability at most {chance:.1e}, by a Lanczos run orthogonal to those found"
            )
        return f"{name} in {made} products, largest residual {worst:.2e}; {check}."


def eigsh(
    op: Matvec,
    like: PyTree | None = None,
    *,
    k: int,
    which: Which = "LA",
    tol: float = 1e-3,
    start: Eigenpairs | Start | Vector | None = None,
    basis: int | None = None,
    max_matvecs: int | None = None,
    check: int | Literal["full"] | None = None,
    key: KeyLike = None,
) -> Eigenpairs:
    """k eigenpairs of a symmetric operator: block Krylov-Schur on the device, certified by residuals.

    The host decides by one small matrix between stretches of products, each a call of one compiled program; under jit, and on a CPU from
    20 000 parameters on, all is one program. Numbers are numpy's arrays in the first case, JAX's in the second. A program is made anew
    only for another operator function, shape, k, which or basis. Under jit nothing is warned of. `jax.jvp` and `jax.grad` give the
    derivatives of simple eigenvalues, λ' = v'A'v; eigenvectors and residuals have those of `jax.jvp` alone.

    Args:
        op: an Operator, or a function v -> Av of a pytree, linear and symmetric.
        like: pytree of the domain (arrays or shapes), where `op` does not say it.
        k: how many, 1 <= k <= n.
        which: LA the largest, SA the smallest, LM those of largest absolute value, BE k//2 smallest and the rest largest.
        tol: residual asked for, relative to ‖A‖ (the largest |Ritz value|). Below the floor 10·eps it is raised to
            it, and the status says so.
        start: a vector, eigenvectors with a leading axis, or the Eigenpairs of a nearby operator (or their Start), to begin with. A random
            vector, of Eigenpairs the scout, always joins them; a newcomer that it hardly has a part of is missed, see `check`. k vectors
            that turn out to be far from the eigenvectors are dropped for a random one alone, which then gets there in fewer products.
        basis: most vectors held, at least 2k + 4 unless that exceeds n; default 2k + 38, from 20 000 parameters on 2k + 22. Memory
            is basis·n entries, twice at a restart; from 20 000 parameters on shared out over the devices of the mesh that the
            operator's arrays lie on, where they lie on one (`start` and the eigenvectors too).
        max_matvecs: most products; default 100·(basis + k).
        check: most products spent on looking for what was missed: copies of multiple eigenvalues, after a warm start newcomers.
            "full": until `missed` is at most 1e-3, but at most 50, or without a start n where n <= 2048. Default: an eighth of the
            products made, at least 6, and to the end where n <= 2048; none after a warm start, and none where n > 20000 and an eighth is
            under 6. After a start that was dropped: an eighth.
        key: of the random vectors, a key of jax.random or an integer; default jax.random.key(0).

    Raises:
        ValueError: k, basis, tol, max_matvecs or check out of range, no parameters. TypeError: integer or complex leaves, no domain.

    Warns:
        RuntimeWarning: asymmetry above 1 % of ‖A‖. Once: a function is new in each call, and compiled anew.

    XLA takes for zero what is smaller than the smallest normal number, 1.2e-38 in float32: n of these are part of each residual. An
    operator of which all products vanish so, but not those with vectors 2^100 times as long, is reported as noisy; one whose own entries
    are all that small is zero.

    Source: Stewart 2001 (Krylov-Schur); Wu and Simon 2000 (thick restart); van Dorsselaer et al. 2000 (the check).

    >>> matrix = jnp.array([[2.0, 1.0], [1.0, 2.0]])
    >>> pairs = eigsh(lambda v: matrix @ v, jnp.zeros(2), k=2)
    >>> pairs.eigenvalues.round(3).tolist(), bool(pairs.converged)
    ([1.0, 3.0], True)
    """
    op, space = domain(op, like)
    n = space.size
    _whole("k", k, 1, n, "the dimension of the space")
    if which not in ("LA", "SA", "LM", "BE"):
        raise ValueError(f"which={which!r}: expected LA, SA, LM or BE.")
    least = min(n, 2 * k + 4)
    size = min(n, basis_size(k, n) if basis is None else basis)
    _whole("basis", size, least, n, "min(2k + 4, n) and n")
    if not (isinstance(tol, float | int) and 0 <= tol < 1):
        raise ValueError(f"tol={tol!r}: expected 0 <= tol < 1, a residual relative to the largest |eigenvalue|.")
    products = 100 * (size + k) if max_matvecs is None else max_matvecs
    _whole("max_matvecs", products, 1, 2**31 - 1, "2^31 - 1")
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    layout = layout_of(op, n)
    if check == "full":
        most = krylov_state.TO_END if start is None and n <= krylov_state.SMALL else krylov_state.FULL
        dropped = krylov_state.FULL
    elif check is None:
        most, dropped = krylov_state.TO_END if start is None else 0, krylov_state.EIGHTH
    else:
        most = dropped = _whole("check", check, 0, 2**31 - 1, "2^31 - 1, or 'full'")
    limits = krylov_state.Limits(np.asarray(tol, dtype), np.int32(products), np.int32(most), np.int32(dropped))
    key = random_key(key)
    waits = waits_for_host((op, start, key))
    stride = _stretch(n) if waits else max(1 if n > LARGE else 2, size // 32)  # a look is the eigenproblem of the basis
    wanted = krylov_state.Wanted(k, which, size, stride, layout, known=waits)
    result, scale = _solution(op, space, start, limits, key, wanted)
    result = _vanishing(op, space, result, scale)
    if not isinstance(scale, jax.core.Tracer):
        asymmetry, largest = float(result.asymmetry), float(scale)
        if asymmetry > 0.01 * largest:
            warnings.warn(
                f"the operator is not symmetric: |u'Av − v'Au| = {asymmetry:.3g} for unit vectors, ‖A‖ = {largest:.3g}. The eigenvalues "
                "are those of no matrix; pass a symmetric map, such as v -> (Av + A'v)/2.",
                RuntimeWarning,
                stacklevel=2,
            )
    return result


def basis_size(k: int, n: int) -> int:
    """Vectors that `eigsh` holds by default for k eigenpairs of n; no more than n of them are needed.

    >>> basis_size(k=10, n=1000)
    58
    """
    return 2 * k + (38 if n <= LARGE else 22)


def eigsh_above(
    op: Matvec,
    threshold: float,
    like: PyTree | None = None,
    *,
    k: int | None = None,
    tol: float = 1e-3,
    start: Eigenpairs | Start | Vector | None = None,
    most: int = 256,
    key: KeyLike = None,
) -> Eigenpairs:
    """All eigenpairs above a threshold, and at least k: k grows twofold or fourfold while the smallest one found stands above it.

    What was found is the start of the next search. With the result's eigenvectors as `start` along a training, k stays as it grew. Each k
    is a program of its own, which is compiled for seconds in a new process.

    Args:
        threshold: for instance 1.5/lr, what is near or past the edge of stability. most: no more pairs than this.
        k: how many at first; default 4, or the dimension where that is less.
        others: as for `eigsh`, which says what is raised; TypeError besides under a trace, where no k can be chosen by values.

    Returns:
        The largest k' >= k eigenpairs, `matvecs` those of all searches; the smallest stands above the threshold only where `most` or
        the dimension ended the search, or where it did not converge.

    >>> pairs = eigsh_above(lambda v: jnp.array([4.0, 5.0]) * v, 3.0, jnp.zeros(2), k=1)
    >>> pairs.eigenvalues.round(3).tolist()  # k has grown, as the largest stood above the threshold
    [4.0, 5.0]
    """
    op, space = domain(op, like)
    if not isinstance(threshold, jax.core.Tracer) and np.isnan(threshold):
        raise ValueError(f"threshold={threshold!r}: expected a number, above which eigenvalues are wanted.")
    most = min(_whole("most", most, 1, 2**31 - 1, "2^31 - 1"), space.size)
    k = min(FIRST, most) if k is None else _whole("k", k, 1, space.size, "the dimension of the space")
    if start is not None:
        vectors = start.eigenvectors if isinstance(start, Eigenpairs | Start) else start
        rows = jnp.shape(jax.tree.leaves(vectors)[0])[: -len(space.shapes[0]) or None]
        k = min(max([k, *rows]), most)
    made = 0
    while True:
        found = eigsh(op, space.like(), k=k, tol=tol, start=start, key=key)
        if isinstance(found.matvecs, jax.core.Tracer):
            raise TypeError(
                "eigsh_above chooses k by values: expected none of jax.jit, jax.vmap and jax.grad around it. Use eigsh there."
            )
        made += int(found.matvecs)
        values = np.asarray(found.eigenvalues, np.float64)
        if not (found.converged and k < most and values[0] > threshold):
            return found._replace(matvecs=made)
        k, start = min((4 if _more(values, threshold) >= k else 2) * k, most), found


def _more(values: np.ndarray, threshold: float) -> float:
    """About how many eigenvalues lie between the smallest of some and a threshold under it.

    As they fall on average: by differences, which gives too few where the spectrum flattens, and by ratios, which gives too many where it
    does not; the mean of both.
    """
    smallest, largest, falls = values[0], values[-1], max(len(values) - 1, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        more = [(smallest - threshold) / (largest - smallest)]
        if threshold > 0:
            more.append(np.log(smallest / threshold) / np.log(largest / smallest))
    return float(falls * np.mean(more)) if largest > smallest else 0.0


def _stretch(n: int) -> int:
    """Products of a stretch on an accelerator: as many as take it longer than the call of a program takes the host, 0.8 ms."""
    return 8 if n <= LARGE else 4 if n <= HUGE else 2


def _solution(
    op: Matvec,
    space: Space,
    start: Eigenpairs | Start | Vector | None,
    limits: krylov_state.Limits,
    key: RandomKey,
    wanted: krylov_state.Wanted,
) -> tuple[Eigenpairs, AnyReal]:
    """The pairs, and the largest ‖Av‖ seen: from the host, or in one program."""
    small = space.size <= LARGE
    rows = functools.partial(_start_rows, start, space, wanted.k, limits.tol.dtype, wanted.layout)
    if (wanted.known or small) and not _traced((op, start, key)):
        vectors, count = (None, 0) if wanted.known and start is None else rows(host=not wanted.known)
        with contextlib.suppress(krylov.UnderTraceError):
            found = krylov.solve_from_host(op, space, vectors, int(count), limits, key, wanted)
            return _eigenpairs(found), found.numbers.scale
    vectors, count = rows(host=small and not wanted.known)
    result: tuple[Eigenpairs, AnyReal] = _solve(op, vectors, count, limits, key, space=space, wanted=wanted)
    return result


def _vanishing(op: Matvec, space: Space, found: Eigenpairs, scale: AnyReal) -> Eigenpairs:
    """The pairs, as noisy where all products are zero for want of small numbers alone."""
    if isinstance(scale, jax.core.Tracer):
        vanishes = jax.lax.cond(
            (scale == 0) & found.converged, lambda: _long_product(op, space=space) > 0, lambda: jnp.array(False)
        )
        return found._replace(status=jnp.where(vanishes, jnp.asarray(NOISY, found.status.dtype), found.status))
    if float(scale) == 0 and found.converged and float(_long_product(op, space=space)) > 0:
        return found._replace(status=np.asarray(NOISY, np.asarray(found.status).dtype))
    return found


@functools.partial(compiled, static=("space",))
@full_precision
def _long_product(op: Matvec, *, space: Space) -> Scalar:
    """Largest entry of the product with a long random vector, that of a tiny operator's too."""
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    long = 2.0 ** int(-0.8 * jnp.finfo(dtype).minexp)  # 2^100 in float32
    image = flat_product(op, space)(long * jax.random.normal(jax.random.key(0), (space.size,), dtype))
    return jnp.max(jnp.abs(jax.lax.stop_gradient(image)))


def _traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


@functools.partial(compiled, static=("space", "wanted"), tells=True)
@full_precision
def _solve(
    op: Matvec,
    rows: Float[Array, "k+1 p"],
    count: AnyCount,
    limits: krylov_state.Limits,
    key: RandomKey,
    *,
    space: Space,
    wanted: krylov_state.Wanted,
) -> tuple[Eigenpairs, AnyReal]:
    """The pairs, and the largest ‖Av‖ seen."""
    product, operands = jax.closure_convert(flat_product(op, space), jnp.zeros(space.size, rows.dtype))
    found = _found(product, wanted, operands, rows, count, limits, key)
    vectors, scout = (space.trees(rows, wanted.layout) for rows in (found.vectors, found.scout[None]))
    return _eigenpairs(found._replace(vectors=vectors, scout=scout)), found.numbers.scale


def _eigenpairs(found: krylov_state.Found) -> Eigenpairs:
    numbers = found.numbers._asdict()
    del numbers["scale"]
    return Eigenpairs(eigenvectors=found.vectors, scout=found.scout, **numbers)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _found(
    product: Callable[..., Flat],
    wanted: krylov_state.Wanted,
    operands: PyTree,
    rows: Float[Array, "k+1 p"],
    count: AnyCount,
    limits: krylov_state.Limits,
    key: RandomKey,
) -> krylov_state.Found:
    """`krylov.solve` for x -> product(x, *operands)."""
    return krylov.solve(lambda x: product(x, *operands), rows, count, limits, key, wanted)


@_found.defjvp
@full_precision  # JAX calls the rule where it differentiates, outside of `_solve`
def _found_jvp(
    product: Callable[..., Flat], wanted: krylov_state.Wanted, primals: PyTree, tangents: PyTree
) -> tuple[krylov_state.Found, krylov_state.Found]:
    """λ' = v'A'v, which can be transposed; the rest by differentiating the iteration, which cannot."""

    def solution(
        operands: PyTree, rows: Float[Array, "k+1 p"], count: AnyCount, limits: krylov_state.Limits, key: RandomKey
    ) -> krylov_state.Found:
        return krylov.solve(lambda x: product(x, *operands), rows, count, limits, key, wanted)

    found, change = jax.jvp(solution, primals, tangents)
    operands, moved = tuple(primals[0]), tuple(tangents[0])

    def along(x: Flat) -> Scalar:
        return jnp.vdot(x, jax.jvp(lambda *operands: product(x, *operands), operands, moved)[1])

    values = jax.vmap(along)(wanted.layout.whole(found.vectors)) if operands else change.numbers.eigenvalues
    leaves, structure = jax.tree.flatten(change)
    places = [place for place, leaf in enumerate(leaves) if leaf.dtype != jax.dtypes.float0]
    fixed = jax.custom_derivatives.linear_call(lambda _, part: part, _refuse, (), [leaves[place] for place in places])
    for place, leaf in zip(places, fixed, strict=True):
        leaves[place] = leaf
    change = jax.tree.unflatten(structure, leaves)
    return found, change._replace(numbers=change.numbers._replace(eigenvalues=values))


def _refuse(_: PyTree, cotangent: PyTree) -> NoReturn:
    raise TypeError(
        "eigsh: jax.grad goes through the eigenvalues alone; eigenvectors and residuals have no reverse mode. Use jax.jvp, jax.jacfwd."
    )


def _start_rows(
    start: Eigenpairs | Start | Vector | None, space: Space, k: int, dtype: np.dtype, layout: Layout, *, host: bool
) -> tuple[Float[AnyArray, "k+1 p"], np.int32]:
    """Start vectors as (k + 1, layout.length) rows, the last one the scout, zero where there are fewer, and the number of those but the
    scout. host: by numpy, without a program, as pays for small ones on a CPU."""
    scout = None
    if isinstance(start, Eigenpairs | Start):
        start, scout = start.eigenvectors, start.scout
    if start is None:
        if host:
            return np.zeros((k + 1, space.size), dtype), np.int32(0)
        return _no_rows(k=k, dtype=dtype, layout=layout), np.int32(0)
    leaves = jax.tree.leaves(start)
    if (
        jax.tree.structure(start) != space.treedef
        or len({jnp.ndim(a) - len(s) for a, s in zip(leaves, space.shapes, strict=True)}) != 1
    ):
        raise ValueError(
            f"start has the structure {jax.tree.map(jnp.shape, start)}: expected {space.like()}, or with a leading axis."
        )
    if jnp.ndim(leaves[0]) == len(space.shapes[0]):
        start = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], start)
    if any(jnp.shape(a)[1:] != s for a, s in zip(jax.tree.leaves(start), space.shapes, strict=True)):
        raise ValueError(
            f"start has the shapes {jax.tree.map(jnp.shape, start)}: expected those of {space.like()} after a leading axis."
        )
    leaves, last = jax.tree.leaves(start), jax.tree.leaves(scout)
    count = np.int32(min(k, len(leaves[0])))
    if not host or _traced((leaves, last)):
        return _padded(start, scout, space=space, k=k, layout=layout), count
    rows = np.zeros((k + 1, space.size), dtype)
    rows[:count] = _flat_rows(leaves)[-k:]
    if scout is not None:
        rows[k:] = _flat_rows(last)
    return rows, count


def _flat_rows(leaves: Sequence[Float[Array, "m ..."]]) -> Float[np.ndarray, "m n"]:
    """Vectors as leaves with a leading axis, as rows."""
    return np.concatenate([np.reshape(leaf, (len(leaf), -1)) for leaf in jax.device_get(leaves) if np.size(leaf)], 1)


@functools.partial(compiled, static=("k", "dtype", "layout"))
def _no_rows(*, k: int, dtype: np.dtype, layout: Layout) -> Float[Array, "k+1 p"]:
    return layout.parted(jnp.zeros((k + 1, layout.length), dtype))


@functools.partial(compiled, static=("space", "k", "layout"))
def _padded(start: Vector, scout: Vector | None, *, space: Space, k: int, layout: Layout) -> Float[Array, "k+1 p"]:
    rows = jax.vmap(space.flat)(start)[-k:]
    last = jnp.zeros_like(rows[:1]) if scout is None else jax.vmap(space.flat)(scout)
    return layout.parted(jnp.concatenate([jnp.pad(rows, [(0, k - len(rows)), (0, 0)]), last]))


def _whole(name: str, value: object, least: int, most: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"{name}={value!r}: expected an integer from {least} to {most} ({what}).")
    return int(value)
