"""How many vectors a product takes at once where several wait: by measurement on the device and size at hand, where that pays."""

import functools
import time
from collections.abc import Hashable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from curvexp import memory
from curvexp.linalg.layout import LARGE, Layout, waits_for_host
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, flat_product
from curvexp.programs import compiled
from curvexp.types import Matvec

SIZES = (1, 2, 5, 10)
ON_CPU, ON_OTHERS = (
    5,
    10,
)  # at most, where nothing is measured: a GPU waits for work in small products, a CPU's caches overflow
CACHED = 2**26  # bytes of bases, above which a CPU takes one vector, where nothing is measured
SHARE = 8  # of the device's free memory, an eighth for the bases
LONG = 2.0  # seconds of products, below which a measurement, a compilation for each size, would not pay
GAIN = 0.9  # of the time a vector, at which a size is better than the one before

_chosen: dict[Hashable, int] = {}


def vectors_at_once(op: Matvec, space: Space, *, vectors: int, steps: int, layout: Layout) -> int:
    """A batch for `vectors` runs of `steps` products, each with a basis of as many rows.

    By a rule: up to 5 on a CPU as long as their bases stay within 64 MB, up to 10 elsewhere, within an eighth of the free memory. In more
    than 20 000 dimensions, where one vector at a time would take 2 s or more, 1, 2, 5 and 10 are timed until a vector takes no tenth
    less, and the quickest is taken. What is chosen for an operator's function and shapes holds for the whole process. Under jit and vmap,
    and over several devices, the rule alone.

    >>> from curvexp.linalg.vectors import space_of
    >>> op = jax.tree_util.Partial(lambda v: v)
    >>> vectors_at_once(op, space_of(jnp.zeros(3)), vectors=2, steps=1, layout=Layout(3))
    2
    """
    leaves, structure = jax.tree.flatten(op)
    shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves)
    on_cpu = not waits_for_host(op)
    key = (hash(structure), shapes, space, vectors, steps, on_cpu)  # the hash: a function is not kept alive
    if key in _chosen:
        return _chosen[key]
    basis = steps * space.size * space.dtype.itemsize
    most = int(min(memory.device() / SHARE / basis, vectors))
    rule = max(1, min(ON_CPU, CACHED // basis, vectors) if on_cpu else min(ON_OTHERS, most))
    if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
        return rule
    if space.size > LARGE and layout.mesh is None:
        rule = _quickest(op, space, [size for size in SIZES if size <= max(1, most)], rule, vectors * steps)
    return _chosen.setdefault(key, rule)


def _quickest(op: Matvec, space: Space, sizes: list[int], rule: int, products: int) -> int:
    """The size at which a vector takes least; the rule's where all products together are soon made."""
    best = sizes[0]
    least = _seconds(op, space, best)
    if least * products < LONG:
        return rule
    for size in sizes[1:]:
        taken = _seconds(op, space, size)
        if taken > GAIN * least:
            break
        best, least = size, taken
    return best


def _seconds(op: Matvec, space: Space, size: int) -> float:
    """Seconds a vector, in a loop of two products of so many."""
    taken = []
    for _ in range(3):  # the first compiles
        begun = time.perf_counter()
        jax.block_until_ready(_twice(op, space=space, size=size))
        taken.append(time.perf_counter() - begun)
    return min(taken[1:]) / (2 * size)


@functools.partial(compiled, static=("space", "size"))
@full_precision
def _twice(op: Matvec, *, space: Space, size: int) -> Float[Array, "b n"]:
    product = flat_product(op, space)
    many = jax.vmap(product) if size > 1 else lambda rows: product(rows[0])[None]
    rows = jax.random.normal(jax.random.key(0), (size, space.size), jax.dtypes.canonicalize_dtype(space.dtype))

    def step(_: Int[Array, ""], rows: Float[Array, "b n"]) -> Float[Array, "b n"]:
        images = many(rows)
        largest = jnp.max(jnp.abs(images))
        return images / jnp.where(largest > 0, largest, 1)

    return jax.lax.fori_loop(0, 2, step, rows)
