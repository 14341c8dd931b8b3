"""Matrix-free symmetric linear algebra on a product v -> Av: eigenpairs, density, inertia, trace, diagonal, norm.

The letters of shapes, here and in all of the science, are those of `curvexp.types`.
"""

from curvexp.linalg.dense import DenseEigenpairs as DenseEigenpairs
from curvexp.linalg.dense import dense_eigh as dense_eigh
from curvexp.linalg.density import Density as Density
from curvexp.linalg.density import spectral_density as spectral_density
from curvexp.linalg.eigenpairs import Eigenpairs as Eigenpairs
from curvexp.linalg.eigenpairs import eigsh as eigsh
from curvexp.linalg.eigenpairs import eigsh_above as eigsh_above
from curvexp.linalg.eigenvalue_counts import Inertia as Inertia
from curvexp.linalg.eigenvalue_counts import inertia as inertia
from curvexp.linalg.estimators import Estimate as Estimate
from curvexp.linalg.estimators import diagonal as diagonal
from curvexp.linalg.estimators import frobenius_norm as frobenius_norm
from curvexp.linalg.estimators import trace as trace
