"""Eigenpairs of the operator that decides stability: the Hessian, or the preconditioned one."""

from typing import NamedTuple

import jax
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Float64, PyTree

from curvexp.curvature import Objective, hessian, preconditioned
from curvexp.linalg import dense_eigh
from curvexp.linalg.eigenpairs import Start
from curvexp.linalg.lapack import threads
from curvexp.probe.ledger.past import Past
from curvexp.probe.solve import chance, solved
from curvexp.record import Reading
from curvexp.types import Params, RandomKey


class Spectrum(NamedTuple):
    """Eigenpairs of the operator that decides stability, as a Reading has them, and the products that they took; those of a preconditioned
    Hessian by products with the next one's scout, and the probabilities that one of them was missed, and one above them."""

    eigenvalues: Float64[np.ndarray, "k"]
    residuals: Float64[np.ndarray, "k"]
    eigenvectors: PyTree
    complete: bool
    products: int
    scout: PyTree = None
    missed: tuple[float, float] | None = None


NOT_MEASURED = Spectrum(np.empty(0), np.empty(0), None, False, 0)


def deciding_spectrum(
    whole: Objective,
    params: Params,
    reading: Reading,
    divisor: Params | None,
    *,
    past: Past,
    tol: float,
    full: bool,
    key: RandomKey,
) -> Spectrum:
    """The reading's own eigenpairs; or as many of the preconditioned Hessian, from the reading's dense Hessian where it has one."""
    values, residuals = reading.eigenvalues, reading.residuals
    if divisor is None:
        return Spectrum(values, residuals, reading.eigenvectors, reading.complete, 0)
    if reading.complete and isinstance(reading.eigenvectors, np.ndarray) and "samples" not in reading.extra:
        roots = np.sqrt(np.asarray(ravel_pytree(divisor)[0], np.float64))
        with threads(len(values)):
            matrix = (reading.eigenvectors * values) @ reading.eigenvectors.T / np.outer(roots, roots)
        if not np.isfinite(matrix).all():
            return Spectrum(np.full_like(values, np.nan), np.full_like(values, np.nan), None, True, 0)
        found, vectors, errors = dense_eigh((matrix + matrix.T) / 2)
        return Spectrum(found, errors, vectors, True, 0)
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    k = (
        min(len(values), n)
        if reading.eigenvectors is not None and not isinstance(reading.eigenvectors, np.ndarray)
        else 1
    )
    op = preconditioned(hessian(whole, params), divisor)
    both = k > 1 and "lambda_min" in reading.scalars
    start = None if past.vectors is None else Start(past.vectors, past.scout)
    check = "full" if full or start is None else None
    pairs = solved(op, k=k, which="BE" if both else "LA", tol=tol, start=start, check=check, key=key)
    values, residuals = np.asarray(pairs.eigenvalues, np.float64), np.asarray(pairs.residuals, np.float64)
    missed = (chance(pairs.missed), chance(np.asarray(pairs.missed_ends)[1]))
    return Spectrum(values, residuals, pairs.eigenvectors, False, int(pairs.matvecs), pairs.scout, missed)
