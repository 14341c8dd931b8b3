"""All eigenpairs of a dense symmetric matrix, by LAPACK in float64.

The Hessian of a quadratic or of a least-squares problem is the same at every step, and for every seed and learning rate of a sweep. So the
last decompositions are kept, and a matrix of the same bits is not decomposed again.
"""

import hashlib
import threading
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Float64

from curvexp.linalg.lapack import threads
from curvexp.types import AnyArray

KEPT = 2**27  # bytes of eigenvectors that are kept: of one matrix of 4000 rows, of many small ones


class DenseEigenpairs(NamedTuple):
    """All eigenpairs of a symmetric matrix, float64 and read-only.

    Attributes:
        values: ascending. vectors: in columns, orthonormal to rounding. residuals: ‖Av − λv‖₂.

    >>> found = dense_eigh(np.diag([1.0, 4.0]))
    >>> found.vectors.tolist(), found.residuals.tolist()
    ([[1.0, 0.0], [0.0, 1.0]], [0.0, 0.0])
    """

    values: Float64[np.ndarray, "n"]
    vectors: Float64[np.ndarray, "n n"]
    residuals: Float64[np.ndarray, "n"]


def dense_eigh(matrix: Float[AnyArray, "n n"]) -> DenseEigenpairs:
    """All eigenpairs of a symmetric matrix.

    Args:
        matrix: of any precision; its asymmetry, which is rounding, enters the residuals.

    >>> import numpy as np
    >>> dense_eigh(np.array([[2.0, 1.0], [1.0, 2.0]])).values.round(12).tolist()
    [1.0, 3.0]
    """
    matrix = np.ascontiguousarray(matrix)
    name = hashlib.blake2b(matrix.view(np.uint8).data, digest_size=16, person=matrix.dtype.name.encode()).digest()
    return _kept.get(name) or _kept.put(name, matrix)


class _Kept:
    """Eigenpairs by their matrix's digest, the oldest given up first."""

    def __init__(self) -> None:
        self.found: dict[bytes, DenseEigenpairs] = {}
        self.lock = threading.Lock()  # the rows of `run_many` are read by several threads

    def get(self, name: bytes) -> DenseEigenpairs | None:
        return self.found.get(name)

    def put(self, name: bytes, matrix: np.ndarray) -> DenseEigenpairs:
        """Computes the eigenpairs and keeps them; gives up older ones first, until the new ones fit."""
        with self.lock:
            while self.found and self.bytes() + 8 * len(matrix) ** 2 > KEPT:
                del self.found[next(iter(self.found))]
        made = _decomposed(np.asarray(matrix, np.float64))
        if made.vectors.nbytes <= KEPT:
            with self.lock:
                self.found[name] = made
        return made

    def bytes(self) -> int:
        return sum(one.vectors.nbytes for one in self.found.values())


def _decomposed(matrix: np.ndarray) -> DenseEigenpairs:
    with threads(len(matrix)), np.errstate(invalid="ignore", over="ignore"):
        values, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
        found = DenseEigenpairs(values, vectors, np.linalg.norm(matrix @ vectors - vectors * values, axis=0))
    for part in found:
        part.setflags(write=False)
    return found


_kept = _Kept()
