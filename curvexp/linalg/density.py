"""Spectral density by stochastic Lanczos quadrature.

For a random unit vector v, Lanczos gives nodes θ_i and weights τ_i with v'f(A)v ≈ Σ τ_i f(θ_i), exact for
polynomials up to degree 2·steps − 1.
The mean over v uniform on the sphere is tr f(A)/n (Golub and Welsch 1969; Lin, Saad, Yang 2016; Ghorbani, Krishnan, Xiao 2019).
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.linalg.krylov import orthogonalized
from curvexp.linalg.vectors import Space, domain, flat_product


class Density(NamedTuple):
    """Distribution of a symmetric operator's eigenvalues, each with mass 1/n.

    Attributes:
        x: (points,) ascending. density: (points,) of the eigenvalues smoothed by a normal of deviation `width`.
        stderr: (points,) standard error of `density` over the probe vectors.
        nodes, weights: (probes, steps) the quadrature of each probe; weights of a row sum to 1; zero where a Krylov space ended early.
        width: () deviation of the smoothing.
        mean, mean_stderr: () of the eigenvalues, tr A/n. square, square_stderr: () of their squares.
        negative, negative_stderr: () mass below zero, counting nodes under −floor.
        matvecs: () products made.
    """

    x: Any
    density: Any
    stderr: Any
    nodes: Any
    weights: Any
    width: Any
    mean: Any
    mean_stderr: Any
    square: Any
    square_stderr: Any
    negative: Any
    negative_stderr: Any
    matvecs: Any


def spectral_density(
    op: Any,
    like: Any = None,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 512,
    width: float | None = None,
    batch: int = 1,
    key: Any = None,
) -> Density:
    """Density of the eigenvalues, with its standard error.

    Inexact by the number of probes, which `stderr` tells, by the number of steps, which blurs detail finer than
    about the range over `steps`,
    and by the smoothing.

    Args:
        probes: random vectors, at least 2. steps: Lanczos steps each; at most n are taken.
        width: deviation of the smoothing; default: the range of the nodes over `steps`, the resolution that Lanczos has inside.
        batch: probes multiplied at once; memory is batch·steps·n entries.
        key: of the probes; default jax.random.key(0).

    Raises:
        ValueError: a count out of range.
    """
    op, space = domain(op, like)
    for name, value, least in (("probes", probes, 2), ("steps", steps, 1), ("points", points, 2), ("batch", batch, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{name}={value!r}: expected an integer of at least {least}.")
    if width is not None and not width > 0:
        raise ValueError(f"width={width!r}: expected a positive deviation.")
    key = jax.random.key(0) if key is None else key
    steps = min(steps, space.size)
    return _density(
        op, key, 0.0 if width is None else width, space=space, probes=probes, steps=steps, points=points, batch=batch
    )


@functools.partial(jax.jit, static_argnames=("space", "probes", "steps", "points", "batch"))
def _density(
    op: Any, key: Any, width: Any, *, space: Space, probes: int, steps: int, points: int, batch: int
) -> Density:
    product = flat_product(op, space)
    quadrature = functools.partial(_quadrature, product, space=space, steps=steps)
    nodes, weights, made = jax.lax.map(quadrature, jax.random.split(key, probes), batch_size=min(batch, probes))
    low, high = nodes.min(), nodes.max()
    largest = jnp.maximum(jnp.abs(low), jnp.abs(high))
    floor = 10 * jnp.finfo(nodes.dtype).eps * largest
    width = jnp.where(width > 0, width, jnp.maximum((high - low) / steps, floor + jnp.finfo(nodes.dtype).tiny))
    x = jnp.linspace(low - 4 * width, high + 4 * width, points)

    def smooth(probe: tuple[Any, Any]) -> Any:
        theta, tau = probe
        bells = jnp.exp(-0.5 * ((x[:, None] - theta[None, :]) / width) ** 2)
        return bells @ tau / (width * np.sqrt(2 * np.pi))

    density, stderr = _mean(jax.lax.map(smooth, (nodes, weights)))
    mean, mean_stderr = _mean((nodes * weights).sum(axis=1))
    square, square_stderr = _mean((nodes**2 * weights).sum(axis=1))
    negative, negative_stderr = _mean(jnp.where(nodes < -floor, weights, 0).sum(axis=1))
    return Density(
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
    )


def _quadrature(product: Any, key: Any, *, space: Space, steps: int) -> tuple[Any, Any, Any]:
    """Nodes (steps,), weights (steps,) and products of Lanczos, fully reorthogonalised, from one random unit vector."""
    v = jax.random.normal(key, (space.size,), jax.dtypes.canonicalize_dtype(space.dtype))
    eps = jnp.finfo(v.dtype).eps
    basis = jnp.zeros((steps, space.size), v.dtype).at[0].set(v / jnp.linalg.norm(v))
    zeros = jnp.zeros(steps, v.dtype)

    def step(i: Any, carry: Any) -> Any:
        basis, alphas, betas, alive, scale, made = carry
        image = product(basis[i])
        scale = jnp.maximum(scale, jnp.linalg.norm(image))
        before = jnp.maximum(i - 1, 0)
        alpha = jnp.vdot(basis[i], image)
        rest = image - alpha * basis[i] - jnp.where(i > 0, betas[before], 0) * basis[before]
        rest, c = orthogonalized(basis, rest)
        beta = jnp.linalg.norm(rest)
        goes = alive & (beta > 10 * eps * scale)
        row = jnp.where(goes & (i + 1 < steps), i + 1, 0)
        basis = basis.at[row].set(jnp.where(row > 0, rest / jnp.where(beta > 0, beta, 1), basis[row]))
        alphas = alphas.at[i].set(jnp.where(alive, alpha + c[i], 0))
        betas = betas.at[i].set(jnp.where(goes, beta, 0))
        return basis, alphas, betas, goes, scale, made + alive

    start = (basis, zeros, zeros, jnp.array(True), jnp.zeros((), v.dtype), jnp.int32(0))
    _, alphas, betas, _, _, made = jax.lax.fori_loop(0, steps, step, start)
    off = jnp.diag(betas[:-1], 1)
    theta, y = jnp.linalg.eigh(jnp.diag(alphas) + off + off.T)
    weights = y[0] ** 2
    # rows after an early end are no part of the Krylov space: weight 0, and a node that does not widen the range
    return jnp.where(weights > 0, theta, alphas[0]), weights, made


def _mean(samples: Any) -> tuple[Any, Any]:
    """Mean over the first axis and its standard error."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
