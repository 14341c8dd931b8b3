"""Random estimates of a symmetric operator's trace, diagonal and Frobenius norm, each with a standard error."""

import functools
import warnings
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from curvexp.linalg.gram_schmidt import norm, power_of_two
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, domain, flat_product, forward_only, random_key
from curvexp.programs import compiled
from curvexp.types import AnyArray, AnyCount, AnyReal, Flat, KeyLike, Matvec, RandomKey, Scalar

FEWEST = 20  # samples by which a standard error is known well enough to stop by: of 2 one in six is far too small
MOST = 10_000  # samples, where a relative error is asked for and no other limit is given


class Estimate(NamedTuple):
    """A random estimate.

    Attributes:
        mean: the estimate, of the shape of what is estimated. stderr: its standard error over the samples, likewise.
        matvecs: products made.

    >>> found = Estimate(mean=4.0, stderr=0.5, matvecs=30)
    >>> found.mean - 2 * found.stderr, found.mean + 2 * found.stderr  # about 95 %
    (3.0, 5.0)
    """

    mean: PyTree[Float[AnyArray, "..."]]
    stderr: PyTree[Float[AnyArray, "..."]]
    matvecs: AnyCount | int


def trace(
    op: Matvec,
    like: PyTree | None = None,
    *,
    samples: int = 30,
    rank: int = 0,
    rtol: float | None = None,
    max_samples: int = MOST,
    key: KeyLike = None,
) -> Estimate:
    """Trace, by Hutchinson's estimator on what a sketch of the range leaves over (Hutch++).

    Unbiased; the error is of order ‖A‖_F/√samples without a sketch, ‖A − A_rank‖_F/√samples with one.

    Args:
        samples: Rademacher vectors, at least 2, a product each.
        rank: columns of the sketch, two products each; 0 for plain Hutchinson. With rank >= the operator's rank the result is exact.
        rtol: more samples are drawn, at least 20, until stderr <= rtol·|mean|, or `max_samples` are; None: `samples` it is. The error at
            which one chooses to stop is a little smaller than the true one: 2·rtol holds for 94 to 95 % of estimates, where 2 samples to
            begin with left it at 84 % (1500 keys; a spectrum with one outlier).

    Raises:
        ValueError: a number out of its range.

    Warns:
        RuntimeWarning: rtol was not reached.

    Source: Hutchinson 1990; Meyer, Musco, Musco, Woodruff 2021, algorithm 1.

    >>> found = trace(lambda v: jnp.array([1.0, 3.0]) * v, jnp.zeros(2), samples=2)  # exact for a diagonal matrix
    >>> float(found.mean), float(found.stderr)
    (4.0, 0.0)
    """
    op, space = domain(op, like)
    limits = _limits(samples, rtol, max_samples)
    if isinstance(rank, bool) or not isinstance(rank, int) or not 0 <= rank <= space.size:
        raise ValueError(f"rank={rank!r}: expected an integer from 0 to {space.size}.")
    return _told(_trace(op, random_key(key), limits, space=space, rank=rank), rtol)


def diagonal(
    op: Matvec,
    like: PyTree | None = None,
    *,
    samples: int = 100,
    rtol: float | None = None,
    max_samples: int = MOST,
    key: KeyLike = None,
) -> Estimate:
    """Diagonal, a pytree of the domain: the mean of z·Az over Rademacher vectors z; unbiased.

    Args and errors as for `trace`; rtol is ‖stderr‖ relative to ‖mean‖.

    Source: Bekas, Kokiopoulou, Saad 2007.

    >>> diagonal(lambda v: jnp.array([1.0, 3.0]) * v, jnp.zeros(2), samples=2).mean.tolist()
    [1.0, 3.0]
    """
    op, space = domain(op, like)
    return _told(_diagonal(op, random_key(key), _limits(samples, rtol, max_samples), space=space), rtol)


def frobenius_norm(
    op: Matvec,
    like: PyTree | None = None,
    *,
    samples: int = 30,
    rtol: float | None = None,
    max_samples: int = MOST,
    key: KeyLike = None,
) -> Estimate:
    """Frobenius norm: the root of the mean of ‖Az‖² over Rademacher vectors z; the square is unbiased, the root biased by O(stderr²).

    Args and errors as for `trace`.

    Source: Hutchinson 1990, applied to A².

    >>> float(frobenius_norm(lambda v: jnp.array([3.0, 4.0]) * v, jnp.zeros(2), samples=2).mean)
    5.0
    """
    op, space = domain(op, like)
    return _told(_frobenius(op, random_key(key), _limits(samples, rtol, max_samples), space=space), rtol)


class _Limits(NamedTuple):
    """Fewest and most samples, and the relative error (0: none) at which to stop between them: arrays."""

    fewest: AnyCount
    most: AnyCount
    rtol: AnyReal


@functools.partial(compiled, static=("space", "rank"), tells=True)
@full_precision
def _trace(op: Matvec, key: RandomKey, limits: _Limits, *, space: Space, rank: int) -> Estimate:
    product = flat_product(op, space)
    first, second = jax.random.split(key)
    known, q = jnp.zeros((), _dtype(space)), jnp.zeros((space.size, 0), _dtype(space))
    if rank:
        sketch = jax.lax.map(lambda k: product(_signs(k, space)), jax.random.split(first, rank))
        q = jnp.linalg.qr(sketch.T)[0]
        known = jnp.sum(q.T * jax.lax.map(product, q.T))

    def sample(k: RandomKey) -> Scalar:
        z = _signs(k, space)
        z = z - jnp.matmul(q, jnp.matmul(q.T, z, precision="highest"), precision="highest")
        return jnp.vdot(z, product(z))

    found = _sampled(sample, known, second, limits)
    return Estimate(known + found.unit * found.mean, found.unit * found.stderr, found.number + 2 * rank)


@functools.partial(compiled, static=("space",), tells=True)
@full_precision
def _diagonal(op: Matvec, key: RandomKey, limits: _Limits, *, space: Space) -> Estimate:
    product = flat_product(op, space)

    def sample(k: RandomKey) -> Flat:
        z = _signs(k, space)
        return z * product(z)

    found = _sampled(sample, jnp.zeros(space.size, _dtype(space)), key, limits)
    return Estimate(space.tree(found.unit * found.mean), space.tree(found.unit * found.stderr), found.number)


@functools.partial(compiled, static=("space",), tells=True)
@full_precision
def _frobenius(op: Matvec, key: RandomKey, limits: _Limits, *, space: Space) -> Estimate:
    product = flat_product(op, space)
    # of the root of the mean the relative error is half of that of the mean
    limits = limits._replace(rtol=2 * limits.rtol)
    zero = jnp.zeros((), _dtype(space))
    found = _sampled(lambda k: norm(product(_signs(k, space))), zero, key, limits, power=2)
    root = jnp.sqrt(found.mean)
    return Estimate(found.unit * root, found.unit * found.stderr / jnp.where(root > 0, 2 * root, 1), found.number)


class _Samples(NamedTuple):
    """Mean of (sample / unit)^power with its standard error, the number of samples, and the unit, a power of two: squares of samples may be
    beyond the range of the dtype."""

    mean: Float[Array, "..."]
    stderr: Float[Array, "..."]
    number: Int[Array, ""]
    unit: Scalar


def _sampled(
    sample: Callable[[RandomKey], Float[Array, "..."]],
    known: Float[Array, "..."],
    key: RandomKey,
    limits: _Limits,
    *,
    power: int = 1,
) -> _Samples:
    """Statistics of samples by Welford's running sums, so that one sample is held, not all.

    Args:
        sample: key -> array like `known`. known: what is added to the mean before the error is judged relative to it; 0 for a power.
    """

    def stderr(count: Int[Array, ""], spread: Array) -> Array:
        count = count.astype(spread.dtype)
        return jnp.sqrt(spread / jnp.maximum(count * (count - 1), 1))

    def goes_on(carry: tuple[Int[Array, ""], Array, Array, Scalar]) -> Bool[Array, ""]:
        count, mean, spread, unit = carry
        far = jnp.linalg.norm(stderr(count, spread)) > limits.rtol * jnp.linalg.norm(known / _or_one(unit) + mean)
        return (count < limits.fewest) | ((limits.rtol > 0) & (count < limits.most) & far)

    def add(carry: tuple[Int[Array, ""], Array, Array, Scalar]) -> tuple[Int[Array, ""], Array, Array, Scalar]:
        count, mean, spread, unit = carry
        value = sample(jax.random.fold_in(key, count))
        size = jnp.max(jnp.abs(value))
        unit = jnp.where((unit > 0) | ~(size > 0), unit, power_of_two(size))  # of the first sample that is not zero
        value = (value / _or_one(unit)) ** power
        step = value - mean
        mean = mean + step / (count + 1)
        return count + 1, mean, spread + step * (value - mean), unit

    zero = jnp.zeros_like(known)
    start = (jnp.int32(0), zero, zero, jnp.zeros((), known.dtype))
    count, mean, spread, unit = jax.lax.while_loop(goes_on, add, start)
    return _Samples(mean, stderr(count, spread), count, _or_one(unit))


def _or_one(unit: Scalar) -> Scalar:
    return jnp.where(unit > 0, unit, 1)


def _limits(samples: int, rtol: float | None, most: int) -> _Limits:
    for name, value in (("samples", samples), ("max_samples", most)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 2:
            raise ValueError(f"{name}={value!r}: expected an integer of at least 2; a standard error needs two.")
    if rtol is not None and not (isinstance(rtol, int | float) and 0 < rtol < 1):
        raise ValueError(f"rtol={rtol!r}: expected a number in (0, 1), the standard error relative to the estimate.")
    most = max(samples, most)
    fewest = samples if rtol is None else min(max(samples, FEWEST), most)
    return _Limits(np.int32(fewest), np.int32(most), np.float32(rtol or 0.0))


def _told(found: Estimate, rtol: float | None) -> Estimate:
    """The estimate, with a warning where the relative error that was asked for was not reached."""
    sentence = (
        "jax.grad does not go through a random estimate, whose loop is of unknown length: expected none around trace, diagonal and "
        "frobenius_norm. Use jax.jvp or jax.jacfwd."
    )
    found = found._replace(mean=forward_only(found.mean, sentence), stderr=forward_only(found.stderr, sentence))
    if rtol is not None and not isinstance(found.matvecs, jax.core.Tracer):
        sizes = [float(np.sqrt(sum(np.square(leaf).sum() for leaf in jax.tree.leaves(tree)))) for tree in found[:2]]
        if not sizes[1] <= 1.001 * rtol * sizes[0]:
            warnings.warn(
                f"rtol={rtol:g} was not reached in {int(found.matvecs)} products: the standard error is {sizes[1]:.3g} of {sizes[0]:.3g}. "
                "Raise max_samples or rtol.",
                RuntimeWarning,
                stacklevel=3,
            )
    return found


def _dtype(space: Space) -> np.dtype:
    return jax.dtypes.canonicalize_dtype(space.dtype)


def _signs(key: RandomKey, space: Space) -> Flat:
    return jax.random.rademacher(key, (space.size,), _dtype(space))
