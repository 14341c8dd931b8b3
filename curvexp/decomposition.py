"""All eigenpairs of a dense symmetric matrix, by LAPACK in float64.

The Hessian of a quadratic or of a least-squares problem is the same at every step, and for every seed and learning rate of a sweep. So the
last decompositions are kept, and a matrix of the same bits is not decomposed again.
"""

import functools
import hashlib
import threading
from typing import Any, NamedTuple

import numpy as np

from curvexp.host import SMALL
from curvexp.lockstep import hosted

KEPT = 2**27  # bytes of eigenvectors that are kept: of one matrix of 4000 rows, of many small ones


class _Decomposition(NamedTuple):
    values: np.ndarray
    vectors: np.ndarray
    residuals: np.ndarray


@functools.partial(hosted, whole=lambda matrix, _: len(matrix) > SMALL)
def decomposed(matrix: Any, vector: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Eigenvalues, ascending, and eigenvectors of a symmetric matrix, their residuals and the vector's components along them.

    Args:
        matrix: (n, n) of any precision; its asymmetry, which is rounding, enters the residuals. vector: (n,).

    Returns:
        values (n,), vectors (n, n) in columns, residuals ‖Av − λv‖ (n,), components (n,), all float64; the first three read-only.
    """
    name = hashlib.blake2b(
        np.ascontiguousarray(matrix).view(np.uint8).data, digest_size=16, person=matrix.dtype.name.encode()
    ).digest()
    found = _kept.get(name) or _kept.put(name, matrix)
    with np.errstate(invalid="ignore", over="ignore"):
        return *found, found.vectors.T @ np.asarray(vector, np.float64)


class _Kept:
    """Decompositions by their matrix's digest, the oldest given up first."""

    def __init__(self) -> None:
        self.found: dict[bytes, _Decomposition] = {}
        self.lock = threading.Lock()  # the calls of runs in step come from several threads

    def get(self, name: bytes) -> _Decomposition | None:
        return self.found.get(name)

    def put(self, name: bytes, matrix: Any) -> _Decomposition:
        """That of the matrix; for its sake what has no place beside it is given up first."""
        with self.lock:
            while self.found and self.bytes() + 8 * len(matrix) ** 2 > KEPT:
                del self.found[next(iter(self.found))]
        made = _decomposition(np.asarray(matrix, np.float64))
        if made.vectors.nbytes <= KEPT:
            with self.lock:
                self.found[name] = made
        return made

    def bytes(self) -> int:
        return sum(one.vectors.nbytes for one in self.found.values())


def _decomposition(matrix: np.ndarray) -> _Decomposition:
    values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    with np.errstate(invalid="ignore", over="ignore"):
        found = _Decomposition(values, vectors, np.linalg.norm(matrix @ vectors - vectors * values, axis=0))
    for part in found:
        part.setflags(write=False)
    return found


_kept = _Kept()
