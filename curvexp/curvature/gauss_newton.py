"""The generalized Gauss-Newton matrix of a criterion on a model's outputs."""

from collections.abc import Callable
from typing import Any

import jax

from curvexp.curvature.chunks import Chunked, check_mean
from curvexp.curvature.functions import pytree_function
from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import space_of


def ggn(
    model: Callable[..., Any],
    criterion: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    targets: Any,
    *,
    chunk: int | None = None,
) -> Operator:
    """Generalized Gauss-Newton matrix J'(∇²c)J of criterion(model(params, inputs), targets).

    Positive semidefinite where the criterion is convex. Args as for `hessian`.

    Source: Schraudolph 2002, sec. 3.
    """
    head = (pytree_function(model), pytree_function(criterion))
    if chunk is None:
        return Operator(_ggn_product, space_of(params), (head, params, (inputs, targets)))
    check_mean(jax.tree_util.Partial(_composed, head), params, (inputs, targets), chunk)
    return Operator(Chunked(_ggn_product, chunk), space_of(params), (head, params, (inputs, targets)))


def _ggn_product(operands: Any, v: Any) -> Any:
    (model, criterion), params, (inputs, targets) = operands

    def forward(p: Any) -> Any:
        return model(p, inputs)

    outputs, tangent = jax.jvp(forward, (params,), (v,))
    curved = jax.jvp(jax.grad(lambda f: criterion(f, targets)), (outputs,), (tangent,))[1]
    return jax.vjp(forward, params)[1](curved)[0]


def _composed(head: Any, params: Any, inputs: Any, targets: Any) -> Any:
    model, criterion = head
    return criterion(model(params, inputs), targets)
