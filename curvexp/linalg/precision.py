"""Matrix products in the full precision of their dtype, on every device.

An accelerator's default for float32 products is fewer bits: TF32 on an NVIDIA GPU, with a relative error of 1e-3, bfloat16 on a TPU.
Residuals are then no bounds. JAX fixes the precision of a product when it is traced, so whatever is to be exact is traced here.
"""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """The function, traced so that its matrix products and convolutions have all bits of their dtype.

    Whatever `jax_default_matmul_precision` says. A product that names its precision itself keeps it, and so does one that was traced
    before: the function that `jax.linearize` returned, for instance.

    >>> product = full_precision(jnp.matmul)
    >>> product(jnp.ones((1, 2)), jnp.ones((2, 1))).tolist()
    [[2.0]]
    """

    @functools.wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return traced


def at_least_float32(tree: PyTree) -> PyTree:
    """The tree with its leaves of 16 and fewer bits in float32: the point whose curvature is measured, exactly the one that was given.

    >>> {name: str(leaf.dtype) for name, leaf in at_least_float32({"a": jnp.ones(1, jnp.bfloat16)}).items()}
    {'a': 'float32'}
    """
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if is_half(leaf) else leaf, tree)


def is_half(leaf: object) -> bool:
    """Whether an array is of a floating dtype narrower than float32.

    >>> [is_half(jnp.ones(1, dtype)) for dtype in ("bfloat16", "float32", "int8")]
    [True, False, False]
    """
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
