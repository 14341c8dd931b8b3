"""Random estimates of a symmetric operator's trace, diagonal and Frobenius norm, each with a standard error."""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.linalg.vectors import Space, domain, flat_product


class Estimate(NamedTuple):
    """A random estimate: mean (shape of what is estimated), its standard error over the samples, and the products made, ()."""

    mean: Any
    stderr: Any
    matvecs: Any


def trace(op: Any, like: Any = None, *, samples: int = 30, rank: int = 0, key: Any = None) -> Estimate:
    """Trace, by Hutchinson's estimator on what a sketch of the range leaves over (Hutch++).

    Unbiased; the error is of order ‖A‖_F/√samples without a sketch, ‖A − A_rank‖_F/√samples with one.

    Args:
        samples: Rademacher vectors, at least 2, a product each.
        rank: columns of the sketch, two products each; 0 for plain Hutchinson. With rank >= the operator's rank the result is exact.

    Source: Hutchinson 1990; Meyer, Musco, Musco, Woodruff 2021, algorithm 1.
    """
    op, space = domain(op, like)
    _samples(samples)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= space.size:
        raise ValueError(f"rank={rank!r}: expected an integer from 0 to {space.size}.")
    return _trace(op, _key(key), space=space, samples=samples, rank=rank)


def diagonal(op: Any, like: Any = None, *, samples: int = 100, key: Any = None) -> Estimate:
    """Diagonal, a pytree of the domain: the mean of z·Az over Rademacher vectors z; unbiased.

    Source: Bekas, Kokiopoulou, Saad 2007.
    """
    op, space = domain(op, like)
    _samples(samples)
    mean, stderr = _diagonal(op, _key(key), space=space, samples=samples)
    return Estimate(mean, stderr, samples)


def frobenius_norm(op: Any, like: Any = None, *, samples: int = 30, key: Any = None) -> Estimate:
    """Frobenius norm: the root of the mean of ‖Az‖² over Rademacher vectors z; the square is unbiased, the root biased by O(stderr²).

    Source: Hutchinson 1990, applied to A².
    """
    op, space = domain(op, like)
    _samples(samples)
    return _frobenius(op, _key(key), space=space, samples=samples)


@functools.partial(jax.jit, static_argnames=("space", "samples", "rank"))
def _trace(op: Any, key: Any, *, space: Space, samples: int, rank: int) -> Estimate:
    product = flat_product(op, space)
    first, second = jax.random.split(key)
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    known, q = jnp.zeros((), dtype), jnp.zeros((space.size, 0), dtype)
    if rank:
        sketch = jax.lax.map(lambda k: product(_signs(k, space)), jax.random.split(first, rank))
        q = jnp.linalg.qr(sketch.T)[0]
        known = jnp.sum(q.T * jax.lax.map(product, q.T))

    def sample(k: Any) -> Any:
        z = _signs(k, space)
        z = z - jnp.matmul(q, jnp.matmul(q.T, z, precision="highest"), precision="highest")
        return jnp.vdot(z, product(z))

    mean, stderr = _mean(jax.lax.map(sample, jax.random.split(second, samples)))
    return Estimate(known + mean, stderr, samples + 2 * rank)


@functools.partial(jax.jit, static_argnames=("space", "samples"))
def _diagonal(op: Any, key: Any, *, space: Space, samples: int) -> tuple[Any, Any]:
    product = flat_product(op, space)

    def add(carry: Any, item: Any) -> Any:
        count, k = item
        mean, spread = carry  # Welford's running mean and sum of squared deviations: n entries held, not samples·n
        z = _signs(k, space)
        value = z * product(z)
        step = value - mean
        mean = mean + step / count
        return (mean, spread + step * (value - mean)), None

    zero = jnp.zeros(space.size, jax.dtypes.canonicalize_dtype(space.dtype))
    counts = jnp.arange(1, samples + 1, dtype=zero.dtype)
    (mean, spread), _ = jax.lax.scan(add, (zero, zero), (counts, jax.random.split(key, samples)))
    return space.tree(mean), space.tree(jnp.sqrt(spread / (samples * (samples - 1))))


@functools.partial(jax.jit, static_argnames=("space", "samples"))
def _frobenius(op: Any, key: Any, *, space: Space, samples: int) -> Estimate:
    product = flat_product(op, space)
    squares = jax.lax.map(lambda k: jnp.sum(product(_signs(k, space)) ** 2), jax.random.split(key, samples))
    mean, stderr = _mean(squares)
    root = jnp.sqrt(mean)
    return Estimate(root, stderr / jnp.where(root > 0, 2 * root, 1), samples)


def _signs(key: Any, space: Space) -> Any:
    return jax.random.rademacher(key, (space.size,), jax.dtypes.canonicalize_dtype(space.dtype))


def _mean(samples: Any) -> tuple[Any, Any]:
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))


def _key(key: Any) -> Any:
    return jax.random.key(0) if key is None else key


def _samples(samples: Any) -> None:
    if isinstance(samples, bool) or not isinstance(samples, int) or samples < 2:
        raise ValueError(f"samples={samples!r}: expected an integer of at least 2; a standard error needs two.")
