"""Curvature of a sample of the examples, with its standard error."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvexp.curvature.chunks import checked, count_examples
from curvexp.curvature.functions import arrays, bound, is_traced
from curvexp.curvature.hessians import HessianProduct
from curvexp.curvature.modes import loss_mode, returned
from curvexp.curvature.objective import Loss, WeightedMean
from curvexp.curvature.operator import Operator
from curvexp.linalg import Estimate
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import space_of
from curvexp.programs import compiled
from curvexp.types import Params, Vector


def sampling_error(
    loss: Loss,
    params: Params,
    *args: Any,
    vectors: PyTree[Float[Array, "m ..."]],
    groups: int = 20,
    population: int | None = None,
    has_aux: bool = False,
    **keywords: Any,
) -> Estimate:
    """v'Hv over a sample of the examples, for each of some vectors, with its standard error as an estimate of that over all examples.

    From the spread of v'Hv over groups of the sample, which need not be as many as examples: a product a group and vector. Groups are
    successive examples, of sizes that differ by one at most; each counts by its size, and the squared standard error is unbiased. For v an
    eigenvector of the sample's own Hessian this is the noise of its eigenvalue; the largest eigenvalue of a sample is biased upwards
    besides, as it is the largest of noisy ones.

    Args:
        loss, params, args, has_aux, keywords: as for `hessian`: the mean over the examples, the leading axis of every array in `args`.
        vectors: pytree of unit vectors, each leaf with a leading axis m.
        groups: 2 at least, and no more than examples.
        population: examples that the sample was drawn from, without replacement; None: infinitely many.

    Returns:
        mean, stderr of each vector; under jit nan for a loss that is no mean over its groups, as nothing can be raised there.

    Raises:
        ValueError: groups below 2, or more than examples; a population smaller than the sample; a loss that is no mean over its groups.
        TypeError: a WeightedMean, whose weights are no numbers of examples; and as for `hessian`.

    Source: Cochran 1977, sec. 2.4 (the finite population correction), 2.9 and 2.14: with sizes n_g, means m_g and their mean m, the
    expectation of Σ n_g (m_g − m)² is (groups − 1)·S², S² the variance of single examples.

    >>> import curvexp
    >>> loss, x = lambda w, x: jnp.mean(x * w**2), jnp.array([1.0, 1.0, 3.0, 3.0])  # w'' of single examples: 2, 2, 6, 6
    >>> found = curvexp.sampling_error(loss, jnp.ones(()), x, vectors=jnp.ones(1), groups=2)
    >>> found.mean.tolist(), found.stderr.tolist()
    ([4.0], [2.0])
    """
    space_of(params)
    params = arrays(params)
    loss, args = bound(loss, args, keywords, has_aux=has_aux, name="loss")
    count = count_examples(args, name="sampling_error")
    if isinstance(groups, bool) or not isinstance(groups, int) or not 2 <= groups <= count:
        raise ValueError(f"groups={groups!r}: expected an integer from 2 to {count}, the number of examples.")
    if population is not None and population < count:
        raise ValueError(f"population={population!r}: expected at least {count}, the size of the sample.")
    mode = loss_mode("sampling_error", HessianProduct, (loss, params, args), params)
    if isinstance(returned(loss, params, args, "sampling_error"), WeightedMean):
        raise TypeError("sampling_error: the loss returned a WeightedMean, expected the mean over the examples.")
    whole = checked(loss, params, args, count // groups, name="examples of a group")
    op = Operator(HessianProduct(mode), space_of(params), (loss, params, args))
    found = spread_over_groups(op, vectors=vectors, groups=groups, population=population)
    if not is_traced(found):
        return found
    return found._replace(
        **{name: jnp.where(whole.valid, getattr(found, name), jnp.nan) for name in ("mean", "stderr")}
    )


def spread_over_groups(
    op: Operator, *, vectors: PyTree[Float[Array, "m ..."]], groups: int, population: int | None
) -> Estimate:
    """`sampling_error` of an operator that is a mean over the examples: a Hessian, GGN or Fisher without `chunk`.

    Args:
        op: its operands are (function, params, examples), the examples' leading axis the same in every array.
        vectors, groups, population: as for `sampling_error`, checked there.

    >>> op = Operator(lambda operands, v: jnp.mean(operands[2]) * v, space_of(jnp.zeros(1)), (None, None, jnp.array([2.0, 6.0])))
    >>> found = spread_over_groups(op, vectors=jnp.ones((1, 1)), groups=2, population=None)
    >>> found.mean.tolist(), found.stderr.tolist()
    ([4.0], [2.0])
    """
    count = count_examples(op.operands[2], name="sampling_error")
    forms = _quadratic_forms(op, vectors, groups=groups)
    if not is_traced(forms):
        forms = np.asarray(forms, np.float64)
    sizes = np.full((groups, 1), count // groups)
    sizes[: count % groups] += 1
    mean = (sizes * forms).sum(axis=0) / count
    variance = (sizes * (forms - mean) ** 2).sum(axis=0) / (groups - 1)
    left = 1.0 if population is None else 1 - count / population
    return Estimate(mean, (variance * left / count) ** 0.5, forms.shape[1])


@functools.partial(compiled, static=("groups",))
@full_precision
def _quadratic_forms(op: Operator, vectors: PyTree[Float[Array, "m ..."]], *, groups: int) -> Float[Array, "groups m"]:
    """v'A_g v; the first groups have one example more, where the division has a remainder."""
    function, params, args = op.operands
    size, more = divmod(count_examples(args), groups)

    def forms(part: PyTree) -> Float[Array, "m"]:
        own = dataclasses.replace(op, operands=(function, params, part))

        def along(v: Vector) -> Any:
            return sum(map(jnp.vdot, jax.tree.leaves(v), jax.tree.leaves(own(v))))

        return jax.lax.map(along, vectors)

    def of(first: int, number: int, size: int) -> Float[Array, "groups m"]:
        """Of `number` groups of `size` examples from the example `first` on."""
        rows = slice(first, first + number * size)
        return jax.lax.map(forms, jax.tree.map(lambda a: a[rows].reshape(number, size, *a.shape[1:]), args))

    parts = [of(0, more, size + 1)] if more else []
    return jnp.concatenate([*parts, of(more * (size + 1), groups - more, size)])
