"""Matrix-free symmetric linear algebra on a product v -> Av: eigenpairs."""

from curvexp.linalg.eigenpairs import Eigenpairs as Eigenpairs
from curvexp.linalg.eigenpairs import eigsh as eigsh
