"""A person's function as a pytree that jit takes as an argument."""

from typing import Any

import jax


def pytree_function(function: Any) -> Any:
    if not jax.tree_util.all_leaves([function]):  # a Partial, or another pytree that can be called
        return function
    return jax.tree_util.Partial(function)
