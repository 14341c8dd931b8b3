"""Curvature of a sample of the examples, with its standard error."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.curvature.chunks import count_examples
from curvexp.curvature.functions import pytree_function
from curvexp.curvature.hessians import hessian
from curvexp.linalg import Estimate


def sampling_error(
    loss: Callable[..., Any], params: Any, *args: Any, vectors: Any, groups: int = 20, population: int | None = None
) -> Estimate:
    """v'Hv over a sample of the examples, for each of some vectors, with its standard error as an estimate of that over all examples.

    From the spread of v'Hv over equal groups of the sample, which need not be as many as examples: a product a group and vector. For v an
    eigenvector of the sample's own Hessian this is the noise of its eigenvalue; the largest eigenvalue of a sample is biased upwards
    besides, as it is the largest of noisy ones.

    Args:
        loss, params, args: as for `hessian`: the mean over the examples, the leading axis of every array in `args`.
        vectors: pytree of unit vectors, each leaf with a leading axis m.
        groups: at least 2; examples that do not fill the last one are left out.
        population: examples that the sample was drawn from, without replacement; None: infinitely many.

    Returns:
        mean, stderr (m,).

    Raises:
        ValueError: groups below 2, or more than examples; a population smaller than the sample.

    Source: Cochran 1977, sec. 2.4 (the finite population correction) and 2.14.
    """
    count = count_examples(args)
    if isinstance(groups, bool) or not isinstance(groups, int) or not 2 <= groups <= count:
        raise ValueError(f"groups={groups!r}: expected an integer from 2 to {count}, the number of examples.")
    if population is not None and population < count:
        raise ValueError(f"population={population!r}: expected at least {count}, the size of the sample.")
    forms = _quadratic_forms(pytree_function(loss), params, args, vectors, groups=groups)
    left = 1.0 if population is None else 1 - count / population
    stderr = forms.std(axis=0, ddof=1) * np.sqrt(left / groups)
    return Estimate(forms.mean(axis=0), stderr, forms.shape[1])


@functools.partial(jax.jit, static_argnames="groups")
def _quadratic_forms(loss: Any, params: Any, args: Any, vectors: Any, *, groups: int) -> Any:
    """v'H_g v, (groups, m)."""
    size = count_examples(args) // groups
    parts = jax.tree.map(lambda a: a[: groups * size].reshape(groups, size, *a.shape[1:]), args)

    def one(part: Any) -> Any:
        op = hessian(loss, params, *part)
        return jax.lax.map(lambda v: sum(map(jnp.vdot, jax.tree.leaves(v), jax.tree.leaves(op(v)))), vectors)

    return jax.lax.map(one, parts)
