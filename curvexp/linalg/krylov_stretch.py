"""A stretch of block Krylov-Schur: the basis grows by a row a product, and nothing is decided."""

from types import ModuleType
from typing import cast

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from curvexp.linalg.gram_schmidt import largest_entry, orthogonalized
from curvexp.linalg.krylov_state import FLOOR, Basis, Row, Tally, Wanted
from curvexp.types import AnyCount, AnyFlag, AnyReal, FlatMatvec, Scalar

PASSES = (
    2  # of Gram-Schmidt where a loop of unknown length would wait: twice is enough (Giraud, Langou, Rozloznik 2005)
)


def stretch(product: FlatMatvec, wanted: Wanted, basis: Basis, tally: Tally, last: AnyCount) -> tuple[Basis, Tally]:
    """The basis and the tally after the rows up to `last` were multiplied by A, fewer where no row waits or none can be added.

    With wanted.known, wanted.stride products are made, those beyond the last one for nothing: an accelerator then never waits.

    Args:
        last: rows multiplied at its end.

    >>> from curvexp.linalg.krylov_decision import first_tally
    >>> import numpy as np
    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=2, stride=1, layout=Layout(2))
    >>> tally = first_tally(wanted, np.dtype("float32"), jnp)._replace(rows=jnp.int32(1))
    >>> basis, tally = stretch(lambda v: jnp.array([3.0, 1.0]) * v, wanted, jnp.array([[0.6, 0.8], [0, 0]]), tally, jnp.int32(2))
    >>> int(tally.done), round(float(jnp.trace(tally.columns)), 3)
    (2, 4.0)
    """
    size, n = wanted.size, wanted.layout.size

    def goes_on(tally: Tally) -> AnyFlag:
        room = (tally.rows < size) | (size >= n)
        return tally.finite & room & (tally.done < jnp.minimum(last, tally.rows))

    def step(carry: tuple[Basis, Tally]) -> tuple[Basis, Tally]:
        basis, tally = carry
        return _grown(product, wanted, basis, tally, goes_on(tally))

    if wanted.known:
        return jax.lax.scan(lambda carry, _: (step(carry), None), (basis, tally), length=wanted.stride)[0]
    return jax.lax.while_loop(lambda carry: goes_on(carry[1]), step, (basis, tally))


def _grown(product: FlatMatvec, wanted: Wanted, basis: Basis, tally: Tally, on: AnyFlag) -> tuple[Basis, Tally]:
    """Basis and tally after row `done` was multiplied by A, its image orthogonalised against all rows; as they were where it is not on."""
    layout, size = wanted.layout, wanted.size
    j = jnp.minimum(tally.done, size - 1)
    image = layout.parted(product(layout.whole(basis[j])))
    unit = largest_entry(image)
    before = jnp.where(j > 0, j - 1, 0)
    coupling = jnp.where(j > 0, tally.columns[j, before] / unit, 0)
    rest, c = _beside(basis, image / unit, j, before, coupling, wanted)
    square = jnp.vdot(rest, rest)
    length = unit * jnp.sqrt(jnp.vdot(c, c) + square)  # of the image, as the rows are orthonormal
    finite = jnp.isfinite(length)
    scale = jnp.maximum(tally.scale, jnp.where(on & finite, length, 0))
    beta = unit * jnp.sqrt(square)
    grows = on & (beta > nothing_left(scale)) & (tally.rows < min(size, layout.size))  # what is not finite is not more
    row = jnp.where(grows, tally.rows, 0)
    new = jnp.where(grows, rest * (unit / jnp.where(grows, beta, 1)), basis[row])
    column = jnp.where(grows & (jnp.arange(size) == row), beta, unit * c)
    return layout.parted(basis.at[row].set(new)), Tally(
        columns=cast(Array, tally.columns).at[:, j].set(jnp.where(on & finite, column, tally.columns[:, j])),
        scale=scale,
        done=tally.done + on,
        rows=tally.rows + grows,
        finite=tally.finite & (finite | ~on),
    )


def _beside(
    basis: Basis, image: Row, j: Int[Array, ""], before: Int[Array, ""], coupling: Scalar, wanted: Wanted
) -> tuple[Row, Float[Array, "size"]]:
    """What is left of row j's image beside the basis, and its coefficients; coupling: what is known of that on the row before."""
    if wanted.known:
        return orthogonalized(basis, image, passes=PASSES)
    # the two neighbours first: what is then left for the whole basis is rounding, and one pass does
    own = jnp.vdot(basis[j], image)
    rest, c = orthogonalized(basis, image - own * basis[j] - coupling * basis[before])
    return rest, c.at[j].add(own).at[before].add(coupling)


def nothing_left(scale: AnyReal, xp: ModuleType = jnp) -> AnyReal:
    """Length up to which what is left of an image is rounding.

    >>> import numpy as np
    >>> float(nothing_left(np.float32(2), np) / np.finfo(np.float32).eps)
    20.0
    """
    return FLOOR * xp.finfo(scale.dtype).eps * scale
