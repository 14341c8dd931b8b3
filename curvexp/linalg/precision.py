"""Matrix products in the full precision of their dtype, on every device.

An accelerator's default for float32 products is fewer bits: TF32 on an NVIDIA GPU, with a relative error of 1e-3, bfloat16 on a TPU.
Residuals are then no bounds. JAX fixes the precision of a product when it is traced, so whatever is to be exact is traced here.
"""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

P = ParamSpec("P")
T = TypeVar("T")


def full_precision(function: Callable[P, T]) -> Callable[P, T]:
    """The function, traced so that its matrix products and convolutions have all bits of their dtype.

    Whatever `jax_default_matmul_precision` says. A product that names its precision itself keeps it, and so does one that was traced
    before: the function that `jax.linearize` returned, for instance.
    """

    @functools.wraps(function)
    def traced(*args: P.args, **kwargs: P.kwargs) -> T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return traced


def at_least_float32(tree: Any) -> Any:
    """The tree with its leaves of 16 and fewer bits in float32: the point whose curvature is measured, exactly the one that was given."""
    return jax.tree.map(lambda leaf: leaf.astype(np.float32) if is_half(leaf) else leaf, tree)


def is_half(leaf: Any) -> bool:
    """Whether an array is of a floating dtype narrower than float32."""
    dtype = getattr(leaf, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating) and jnp.finfo(dtype).bits < 32
