"""Examples taken in chunks, where the loss is the mean over them."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from curvexp.linalg.vectors import space_of


@dataclasses.dataclass(frozen=True)
class Chunked:
    """The mean over chunks of the examples, weighted by their sizes; the last one may be smaller."""

    product: Callable[[Any, Any], Any]
    chunk: int

    def __call__(self, operands: Any, v: Any) -> Any:
        head, params, args = operands
        count = count_examples(args)
        size = min(self.chunk, count)
        whole = count // size
        stacked = jax.tree.map(lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), args)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            piece = self.product((head, params, part), v)
            return jax.tree.map(lambda t, p: t + (size / count) * p, total, piece), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, v), stacked)
        rest = count - whole * size
        if rest:
            piece = self.product((head, params, jax.tree.map(lambda a: a[whole * size :], args)), v)
            total = jax.tree.map(lambda t, p: t + (rest / count) * p, total, piece)
        return total


def count_examples(args: Any) -> int:
    """Length of the leading axis that all arrays share."""
    lengths = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in map(jnp.asarray, jax.tree.leaves(args))}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"chunk: the arrays in args have leading axes {sorted(lengths)}: expected one length, the number of examples. Bind what is no "
            "example with jax.tree_util.Partial."
        )
    return lengths.pop()


def check_mean(loss: Any, params: Any, args: Any, chunk: int) -> None:
    """Refuse a loss that is not the mean over its chunks: batch normalization couples the examples of a batch, a sum is no mean."""
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk={chunk!r}: expected a positive integer, the number of examples taken at once.")
    both = min(2 * chunk, count_examples(args))
    if both <= chunk or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, args))):
        return
    whole, mean = (float(value) for value in _two_chunks(loss, params, args, chunk=chunk, both=both))
    eps = float(jnp.finfo(space_of(params).dtype).eps)
    if abs(whole - mean) > 1e3 * eps * max(abs(whole), abs(mean), eps):
        raise ValueError(
            f"chunk={chunk}: the loss of {both} examples is {whole:.9g}, the mean over its chunks {mean:.9g}: the examples are coupled "
            "(batch normalization), or the loss is a sum. Leave chunk out, or divide by the number of examples, or normalize by ghost "
            "batches, groups that a chunk is a multiple of, which is another loss."
        )


@functools.partial(jax.jit, static_argnames=("chunk", "both"))
def _two_chunks(loss: Any, params: Any, args: Any, *, chunk: int, both: int) -> tuple[Any, Any]:
    def on(low: int, high: int) -> Any:
        return (high - low) / both * loss(params, *jax.tree.map(lambda a: a[low:high], args))

    return on(0, both), on(0, chunk) + on(chunk, both)
