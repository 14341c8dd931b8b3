"""Spectral density by stochastic Lanczos quadrature.

For a random unit vector v, Lanczos gives nodes θ_i and weights τ_i with v'f(A)v ≈ Σ τ_i f(θ_i), exact for
polynomials up to degree 2·steps − 1.
The mean over v uniform on the sphere is tr f(A)/n (Golub and Welsch 1969; Lin, Saad, Yang 2016; Ghorbani, Krishnan, Xiao 2019).
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.linalg.eigenpairs import Eigenpairs
from curvexp.linalg.gram_schmidt import norm, orthogonalized
from curvexp.linalg.layout import Layout, layout_of
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import Space, domain, flat_product, random_key
from curvexp.programs import compiled

MEMORY = 2**26  # bytes of the bases that are filled at once, where nothing else is said
NOISE = 4  # rounding of a product, in units of eps times its length


class Density(NamedTuple):
    """Distribution of a symmetric operator's eigenvalues, each with mass 1/n.

    Attributes:
        spikes, spike_residuals: (m,) eigenvalues known one by one, each a mass of 1/n, and their residuals; m may be 0.
        x: (points,) ascending. density: (points,) of the other eigenvalues, smoothed by a normal of deviation `width`; its integral is
            1 − m/n.
        stderr: (points,) standard error of `density` over the probe vectors.
        nodes, weights: (probes, steps) the quadrature of each probe; weights of a row sum to 1 − m/n; zero where a Krylov space ended
            early.
        width: () deviation of the smoothing: a spike, of a multiple of the identity for instance, is a bell of this width.
        mean, mean_stderr: () of all eigenvalues, tr A/n. square, square_stderr: () of their squares.
        negative, negative_stderr: () mass below zero, counting nodes under −floor.
        matvecs: () products made.
        ended: (probes,) whether a probe's Krylov space ended: its nodes and weights are then the whole of what it sees, not a quadrature.
    """

    spikes: Any
    spike_residuals: Any
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
    ended: Any


def spectral_density(
    op: Any,
    like: Any = None,
    *,
    probes: int = 10,
    steps: int = 80,
    points: int = 512,
    width: float | None = None,
    batch: int | None = None,
    spikes: Eigenpairs | None = None,
    key: Any = None,
) -> Density:
    """Density of the eigenvalues, with its standard error.

    Inexact by the number of probes, which `stderr` tells, by the number of steps, which blurs detail finer than
    about the range over `steps`,
    and by the smoothing.

    Args:
        probes: random vectors, at least 2. steps: Lanczos steps each; at most n are taken.
        width: deviation of the smoothing; default: the range of the nodes over `steps`, the resolution that Lanczos has inside. Where
            the range is rounding, under 1e4·eps of the largest |node|, that node takes its place; 1 where all are zero.
        batch: probes multiplied at once; memory is batch·steps·n entries, shared out over devices as `eigsh` has it. Default: as many as
            keep that within 64 MB, from 1 to 5.
        spikes: eigenpairs, from `eigsh`, to be shown one by one: the probes are taken orthogonal to them, which also takes their share
            out of the variance.
        key: of the probes; default jax.random.key(0).

    Raises:
        ValueError: a count out of range; as many spikes as dimensions.
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
    if batch is None:
        batch = max(1, min(5, MEMORY // (steps * space.size * dtype.itemsize)))
    layout = layout_of(op, space.size)
    return _density(
        op, key, width, known, space=space, probes=probes, steps=steps, points=points, batch=batch, layout=layout
    )


class _Known(NamedTuple):
    """Spikes as arrays: values (m,), residuals (m,), vectors (m, n)."""

    values: Any
    residuals: Any
    vectors: Any


@functools.partial(compiled, static=("space", "probes", "steps", "points", "batch", "layout"), tells=True)
@full_precision
def _density(
    op: Any,
    key: Any,
    width: Any,
    known: _Known,
    *,
    space: Space,
    probes: int,
    steps: int,
    points: int,
    batch: int,
    layout: Layout,
) -> Density:
    vectors = layout.parted(known.vectors)
    quadrature = functools.partial(_quadrature, flat_product(op, space), vectors, layout=layout, steps=steps)
    batched = (
        min(batch, probes) if batch > 1 else None
    )  # a batch of one would be vmapped too, and then every vector orthogonalised
    nodes, weights, made, ended = jax.lax.map(quadrature, jax.random.split(key, probes), batch_size=batched)
    n, m = space.size, len(known.values)
    weights = weights * ((n - m) / n)
    low, high = nodes.min(), nodes.max()
    largest = jnp.max(jnp.abs(jnp.concatenate([jnp.stack([low, high]), known.values])))
    floor = 10 * jnp.finfo(nodes.dtype).eps * largest
    wide = jnp.where(high - low > 1e4 * jnp.finfo(nodes.dtype).eps * largest, high - low, largest)
    width = jnp.where(width > 0, width, jnp.where(wide > 0, wide, 1) / steps)
    x = jnp.linspace(low - 4 * width, high + 4 * width, points)

    def smooth(probe: tuple[Any, Any]) -> Any:
        theta, tau = probe
        bells = jnp.exp(-0.5 * ((x[:, None] - theta[None, :]) / width) ** 2)
        return bells @ tau / np.sqrt(2 * np.pi)

    def moment(function: Callable[[Any], Any]) -> tuple[Any, Any]:
        return _mean((function(nodes) * weights).sum(axis=1) + function(known.values).sum() / n)

    # a spread squares what it is taken of: in float32 that is to be near 1
    unit = jnp.where(largest > 0, largest, 1)
    density, stderr = (curve / width for curve in _mean(jax.lax.map(smooth, (nodes, weights))))
    mean, mean_stderr = (unit * part for part in moment(lambda value: value / unit))
    square, square_stderr = (unit * (unit * part) for part in moment(lambda value: jnp.square(value / unit)))
    negative, negative_stderr = moment(lambda value: (value < -floor).astype(value.dtype))
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


def _quadrature(product: Any, known: Any, key: Any, *, layout: Layout, steps: int) -> tuple[Any, ...]:
    """Nodes (steps,), weights (steps,) and products of Lanczos from one random unit vector orthogonal to the rows known, (m, n); and
    whether its Krylov space ended."""
    end = _lanczos(product, known, key, layout=layout, steps=steps)
    off = jnp.diag(end.betas[:-1], 1)
    # rows after an early end are no part of the Krylov space: told by a value of their own, they get weight 0 and a node inside the range
    inside = jnp.arange(steps) < end.made
    theta, y = jnp.linalg.eigh(jnp.diag(jnp.where(inside, end.alphas, 3 * end.scale + 1)) + off + off.T)
    weights = jnp.where(jnp.sum(jnp.where(inside[:, None], y, 0) ** 2, axis=0) > 0.5, y[0] ** 2, 0)
    return jnp.where(weights > 0, theta, end.alphas[0]), weights, end.made, ~end.alive


class _Lanczos(NamedTuple):
    """Basis (steps, n), coefficients (steps,), q'q_last and q'q_before as estimated (steps,), whether the next vector is mended too."""

    basis: Any
    alphas: Any
    betas: Any
    omega: Any
    omega_before: Any
    again: Any
    alive: Any
    scale: Any
    made: Any


def _lanczos(product: Any, known: Any, key: Any, *, layout: Layout, steps: int) -> _Lanczos:
    """Lanczos from one random unit vector, semiorthogonal.

    A vector and the one after it are orthogonalised against all before once a recurrence says that the loss of orthogonality passes √eps;
    until there the tridiagonal matrix is a projection of A to rounding, without copies of what has converged (Simon 1984, sec. 4 and 5).

    Args:
        known: (m, layout.length) orthonormal rows that the Krylov space stays orthogonal to.
    """
    v = layout.parted(jax.random.normal(key, (layout.size,), known.dtype))
    eps, index = jnp.finfo(v.dtype).eps, jnp.arange(steps)
    v, _ = orthogonalized(known, v)
    basis = layout.parted(jnp.zeros((steps, layout.length), v.dtype)).at[0].set(v / norm(v))
    zeros = jnp.zeros(steps, v.dtype)

    def step(i: Any, s: _Lanczos) -> _Lanczos:
        image = layout.parted(product(layout.whole(s.basis[i])))
        scale = jnp.maximum(s.scale, norm(image))
        before = jnp.maximum(i - 1, 0)
        last = jnp.where(i > 0, s.betas[before], 0)
        rest = image - last * s.basis[before]
        alpha = jnp.vdot(s.basis[i], rest)
        rest = rest - alpha * s.basis[i]
        rest = rest - jnp.matmul(jnp.matmul(known, rest, precision="highest"), known, precision="highest")
        beta = norm(rest)

        # what is lost: the recurrence of ω_k = q_k'q_next, k < i
        alphas = s.alphas.at[i].set(alpha)
        here, up = s.omega, jnp.roll(s.omega, -1)
        down = jnp.where(index > 0, jnp.roll(s.omega, 1), 0)
        left = jnp.where(index > 0, jnp.roll(s.betas, 1), 0)
        raised = s.betas * up + (s.alphas - alpha) * here + left * down - last * s.omega_before
        noise = NOISE * eps * norm(image)
        raised = (raised + jnp.where(raised < 0, -noise, noise)) / jnp.where(beta > 0, beta, 1)
        omega = jnp.where(index < i, raised, jnp.where(index == i, noise / jnp.where(beta > 0, beta, 1), 0))
        lost = jnp.max(jnp.abs(omega)) > jnp.sqrt(eps)
        mends = lost | s.again

        rest, beta = jax.lax.cond(mends, lambda: _apart(known, s.basis, i, rest), lambda: (rest, beta))
        omega = jnp.where(mends & (index <= i), NOISE * eps, omega)
        goes = s.alive & (beta > 10 * eps * scale)
        row = jnp.where(goes & (i + 1 < steps), i + 1, 0)
        basis = layout.parted(
            s.basis.at[row].set(jnp.where(row > 0, rest / jnp.where(beta > 0, beta, 1), s.basis[row]))
        )
        return _Lanczos(
            basis=basis,
            alphas=jnp.where(s.alive, alphas, s.alphas),
            betas=s.betas.at[i].set(jnp.where(goes, beta, 0)),
            omega=omega.at[jnp.minimum(i + 1, steps - 1)].set(1.0),
            omega_before=s.omega,
            again=lost & ~s.again,
            alive=goes,
            scale=scale,
            made=s.made + s.alive,
        )

    start = _Lanczos(
        basis, zeros, zeros, zeros.at[0].set(1.0), zeros, jnp.array(False), jnp.array(True), zeros[0], jnp.int32(0)
    )
    return jax.lax.fori_loop(0, steps, step, start)


def _apart(known: Any, basis: Any, i: Any, rest: Any) -> tuple[Any, Any]:
    """What is left of a vector beside the known and the rows 0 to i of the basis, and its length."""
    ends = sorted(
        {-(-len(basis) * quarter // 4) for quarter in (1, 2, 3, 4)}
    )  # rows above i are zero: not all of them are read
    branches = [lambda end=end: orthogonalized(basis[:end], rest)[0] for end in ends]
    rest = jax.lax.switch(jnp.searchsorted(np.array(ends), i + 1), branches)
    rest, _ = orthogonalized(known, rest)
    return rest, norm(rest)


def _mean(samples: Any) -> tuple[Any, Any]:
    """Mean over the first axis and its standard error."""
    return samples.mean(axis=0), samples.std(axis=0, ddof=1) / np.sqrt(len(samples))
