"""The Hessian of a loss."""

from typing import Any

import jax

from curvexp.curvature.chunks import Chunked, check_mean
from curvexp.curvature.functions import pytree_function
from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import space_of


def hessian(loss: Any, params: Any, *args: Any, chunk: int | None = None) -> Operator:
    """Hessian of `loss` at `params`: v -> ∂/∂ε ∇loss(params + εv), exact to rounding, 1 to 1.5 gradients each inside a loop.

    Args:
        loss: loss(params, *args) -> scalar; a function, or a jax.tree_util.Partial, whose arrays then stay arguments of jit.
        params: pytree of real arrays.
        args: further arguments: arrays, data.
        chunk: examples taken at once. The loss is then a mean over the examples, the leading axis of every array in `args`, and
            is computed in chunks whose weighted mean is the whole loss; memory is that of one chunk.

    Raises:
        TypeError: integer or complex parameters. ValueError: no parameters; chunk below 1; a loss that is no mean over its examples.
    """
    loss = pytree_function(loss)
    if chunk is None:
        return Operator(_hessian_product, space_of(params), (loss, params, args))
    check_mean(loss, params, args, chunk)
    return Operator(Chunked(_hessian_product, chunk), space_of(params), (loss, params, args))


def _hessian_product(operands: Any, v: Any) -> Any:
    loss, params, args = operands
    return jax.jvp(jax.grad(lambda p: loss(p, *args)), (params,), (v,))[1]
