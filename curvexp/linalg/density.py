"""Spectral density by stochastic Lanczos quadrature.

For a random unit vector v, Lanczos gives nodes θ_i and weights τ_i with v'f(A)v ≈ Σ τ_i f(θ_i), exact for
polynomials up to degree 2·steps − 1.
The mean over v uniform on the sphere is tr f(A)/n (Golub and Welsch 1969; Lin, Saad, Yang 2016; Ghorbani, Krishnan, Xiao 2019).
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key, PyTree

from curvexp.linalg.batches import vectors_at_once
from curvexp.linalg.eigenpairs import Eigenpairs
from curvexp.linalg.gram_schmidt import smallest_difference
from curvexp.linalg.lanczos import Lanczos, lanczos
from curvexp.linalg.lapack import threads
from curvexp.linalg.layout import Layout, layout_of, waits_for_host
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, domain, flat_product, linearized, random_key
from curvexp.programs import compiled
from curvexp.types import AnyArray, KeyLike, Matvec, RandomKey, Scalar


class Density(NamedTuple):
    """Distribution of a symmetric operator's eigenvalues, each with mass 1/n.

    Attributes:
        spikes, spike_residuals: eigenvalues known one by one, each a mass of 1/n, and their residuals; k may be 0.
        x: ascending. density: of the other eigenvalues, smoothed by a normal of deviation `width`; its integral is
            1 − k/n.
        stderr: standard error of `density` over the probe vectors.
        nodes, weights: the quadrature of each probe; weights of a row sum to 1 − k/n; zero where a Krylov space ended
            early.
        width: deviation of the smoothing: a spike, of a multiple of the identity for instance, is a bell of this width.
        mean, mean_stderr: of all eigenvalues, tr A/n. square, square_stderr: of their squares.
        negative, negative_stderr: mass below zero, counting nodes under −floor; nan, as the mean, where a node is not finite.
        matvecs: products made.
        ended: whether a probe's Krylov space ended: its nodes and weights are then the whole of what it sees, not a quadrature.

    >>> measure = lambda key: spectral_density(lambda v: 3 * v, jnp.zeros(5), probes=2, steps=3, points=9, key=key)
    >>> found = jax.eval_shape(measure, jax.random.key(0))
    >>> found.x.shape, found.nodes.shape, found.mean.shape
    ((9,), (2, 3), ())
    """

    spikes: Float[AnyArray, "k"]
    spike_residuals: Float[AnyArray, "k"]
    x: Float[Array, "points"]
    density: Float[Array, "points"]
    stderr: Float[Array, "points"]
    nodes: Float[Array, "m steps"]
    weights: Float[Array, "m steps"]
    width: Scalar
    mean: Scalar
    mean_stderr: Scalar
    square: Scalar
    square_stderr: Scalar
    negative: Scalar
    negative_stderr: Scalar
    matvecs: Int[Array, ""]
    ended: Bool[Array, "m"]


def spectral_density(
    op: Matvec,
    like: PyTree | None = None,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 512,
    width: float | None = None,
    batch: int | None = None,
    spikes: Eigenpairs | None = None,
    key: KeyLike = None,
) -> Density:
    """Density of the eigenvalues, with its standard error.

    Inexact by the number of probes, which `stderr` tells, by the number of steps, which blurs detail finer than
    about the range over `steps`,
    and by the smoothing.

    Args:
        probes: random vectors, at least 2. steps: Lanczos steps each; at most n are taken.
        width: deviation of the smoothing; default: the range of the nodes over `steps`, the resolution that Lanczos has inside. Where
            the range is rounding, under 1e4·eps of the largest |node|, that node takes its place; 1 where all are zero.
        batch: most probes multiplied at once; memory is batch·steps·n entries, shared out over devices as `eigsh` has it. Default: a few
            within the memory, as many as the device is quickest with where that is worth a measurement, once in a process for an
            operator's function and shapes (`curvexp.linalg.batches`). Results depend on it to rounding: give it where another
            process is to repeat them bit for bit.
        spikes: eigenpairs, from `eigsh`, to be shown one by one: the probes are taken orthogonal to them, which also takes their share
            out of the variance.
        key: of the probes; default jax.random.key(0).

    Raises:
        ValueError: a count out of range; as many spikes as dimensions.

    >>> found = spectral_density(lambda v: 3 * v, jnp.zeros(2), probes=2, steps=2, points=5)
    >>> round(float(found.mean), 3), round(float(found.square), 3)
    (3.0, 9.0)
    """
    op, space = domain(op, like)
    counts = [("probes", probes, 2), ("steps", steps, 1), ("points", points, 2)]
    for name, value, least in counts if batch is None else [*counts, ("batch", batch, 1)]:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: expected an integer of at least {least}.")
    if width is not None and not width > 0:
        raise ValueError(f"width={width!r}: expected a positive deviation.")
    key = random_key(key)
    dtype = jax.dtypes.canonicalize_dtype(space.dtype)
    known = _Known(*(jnp.zeros(shape, dtype) for shape in (0, 0, (0, space.size))))
    if spikes is not None:
        known = _Known(spikes.eigenvalues, spikes.residuals, jax.vmap(space.flat)(spikes.eigenvectors))
    left = space.size - len(known.values)
    if left < 1:
        raise ValueError(
            f"spikes: {len(known.values)} eigenpairs of {space.size} leave nothing for the density; expected fewer."
        )
    width = 0.0 if width is None else width
    steps = min(steps, left)
    layout = layout_of(op, space.size)
    if batch is None:
        batch = vectors_at_once(op, space, vectors=probes, steps=steps, layout=layout)
    sizes, on_cpu = _Sizes(probes, steps, points, batch), not waits_for_host(op)
    call = functools.partial(
        _density, op, key, width, known, space=space, layout=layout, sizes=sizes, always=not on_cpu
    )
    if not on_cpu:
        return call()
    # threads of LAPACK's within the program: ten matrices of 80 rows take 8 ms, with XLA's threads beside them up to 1 s
    with threads(steps):
        return jax.block_until_ready(call())


class _Known(NamedTuple):
    """Spikes as arrays."""

    values: Float[AnyArray, "k"]
    residuals: Float[AnyArray, "k"]
    vectors: Float[Array, "k n"]


class _Sizes(NamedTuple):
    """Static: of `spectral_density`, each an integer."""

    probes: int
    steps: int
    points: int
    batch: int


@functools.partial(compiled, static=("space", "layout", "sizes", "always"), tells=True)
@full_precision
def _density(
    op: Matvec,
    key: RandomKey,
    width: float | Scalar,
    known: _Known,
    *,
    space: Space,
    layout: Layout,
    sizes: _Sizes,
    always: bool,
) -> Density:
    probes, steps, points, batch = sizes
    product = (linearized(op, space) if always else None) or flat_product(op, space)
    vectors = layout.parted(known.vectors)
    # equal parts, filled up with the first probes once more: a smaller last one would be compiled apart
    parts = -(-probes // batch)
    rows = -(-probes // parts)
    keys = jax.random.split(key, probes)[np.arange(parts * rows) % probes].reshape(parts, rows)

    def quadrature(keys: Key[Array, "b"]) -> tuple[Array, ...]:
        end = lanczos(product, vectors, keys, layout=layout, steps=steps, always=always)
        return *_quadrature(end), end.made, ~end.alive

    found = jax.lax.map(quadrature, keys)
    nodes, weights, made, ended = (part.reshape(parts * rows, *part.shape[2:])[:probes] for part in found)
    n, m = space.size, len(known.values)
    weights = weights * ((n - m) / n)
    low, high = nodes.min(), nodes.max()
    largest = jnp.max(jnp.abs(jnp.concatenate([jnp.stack([low, high]), known.values])))
    floor = 10 * jnp.finfo(nodes.dtype).eps * largest + smallest_difference(n, nodes.dtype)
    wide = jnp.where(high - low > 1e4 * jnp.finfo(nodes.dtype).eps * largest, high - low, largest)
    width = jnp.where(width > 0, width, jnp.where(wide > 0, wide, 1) / steps)
    x = jnp.linspace(low - 4 * width, high + 4 * width, points)

    def smooth(probe: tuple[Float[Array, "steps"], Float[Array, "steps"]]) -> Float[Array, "points"]:
        theta, tau = probe
        bells = jnp.exp(-0.5 * ((x[:, None] - theta[None, :]) / width) ** 2)
        return bells @ tau / np.sqrt(2 * np.pi)

    def moment(function: Callable[[AnyArray], AnyArray]) -> tuple[Scalar, Scalar]:
        return _mean((function(nodes) * weights).sum(axis=1) + function(known.values).sum() / n)

    # a spread squares what it is taken of: in float32 that is to be near 1
    unit = jnp.where(largest > 0, largest, 1)
    density, stderr = (curve / width for curve in _mean(jax.lax.map(smooth, (nodes, weights))))
    mean, mean_stderr = (unit * part for part in moment(lambda value: value / unit))
    square, square_stderr = (unit * (unit * part) for part in moment(lambda value: jnp.square(value / unit)))
    negative, negative_stderr = moment(
        lambda value: jnp.where(jnp.isfinite(value), (value < -floor).astype(value.dtype), jnp.nan)
    )
    return Density(
        known.values,
        known.residuals,
        x,
        density,
        stderr,
        nodes,
        weights,
        width,
        mean,
        mean_stderr,
        square,
        square_stderr,
        negative,
        negative_stderr,
        made.sum(),
        ended,
    )


def _quadrature(end: Lanczos) -> tuple[Float[Array, "b steps"], Float[Array, "b steps"]]:
    """Nodes and weights of the runs of Lanczos."""
    steps = end.alphas.shape[1]
    # rows after an early end are no part of the Krylov space: told by a value of their own, they get weight 0 and a node inside the range
    inside = jnp.arange(steps) < end.made[:, None]
    diagonal = jnp.where(inside, end.alphas, 3 * end.scale[:, None] + 1)
    matrix = jax.vmap(jnp.diag)(diagonal) + jax.vmap(lambda beta: jnp.diag(beta, 1) + jnp.diag(beta, -1))(
        end.betas[:, :-1]
    )
    theta, y = jnp.linalg.eigh(matrix)
    own = jnp.sum(jnp.where(inside[:, :, None], y, 0) ** 2, axis=1) > 0.5
    weights = jnp.where(own, y[:, 0] ** 2, 0)
    return jnp.where(weights > 0, theta, end.alphas[:, :1]), weights


def _mean(samples: Float[Array, "m ..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    """Mean over the first axis and its standard error."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
