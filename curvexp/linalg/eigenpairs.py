"""Eigenpairs of a symmetric operator that is known by its products only, each with its residual."""

import functools
import warnings
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.linalg import krylov
from curvexp.linalg.layout import LARGE, Layout, layout_of
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, domain, flat_product

Which = Literal["LA", "SA", "LM", "BE"]
STATUS = ("running", "converged", "out of products", "not finite", "tolerance below floor", "noisy products")
CONVERGED, BUDGET, NON_FINITE, BELOW_FLOOR, NOISY = 1, 2, 3, 4, 5


class Eigenpairs(NamedTuple):
    """Some eigenvalues of a symmetric operator A, with unit eigenvectors.

    Attributes:
        eigenvalues: (k,) ascending.
        eigenvectors: pytree of the domain, each leaf with a leading axis k; orthonormal to rounding.
        residuals: (k,) ‖Av − λv‖₂ from the Krylov relation, and what rounding adds to it: of the products, as measured by u'Av − v'Au
            between basis vectors, of the orthogonalization, and of the small eigenproblem. Some eigenvalue of A lies within it
            (Parlett 1998, thm 4.5.1).
        matvecs: () products with A that it took.
        status: () code: 1 converged; 2 out of products; 3 an entry was not finite; 4 converged, to the floor of the dtype, which lies
            above the tolerance asked for; 5 not converged, because the products scatter by more than the tolerance and than any rounding
            of the dtype (√eps·‖A‖): a precision below that of the vectors, or a product that differs from call to call. `message` says
            it in words.
        missed: () upper bound of the probability that an eigenvalue which belongs to the k was missed, by more than tol·‖A‖, because
            the start had no part of it (a copy of a multiple eigenvalue): from a Lanczos run in the complement of what was found. 0
            where the whole space was searched; 1 where the check gained nothing; nan where there was none (warm start, no convergence).
        asymmetry: () largest |u'Av − v'Au| seen between basis vectors: rounding, if A is symmetric.
        floor: () absolute residual below which rounding hides everything: 10·eps·‖A‖, or the measured rounding and noise of the
            products where that is more.
    """

    eigenvalues: Any
    eigenvectors: Any
    residuals: Any
    matvecs: Any
    status: Any
    missed: Any
    asymmetry: Any
    floor: Any

    @property
    def converged(self) -> bool:
        """Whether every residual is under the tolerance, or under the floor where that is higher."""
        return int(self.status) in (CONVERGED, BELOW_FLOOR)

    @property
    def message(self) -> str:
        """What happened, and what to do where that is not what one wants."""
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
        if code == NOISY:
            return (
                f"{name}: they scatter by {float(self.floor):.2e}, more than rounding of their dtype; {worst:.2e} was reached in "
                f"{made} of them. Let the operator multiply in the precision of its vectors, and give every call the same random "
                "numbers; or raise tol."
            )
        chance = float(self.missed)
        if np.isnan(chance):
            check = "completeness was not checked"
        elif chance == 0:
            check = "complete: the Krylov spaces were exhausted"
        else:
            check = (
                f"missed a wanted one with probability at most {chance:.1e}, by a Lanczos run orthogonal to those found"
            )
        return f"{name} in {made} products, largest residual {worst:.2e}; {check}."


def eigsh(
    op: Any,
    like: Any = None,
    *,
    k: int,
    which: Which = "LA",
    tol: float = 1e-3,
    start: Any = None,
    basis: int | None = None,
    max_matvecs: int | None = None,
    check: int | None = None,
    key: Any = None,
) -> Eigenpairs:
    """k eigenpairs of a symmetric operator: block Krylov-Schur on the device, certified by residuals.

    Runs as one compiled program, which is compiled anew only for another operator function, shape, k, which or basis; can be called under
    jit (then nothing is warned of).

    Args:
        op: an Operator, or a function v -> Av of a pytree, linear and symmetric.
        like: pytree of the domain (arrays or shapes), where `op` does not say it.
        k: how many, 1 <= k <= n.
        which: LA the largest, SA the smallest, LM those of largest absolute value, BE k//2 smallest and the rest largest.
        tol: residual asked for, relative to ‖A‖ (the largest |Ritz value|). Below the floor 10·eps it is raised to
            it, and the status says so.
        start: a vector, or eigenvectors with a leading axis, to begin with; a random vector always joins them. k of them that turn out
            to be far from the eigenvectors are dropped for the random vector alone, which then gets there in fewer products.
        basis: most vectors held, at least 2k + 4 unless that exceeds n; default 2k + 38, from 20 000 parameters on 2k + 22. Memory
            is basis·n entries, twice at a restart; from 20 000 parameters on shared out over the devices of the mesh that the
            operator's arrays lie on, where they lie on one (`start` and the eigenvectors too).
        max_matvecs: most products; default 100·(basis + k).
        check: most products spent on looking for missed copies of multiple eigenvalues. Default: an eighth of the products made, at least
            6, and to the end where n <= 2048; none after a warm start, and none where n > 20000 and an eighth is under 6. After a start
            that was dropped: an eighth.
        key: jax.random key of the random vectors; default jax.random.key(0).

    Raises:
        ValueError: k, basis, tol or max_matvecs out of range, no parameters. TypeError: integer or complex leaves, no domain.

    Warns:
        RuntimeWarning: asymmetry above 1 % of ‖A‖.

    Lengths are squared on the way: in float32 ‖A‖ is to lie between 1e-12 and 1e18.

    Source: Stewart 2001 (Krylov-Schur); Wu and Simon 2000 (thick restart); van Dorsselaer et al. 2000 (the check).
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
    floor = 10 * float(jnp.finfo(dtype).eps)
    layout = layout_of(op, n)
    rows, count = _start_rows(start, space, k, dtype, layout)
    dropped = krylov.EIGHTH if check is None else check
    if check is None:
        check = krylov.TO_END if start is None else 0
    limits = krylov.Limits(np.asarray(max(tol, floor), dtype), np.int32(products), np.int32(check), np.int32(dropped))
    key = jax.random.key(0) if key is None else key
    stride = max(1 if n > LARGE else 2, size // 32)  # a test is the eigenproblem of the basis
    wanted = krylov.Wanted(k, which, size, stride, layout)
    result, scale = _solve(
        op, rows, count, limits, key, np.asarray(floor, dtype), np.asarray(tol, dtype), space=space, wanted=wanted
    )
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
    """Vectors that `eigsh` holds by default for k eigenpairs of n; no more than n of them are needed."""
    return 2 * k + (38 if n <= LARGE else 22)


def eigsh_above(
    op: Any,
    threshold: float,
    like: Any = None,
    *,
    k: int = 4,
    tol: float = 1e-3,
    start: Any = None,
    most: int = 256,
    key: Any = None,
) -> Eigenpairs:
    """All eigenpairs above a threshold, and at least k: k is doubled while the smallest one found stands above it.

    What was found is the start of the next search. With the result's eigenvectors as `start` along a training, k stays as it grew.

    Args:
        threshold: for instance 1.5/lr, what is near or past the edge of stability. most: no more pairs than this.
        others: as for `eigsh`, which says what is raised.

    Returns:
        The largest k' >= k eigenpairs, `matvecs` those of all searches; the smallest stands above the threshold only where `most` or
        the dimension ended the search, or where it did not converge.
    """
    op, space = domain(op, like)
    k = _whole("k", k, 1, space.size, "the dimension of the space")
    most = min(_whole("most", most, 1, 2**31 - 1, "2^31 - 1"), space.size)
    if start is not None:
        rows = jnp.shape(jax.tree.leaves(start)[0])[: -len(space.shapes[0]) or None]
        k = min(max([k, *rows]), most)
    made = 0
    while True:
        found = eigsh(op, space.like(), k=k, tol=tol, start=start, key=key)
        made += int(found.matvecs)
        if not (found.converged and k < most and float(found.eigenvalues[0]) > threshold):
            return found._replace(matvecs=made)
        k, start = min(2 * k, most), found.eigenvectors


@functools.partial(jax.jit, static_argnames=("space", "wanted"))
@full_precision
def _solve(
    op: Any,
    rows: Any,
    count: Any,
    limits: krylov.Limits,
    key: Any,
    floor: Any,
    asked: Any,
    *,
    space: Space,
    wanted: krylov.Wanted,
) -> tuple[Eigenpairs, Any]:
    """The pairs, and the largest ‖Av‖ seen; floor: the dtype's, relative; asked: the tolerance."""
    found = krylov.solve(flat_product(op, space), rows, count, limits, key, wanted)
    layout = wanted.layout
    vectors = layout.spread(jax.vmap(space.tree)(layout.whole(found.vectors)))
    hidden = jnp.maximum(floor * found.scale, found.noise)
    root = jnp.sqrt(jnp.finfo(floor.dtype).eps)  # no rounding of the dtype comes near it
    above = (asked * found.scale < hidden) | jnp.any(found.residuals > asked * found.scale)
    reached = jnp.where(above, BELOW_FLOOR, CONVERGED)
    reached = jnp.where(found.noise > jnp.maximum(asked, root) * found.scale, NOISY, reached)
    status = jnp.where(found.status == CONVERGED, reached, found.status)
    return Eigenpairs(
        found.values,
        vectors,
        found.residuals,
        found.products,
        status,
        found.missed,
        found.asymmetry,
        hidden,
    ), found.scale


def _start_rows(start: Any, space: Space, k: int, dtype: Any, layout: Layout) -> tuple[Any, Any]:
    """Start vectors as (k, layout.length) rows, zero where there are fewer, and their number."""
    if start is None:
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
    rows = _padded(start, space=space, k=k, layout=layout)
    return rows, np.int32(min(k, len(jax.tree.leaves(start)[0])))


@functools.partial(jax.jit, static_argnames=("k", "dtype", "layout"))
def _no_rows(*, k: int, dtype: Any, layout: Layout) -> Any:
    return layout.parted(jnp.zeros((k, layout.length), dtype))


@functools.partial(jax.jit, static_argnames=("space", "k", "layout"))
def _padded(start: Any, *, space: Space, k: int, layout: Layout) -> Any:
    rows = jax.vmap(space.flat)(start)[-k:]
    return layout.parted(jnp.pad(rows, [(0, k - len(rows)), (0, 0)]))


def _whole(name: str, value: Any, least: int, most: int, what: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not least <= value <= most:
        raise ValueError(f"{name}={value!r}: expected an integer from {least} to {most} ({what}).")
    return int(value)
