"""The generalized Gauss-Newton matrix of a criterion on a model's outputs."""

import dataclasses

import jax
from jaxtyping import PyTree

from curvexp.curvature.chunks import Chunked, check_chunk, checked
from curvexp.curvature.functions import arrays, bound
from curvexp.curvature.modes import FORWARD, Mode, derivative, is_known, mode_of, returned, second_derivative
from curvexp.curvature.objective import WeightedCriterion, WeightedMean, check_value, number
from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import space_of
from curvexp.types import Model, Params, Scalar, Vector


def ggn(
    model: Model,
    criterion: WeightedCriterion,
    params: Params,
    inputs: PyTree,
    targets: PyTree,
    *,
    chunk: int | None = None,
) -> Operator:
    """Generalized Gauss-Newton matrix J'(∇²c)J of criterion(model(params, inputs), targets).

    Positive semidefinite where the criterion is convex. Args as for `hessian`; the criterion may return a WeightedMean. With `chunk` the
    model's outputs, too, are compared with those of the chunks: an axis of each array is the examples.

    Source: Schraudolph 2002, sec. 3.

    >>> import jax.numpy as jnp, curvexp
    >>> half_square = lambda outputs, targets: jnp.mean((outputs - targets) ** 2) / 2
    >>> op = curvexp.ggn(lambda w, x: w * x, half_square, jnp.ones(1), jnp.array([1.0, 3.0]), jnp.zeros(2))
    >>> op(jnp.ones(1)).tolist()  # the mean of x²
    [5.0]
    """
    space_of(params)
    params = arrays(params)
    (model, _), (criterion, _) = bound(model, name="model"), bound(criterion, name="criterion")
    head, args = (model, criterion), (inputs, targets)
    composed = jax.tree_util.Partial(_composed, head)
    if chunk is not None:
        check_chunk(chunk, args)
    if not is_known(GgnProduct, (head, params, args)):
        check_value(returned(composed, params, args, "ggn"), "ggn", name="criterion")
    mode = mode_of("ggn", GgnProduct, (head, params, args), params)
    if chunk is None:
        return Operator(GgnProduct(mode), space_of(params), (head, params, args))
    sums = isinstance(returned(composed, params, args, "ggn"), WeightedMean)
    whole = checked(composed, params, args, chunk, model=model)
    return Operator(Chunked(GgnProduct(mode, sums), chunk, sums), space_of(params), (head, params, args, whole))


@dataclasses.dataclass(frozen=True)
class GgnProduct:
    """((model, criterion), params, (inputs, targets)), v -> J'(∇²c)J v; where `sums`, of the sum of the criterion's WeightedMean.

    >>> GgnProduct().mode, GgnProduct() == GgnProduct()  # equal products share compiled programs
    ('forward over reverse', True)
    """

    mode: Mode = FORWARD
    sums: bool = False

    def __call__(self, operands: PyTree, v: Vector) -> Vector:
        (model, criterion), params, (inputs, targets) = operands

        def forward(p: Params) -> PyTree:
            return model(p, inputs)

        def value(outputs: PyTree) -> Scalar:
            found = criterion(outputs, targets)
            return found.sum if self.sums else number(found)

        outputs, tangent = derivative(forward, params, v, self.mode)
        return jax.vjp(forward, params)[1](second_derivative(value, outputs, tangent, self.mode))[0]


def _composed(
    head: tuple[Model, WeightedCriterion], params: Params, inputs: PyTree, targets: PyTree
) -> Scalar | WeightedMean:
    model, criterion = head
    return criterion(model(params, inputs), targets)
