"""The Hessian of a loss."""

import dataclasses
from typing import Any

from jaxtyping import PyTree

from curvexp.curvature.chunks import Chunked, check_chunk, checked
from curvexp.curvature.functions import arrays, bound
from curvexp.curvature.modes import FORWARD, Mode, loss_mode, returned, second_derivative
from curvexp.curvature.objective import Loss, WeightedMean, number
from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import space_of
from curvexp.types import Params, Scalar, Vector


def hessian(
    loss: Loss, params: Params, *args: Any, chunk: int | None = None, has_aux: bool = False, **keywords: Any
) -> Operator:
    """Hessian of `loss` at `params`: v -> ∂/∂ε ∇loss(params + εv), exact to rounding, 1 to 1.5 gradients each inside a loop.

    A loss that has no rule for forward mode (jax.custom_vjp, odeint) is differentiated in reverse twice: op.mode says so. The products
    are then as exact as the gradient that the rule states.

    The loss is read once, as jax.jit reads it: what changes from call to call must be an argument. Other numbers, arrays and functions in
    a closure's cells, or as attributes of the loss's object, are noticed. Not noticed are globals, entries of lists and dictionaries, and
    numpy arrays that were changed in place.

    Args:
        loss: loss(params, *args, **keywords) -> real scalar, or a WeightedMean; a function, or a jax.tree_util.Partial or another pytree
            that can be called, whose arrays then stay arguments of jit.
        params: pytree of real arrays; those of 16 bits are taken in float32, and so are then the vectors of the operator. What the loss
            itself casts to fewer bits stays its own.
        args: further arguments: arrays, numbers, data. What is no array and no number (True, text, None, a function) stays static.
        chunk: examples taken at once. The loss is then a mean over the examples, the leading axis of every array in `args`, and
            is computed in chunks whose weighted mean is the whole loss; memory is that of two chunks. The whole is compared with its
            chunks first, for about two gradients; under jit, where nothing can be raised, products of a loss that is no such mean are nan.
        has_aux: the loss returns (loss, auxiliary).
        keywords: arguments of the loss that are no examples.

    Raises:
        TypeError: integer or complex parameters; a loss that returns no real scalar, or that JAX cannot differentiate twice; an argument
            that is neither an array nor hashable.
        ValueError: no parameters; chunk below 1; a loss that is no mean over its chunks.

    >>> import jax.numpy as jnp, curvexp
    >>> def loss(w, x, power, *, scale):
    ...     return jnp.mean(scale * (x @ w) ** (4 if power == "quartic" else 2)), {"largest": jnp.max(x)}
    >>> curvexp.hessian(loss, jnp.ones(2), jnp.eye(2), "quartic", scale=2.0, has_aux=True).dense()
    Array([[12.,  0.],
           [ 0., 12.]], dtype=float32)
    """
    space_of(params)
    params = arrays(params)
    space = space_of(params)
    loss, args = bound(loss, args, keywords, has_aux=has_aux, name="loss")
    if chunk is not None:
        check_chunk(chunk, args)
    mode = loss_mode("hessian", HessianProduct, (loss, params, args), params)
    if chunk is None:
        return Operator(HessianProduct(mode), space, (loss, params, args))
    whole = checked(loss, params, args, chunk)
    sums = isinstance(returned(loss, params, args, "hessian"), WeightedMean)
    return Operator(Chunked(HessianProduct(mode, sums), chunk, sums), space, (loss, params, args, whole))


@dataclasses.dataclass(frozen=True)
class HessianProduct:
    """(loss, params, args), v -> ∇²loss·v; where `sums`, of the sum of the loss's WeightedMean.

    >>> import jax.numpy as jnp
    >>> HessianProduct()((lambda w: jnp.sum(w**3), jnp.array([1.0, 2.0]), ()), jnp.ones(2)).tolist()  # 6w
    [6.0, 12.0]
    """

    mode: Mode = FORWARD
    sums: bool = False

    def __call__(self, operands: PyTree, v: Vector) -> Vector:
        loss, params, args = operands

        def value(p: Params) -> Scalar:
            found = loss(p, *args)
            return found.sum if self.sums else number(found)

        return second_derivative(value, params, v, self.mode)
