"""A stretch of block Krylov-Schur: the basis grows by a row a product, and nothing is decided."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from curvexp.linalg.gram_schmidt import norm, orthogonalized
from curvexp.linalg.krylov_state import FLOOR, Tally, Wanted

PASSES = (
    2  # of Gram-Schmidt where a loop of unknown length would wait: twice is enough (Giraud, Langou, Rozloznik 2005)
)


def stretch(
    product: Callable[[Any], Any], wanted: Wanted, basis: Any, tally: Tally, last: Any, unknown: Any
) -> tuple[Any, Tally]:
    """The basis (size, n) and the tally after the rows up to `last` were multiplied by A, fewer where no row waits or none can be added.

    With wanted.known, wanted.stride products are made, those beyond the last one for nothing: an accelerator then never waits.

    Args:
        last: rows multiplied at its end. unknown: rows whose images are not known, the first of the basis; of a check's first row the
            neighbour before it may be gone.
    """
    size, n = wanted.size, wanted.layout.size

    def goes_on(tally: Tally) -> Any:
        room = (tally.rows < size) | (size >= n)
        return tally.finite & room & (tally.done < jnp.minimum(last, tally.rows))

    def step(carry: tuple[Any, Tally]) -> tuple[Any, Tally]:
        basis, tally = carry
        return _grown(product, wanted, basis, tally, goes_on(tally), unknown)

    if wanted.known:
        return jax.lax.scan(lambda carry, _: (step(carry), None), (basis, tally), length=wanted.stride)[0]
    return jax.lax.while_loop(lambda carry: goes_on(carry[1]), step, (basis, tally))


def _grown(
    product: Callable[[Any], Any], wanted: Wanted, basis: Any, tally: Tally, on: Any, unknown: Any
) -> tuple[Any, Tally]:
    """Basis and tally after row `done` was multiplied by A, its image orthogonalised against all rows; as they were where it is not on."""
    layout, size = wanted.layout, wanted.size
    index = jnp.arange(size)
    j = jnp.minimum(tally.done, size - 1)
    image = layout.parted(product(layout.whole(basis[j])))
    length = norm(image)
    finite = jnp.isfinite(length)
    image = jnp.where(finite, image, 0)
    scale = jnp.maximum(tally.scale, jnp.where(finite, length, 0))
    rest, c = _beside(basis, image, j, tally.matrix, wanted)

    known = on & (index < j) & (index >= unknown)
    defects = jnp.where(known, jnp.abs(c - tally.matrix[:, j]), 0)
    relative = defects / jnp.where(scale > 0, scale, 1)
    beta = norm(rest)
    grows = on & (beta > nothing_left(scale)) & (tally.rows < min(size, layout.size))
    row = jnp.where(grows, tally.rows, 0)
    new = jnp.where(grows, rest / jnp.where(beta > 0, beta, 1), basis[row])
    matrix = tally.matrix.at[:, j].set(c).at[j, :].set(c)
    coupling = jnp.where(grows, beta, matrix[row, j])
    matrix = matrix.at[row, j].set(coupling).at[j, row].set(coupling)
    return layout.parted(basis.at[row].set(new)), Tally(
        matrix=jnp.where(on, matrix, tally.matrix),
        scale=jnp.where(on, scale, tally.scale),
        asymmetry=jnp.maximum(tally.asymmetry, jnp.max(defects)),
        defects=tally.defects + jnp.stack([jnp.sum(jnp.square(relative)), jnp.sum(known).astype(scale.dtype)]),
        done=tally.done + on,
        rows=tally.rows + grows,
        finite=tally.finite & (finite | ~on),
    )


def _beside(basis: Any, image: Any, j: Any, matrix: Any, wanted: Wanted) -> tuple[Any, Any]:
    """What is left of row j's image beside the basis, and its coefficients."""
    if wanted.known:
        return orthogonalized(basis, image, passes=PASSES)
    # the two neighbours first: what is then left for the whole basis is rounding, and one pass does
    before = jnp.where(j > 0, j - 1, 0)
    a, b = jnp.vdot(basis[j], image), jnp.where(j > 0, matrix[before, j], 0)
    rest, c = orthogonalized(basis, image - a * basis[j] - b * basis[before])
    return rest, c.at[j].add(a).at[before].add(b)


def nothing_left(scale: Any, xp: Any = jnp) -> Any:
    """Length up to which what is left of an image is rounding."""
    return FLOOR * xp.finfo(scale.dtype).eps * scale
