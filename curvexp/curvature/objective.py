"""What a loss is: a function of the parameters with its data and parts, and a mean whose weights are not the number of examples."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from curvexp.curvature.functions import Static, described
from curvexp.linalg.precision import full_precision
from curvexp.types import Params, Scalar


class Objective(NamedTuple):
    """A loss with all its data and its parts, as a function of the parameters: a pytree, so that under jit the data stays an argument.

    Attributes:
        loss: a jax.tree_util.Partial, (params, data) -> scalar.
        data: pytree; with `inputs` and `targets` where there is a model.
        model, criterion: Partials with loss = criterion(model(params, data.inputs), data.targets); None where the loss has no such form.
        log_likelihood: Static, the family of `curvexp.fisher` whose mean negative log-likelihood the criterion is; None: of none.

    >>> from jax.tree_util import Partial
    >>> objective = Objective(loss=Partial(lambda w, data: jnp.mean((w - data) ** 2)), data=jnp.array([1.0, 3.0]))
    >>> float(objective(jnp.array(2.0)))
    1.0
    """

    loss: jax.tree_util.Partial
    data: PyTree
    model: jax.tree_util.Partial | None = None
    criterion: jax.tree_util.Partial | None = None
    log_likelihood: Static | None = None

    @full_precision
    def __call__(self, params: Params) -> Scalar:
        """The loss at params; its products have all bits of their dtype."""
        return self.loss(params, self.data)


class WeightedMean(NamedTuple):
    """A loss as sum / weight, for a mean over something else than the examples: tokens that are no padding, say.

    A loss that returns a WeightedMean is the number sum / weight. Chunks of its examples then add up both, so that `chunk` is exact.

    Attributes:
        sum: scalar, the weighted sum over the examples. weight: scalar, the sum of the weights; a count may be an integer.

    >>> import jax.numpy as jnp, curvexp
    >>> def loss(w, inputs, mask):  # two sequences of three tokens, the second one with two of padding
    ...     return curvexp.WeightedMean(jnp.sum(mask * (w * inputs) ** 2), jnp.sum(mask))
    >>> inputs, mask = jnp.array([[1.0, 2, 3], [4, 0, 0]]), jnp.array([[1.0, 1, 1], [1, 0, 0]])
    >>> curvexp.hessian(loss, jnp.ones(()), inputs, mask, chunk=1).dense()  # 2 (1 + 4 + 9 + 16) / 4
    Array([[15.]], dtype=float32)
    """

    sum: Scalar
    weight: Scalar | Int[Array, ""]


Loss: TypeAlias = Callable[..., Any] | Objective  # (params, *args, **keywords) -> a real scalar, or a WeightedMean
WeightedCriterion: TypeAlias = Callable[[PyTree, PyTree], Scalar | WeightedMean]  # (outputs, targets) -> a mean


def number(value: Scalar | WeightedMean) -> Scalar:
    """The number that a loss's value stands for.

    >>> float(number(WeightedMean(6.0, 2))), number(3.0)
    (3.0, 3.0)
    """
    return jnp.divide(*sum_and_weight(value, 1)) if isinstance(value, WeightedMean) else value


def sum_and_weight(value: Scalar | WeightedMean, examples: int) -> tuple[Scalar, Scalar]:
    """A loss's value as the sum over its examples and the sum of their weights, 1 each where the loss is a plain mean.

    >>> [float(part) for part in sum_and_weight(jnp.array(3.0), examples=4)]
    [12.0, 4.0]
    """
    if isinstance(value, WeightedMean):
        weight = jnp.asarray(value.weight)
        return value.sum, weight if _is_real(weight) else weight.astype(jnp.result_type(value.sum, np.float32))
    return examples * value, jnp.full((), examples, value.dtype)


def check_value(value: Any, who: str, *, name: str = "loss") -> None:
    """Refuses a loss's value that is no real scalar.

    Args:
        value: what the loss returned, or its shapes. who, name: the function that was called and its parameter, for the message.

    >>> check_value(jnp.array(1.0), "hessian")
    >>> check_value(jnp.ones(2), "hessian")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    TypeError: hessian: the loss returned float32[2], expected one real number, ...
    """
    parts = value if isinstance(value, WeightedMean) else (value,)
    if all(_is_array(part) and jnp.shape(part) == () for part in parts) and (
        _is_real(parts[0]) and not any(jnp.issubdtype(part.dtype, jnp.complexfloating) for part in parts)
    ):
        return
    cure = "Return a scalar, for instance the mean over the examples."
    if isinstance(value, WeightedMean):
        cure = "Of a curvexp.WeightedMean the sum is a real number, and the weight a real number or a count."
    elif isinstance(value, tuple | list) and len(value) == 2:
        pair = "For (loss, auxiliary) pass has_aux=True" if name == "loss" else "Leave auxiliary values out"
        cure = f"{pair}; for a sum and its weight return curvexp.WeightedMean(sum, weight)."
    elif _is_array(value) and jnp.shape(value) == ():
        cure = "Take the real part of a complex number; a count or a truth value has no derivative."
    raise TypeError(
        f"{who}: the {name} returned {described(value)}, expected one real number, float32[] or float64[]. {cure}"
    )


def _is_array(value: object) -> bool:
    return jax.tree_util.all_leaves([value]) and hasattr(value, "dtype")


def _is_real(value: Array) -> bool:
    return bool(jnp.issubdtype(value.dtype, jnp.floating))
