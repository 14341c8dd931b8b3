"""Orthogonalisation of flat vectors, and lengths that neither overflow nor underflow."""

from types import ModuleType

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from curvexp.types import SomeArray


def norm(vectors: Float[SomeArray, "n ..."], xp: ModuleType = jnp) -> Float[SomeArray, "..."]:
    """‖v‖ along the first axis, also where squares of entries are beyond the range of the dtype, as those of 1e-25 in float32 are.

    >>> import numpy as np
    >>> bool(np.isclose(norm(jnp.array([3e-25, 4e-25], jnp.float32)), 5e-25, atol=0))
    True
    """
    unit = largest_entry(vectors, xp)
    return unit * xp.linalg.norm(vectors / unit, axis=0)


def largest_entry(array: Float[SomeArray, "..."], xp: ModuleType = jnp) -> Float[SomeArray, ""]:
    """max |entry|; 1 where that is zero or not finite, so that one can divide by it.

    >>> float(largest_entry(jnp.array([1.0, -3.0]))), float(largest_entry(jnp.zeros(2)))
    (3.0, 1.0)
    """
    size = xp.max(xp.abs(array), initial=0)
    return xp.where(xp.isfinite(size) & (size > 0), size, 1).astype(array.dtype)


def power_of_two(size: Float[SomeArray, ""], xp: ModuleType = jnp) -> Float[SomeArray, ""]:
    """The largest power of two up to a size, by which a division does not round; 1 where the size is zero or not finite.

    >>> [float(power_of_two(jnp.float32(size))) for size in (1.0, 5.0, 0.0)]
    [1.0, 4.0, 1.0]
    """
    size = xp.where(xp.isfinite(size) & (size > 0), size, 1)
    return size / (2 * xp.frexp(size)[0])


def smallest_difference(n: int, dtype: np.dtype) -> float:
    """n smallest normal numbers: what a product of n terms may lose, as XLA takes smaller numbers for zero.

    >>> smallest_difference(2, np.dtype(np.float32)) == 2.0**-125
    True
    """
    return n * float(np.finfo(dtype).tiny)


def orthogonalized(
    basis: Float[Array, "m n"], vector: Float[Array, "n"], *, passes: int = 0
) -> tuple[Float[Array, "n"], Float[Array, "m"]]:
    """What is left of `vector` beside the basis's rows (zero rows are ignored), and its coefficients on them.

    Classical Gram-Schmidt, to rounding (Giraud, Langou, Rozloznik 2005): of two passes, or repeated while a pass still takes off more
    than 1 %, which saves one where the neighbours were taken off before.

    Args:
        passes: how many, for a vector whose entries are of the order 1; 0: as many as it takes, in a loop of unknown length, for which an
            accelerator waits.

    >>> rest, coefficients = orthogonalized(jnp.array([[1.0, 0.0]]), jnp.array([2.0, 3.0]), passes=2)
    >>> rest.tolist(), coefficients.tolist()
    ([0.0, 3.0], [2.0])
    """

    def once(vector: Array, total: Array) -> tuple[Array, Array, Array]:
        c = jnp.matmul(basis, vector, precision="highest")
        return vector - jnp.matmul(c, basis, precision="highest"), total + c, c

    total = jnp.zeros(len(basis), basis.dtype)
    if passes:
        for _ in range(passes):
            vector, total, _ = once(vector, total)
        return vector, total
    unit = largest_entry(vector)

    def repeated(carry: tuple[Array, Array, Array, int]) -> tuple[Array, Array, Array, int]:
        vector, total, c = once(carry[0], carry[1])
        return vector, total, jnp.vdot(c, c) > 1e-4 * jnp.vdot(vector, vector), carry[3] + 1

    first = (vector / unit, total, jnp.array(True), 0)
    vector, total, _, _ = jax.lax.while_loop(lambda carry: carry[2] & (carry[3] < 4), repeated, first)
    return unit * vector, unit * total
