"""Inertia: how many eigenvalues are positive, negative and zero to rounding."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvexp.linalg.density import spectral_density
from curvexp.linalg.gram_schmidt import smallest_difference
from curvexp.linalg.vectors import dense_matrix, domain
from curvexp.types import KeyLike, Matvec


class Inertia(NamedTuple):
    """Numbers of eigenvalues above, below and within ±floor.

    Attributes:
        positive, negative, zero: they sum to n. Whole where the matrix was dense, else estimates.
        stderr: the largest of the three standard errors over the probe vectors; 0 where exact.
        blur: how far, at most, a count of the quadrature is off for want of steps, averaged over the probes: half of the greatest mass
            that a measure of the same moments can have at −floor and at floor (Chebyshev, Markov, Stieltjes); 0 where exact, and where
            the Krylov spaces ended.
        floor: |λ| up to which an eigenvalue counts as zero.
        matvecs: products made.

    >>> counts = Inertia(positive=2, negative=1, zero=0, stderr=0.0, blur=0.0, floor=1e-6, matvecs=3)
    >>> counts.exact
    True
    """

    positive: float
    negative: float
    zero: float
    stderr: float
    blur: float
    floor: float
    matvecs: int

    @property
    def exact(self) -> bool:
        """Whether the counts are those of the dense matrix."""
        return self.blur == 0 and self.stderr == 0


def inertia(
    op: Matvec,
    like: PyTree | None = None,
    *,
    floor: float | None = None,
    dense_below: int = 2000,
    probes: int = 10,
    steps: int = 80,
    key: KeyLike = None,
) -> Inertia:
    """Counts of positive, negative and (under the rounding floor) zero eigenvalues: exact up to a size, else by Lanczos quadrature.

    Args:
        floor: |λ| up to which an eigenvalue counts as zero; None: the rounding, n·eps·‖A‖ and n smallest normal numbers, which tells zeros
            in a dense matrix. A quadrature places a mass at zero less exactly, as its blur then says: give it a floor above its
            resolution.
        dense_below: dimension up to which the matrix is made, n products, and diagonalised by LAPACK in float64.
        probes, steps, key: of the quadrature, see `spectral_density`.

    Raises:
        ValueError: a number out of its range; a matrix that is not finite. TypeError: under a trace, where nothing can be counted.

    Source: Sylvester's law of inertia, for what is counted; Lin, Saad, Yang 2016, sec. 3, for the quadrature; Szegő 1975, sec. 3.41, and
    Golub 1973, sec. 5, for its bounds.

    >>> counts = inertia(lambda v: jnp.array([-1.0, 0.0, 2.0]) * v, jnp.zeros(3))
    >>> counts.positive, counts.negative, counts.zero
    (1, 1, 1)
    """
    op, space = domain(op, like)
    n = space.size
    if isinstance(dense_below, bool) or not isinstance(dense_below, int) or dense_below < 0:
        raise ValueError(f"dense_below={dense_below!r}: expected an integer of at least 0.")
    if floor is not None and not floor >= 0:
        raise ValueError(f"floor={floor!r}: expected a number of at least 0.")
    eps, smallest = float(jnp.finfo(space.dtype).eps), smallest_difference(n, space.dtype)
    if n <= dense_below:
        matrix = _read(dense_matrix(op, space))
        values = np.linalg.eigvalsh((matrix + matrix.T) / 2)
        floor = n * eps * float(np.abs(values).max()) + smallest if floor is None else floor
        above, below = int((values > floor).sum()), int((values < -floor).sum())
        return Inertia(above, below, n - above - below, 0.0, 0.0, floor, n)
    found = spectral_density(op, space.like(), probes=probes, steps=steps, key=key)
    nodes, weights = _read(found.nodes), np.asarray(found.weights, np.float64)
    floor = n * eps * float(np.abs(nodes).max()) + smallest if floor is None else floor
    ended = np.asarray(found.ended)
    cuts = -floor, np.nextafter(floor, np.inf)  # ±floor itself is zero
    cut = [[_below(*probe, at) for probe in zip(nodes, weights, ended, strict=True)] for at in cuts]
    (down, up), errors = np.moveaxis(np.array(cut), 2, 0)
    shares = np.stack([1 - up, down, up - down])
    stderr = float(n * (shares.std(axis=1, ddof=1) / np.sqrt(len(nodes))).max())
    positive, negative, zero = n * shares.mean(axis=1)
    blur = float(n * errors.sum(axis=0).mean())
    return Inertia(float(positive), float(negative), float(zero), stderr, blur, floor, int(found.matvecs))


def _below(nodes: np.ndarray, weights: np.ndarray, ended: bool, cut: float) -> tuple[float, float]:
    """Mass below a cut, from the Gauss quadrature of a measure: the middle of the sharp bounds, and their half distance.

    The bounds are those of the quadrature that has the cut for a node: every measure of the same moments has at least the mass of the nodes
    below it there, at most that and the cut's own. Where the Krylov space ended, the nodes are all the mass that there is.
    """
    nodes, weights = nodes[weights > 0], weights[weights > 0]
    if ended:
        return float(weights[nodes < cut].sum()), 0.0
    jacobi = _jacobi(nodes, weights)
    if len(nodes) > 1:
        ends = np.zeros(len(nodes) - 1)
        ends[-1] = jacobi[-1, -2] ** 2
        shift, *_ = np.linalg.lstsq(jacobi[:-1, :-1] - cut * np.eye(len(ends)), ends)
        jacobi[-1, -1] = cut + shift[-1]
    else:
        jacobi[0, 0] = cut
    theta, y = np.linalg.eigh(jacobi)
    at = int(np.argmin(np.abs(theta - cut)))
    masses = y[0] ** 2
    return float(masses[:at].sum() + masses[at] / 2), float(masses[at] / 2)


def _jacobi(nodes: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The tridiagonal matrix whose eigenvalues are the nodes, and whose eigenvectors' first entries are the roots of the weights."""
    import scipy.linalg  # 0.2 s that no run shall wait for

    q = scipy.linalg.qr(np.c_[np.sqrt(weights), np.eye(len(nodes))])[0]
    reduced = scipy.linalg.hessenberg(q.T @ np.diag(nodes) @ q)
    return reduced * (np.abs(np.subtract.outer(range(len(nodes)), range(len(nodes)))) <= 1)


def _read(array: Float[Array, "..."]) -> np.ndarray:
    """The numbers in float64, which are to be finite."""
    if isinstance(array, jax.core.Tracer):
        raise TypeError(
            "inertia counts values on the host: expected none of jax.jit, jax.vmap and jax.grad around it. Call it outside of them, or use "
            "spectral_density, whose `negative` can be traced."
        )
    found = np.asarray(array, np.float64)
    if not np.isfinite(found).all():
        raise ValueError("a product with the operator is not finite: it has no inertia there.")
    return found
