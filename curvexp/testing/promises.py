"""A promise and how it is told that it is broken."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

SMALL = 500  # parameters up to which a dense Hessian is the reference


class ContractError(AssertionError):
    """A part does not do what it promises; the text names the promise."""


def holds(truth: bool, promise: str) -> None:
    if not truth:
        raise ContractError(f"broken promise: {promise}.")


def close(found: PyTree, expected: PyTree, tolerance: float, promise: str, *, relative: bool = True) -> None:
    """Compares two pytrees, by the largest difference; a relative tolerance is one of the largest expected entry."""
    a, b = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    bound = tolerance * max(float(np.abs(b).max()), 1e-30) if relative else tolerance
    worst = float(np.abs(a - b).max()) if a.shape == b.shape else math.inf
    holds(worst <= bound, f"{promise}; they differ by {worst:.3g}, {bound:.3g} is allowed")


def equal(a: PyTree, b: PyTree) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def shapes(tree: PyTree) -> tuple[PyTree, jax.tree_util.PyTreeDef]:
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree), jax.tree.structure(tree)
