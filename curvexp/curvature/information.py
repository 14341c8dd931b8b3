"""Fisher information of a model, and the covariance of the single examples' gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from curvexp.curvature.chunks import Chunked
from curvexp.curvature.functions import pytree_function
from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import space_of


def fisher(
    model: Callable[..., Any],
    log_likelihood: Literal["softmax", "gaussian"],
    params: Any,
    inputs: Any,
    *,
    kind: Literal["true", "sampled", "empirical"] = "true",
    targets: Any = None,
    samples: int = 1,
    key: Any = None,
    chunk: int | None = None,
) -> Operator:
    """Fisher information of a model's predictive distribution, a mean over the examples; positive semidefinite.

    Args:
        model: model(params, inputs) -> (P, K): logits for "softmax"; means of a unit-variance normal for "gaussian" (½ squared error).
        inputs: (P, ...).
        kind: true, E_y over the model's own distribution, exact; sampled, `samples` labels drawn from it for each example with `key`,
            unbiased; empirical, with the data's `targets` ((P,) integer, or (P, K)), which is no Fisher but the second moment of the
            examples' gradients.
        chunk: examples taken at once.

    Raises:
        ValueError: a kind without what it needs.

    Source: Martens 2020, sec. 9 to 11; Kunstner et al. 2019 on the empirical one.
    """
    if log_likelihood not in ("softmax", "gaussian"):
        raise ValueError(f"log_likelihood={log_likelihood!r}: expected 'softmax' or 'gaussian'.")
    bound = pytree_function(model)
    if kind == "true":
        examples: Any = (inputs,)
        product: Callable[[Any, Any], Any] = _TrueFisher(log_likelihood)
    elif kind == "sampled":
        if key is None:
            raise ValueError("fisher(kind='sampled') draws labels: expected key=jax.random.key(...).")
        examples = (inputs, _scores(bound, params, inputs, key, samples=samples, family=log_likelihood))
        product = _outer_product
    elif kind == "empirical":
        if targets is None:
            raise ValueError("fisher(kind='empirical') takes the data's labels: expected targets=.")
        outputs = bound(params, inputs)
        at = jax.nn.one_hot(targets, outputs.shape[-1]) if log_likelihood == "softmax" else targets
        mean = jax.nn.softmax(outputs) if log_likelihood == "softmax" else outputs
        examples = (inputs, (mean - at)[:, None])
        product = _outer_product
    else:
        raise ValueError(f"kind={kind!r}: expected 'true', 'sampled' or 'empirical'.")
    if chunk is not None:
        product = Chunked(product, chunk)
    return Operator(product, space_of(params), (bound, params, examples))


def gradient_covariance(
    model: Callable[..., Any],
    criterion: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    targets: Any,
) -> Operator:
    """Covariance of the single examples' gradients: their second moment less the outer product of their mean.

    Args:
        criterion: mean over the examples; each example's own loss is taken as criterion on that example alone.

    Source: Jastrzębski et al. 2020, sec. 2.
    """
    head = (pytree_function(model), pytree_function(criterion))
    return Operator(_covariance_product, space_of(params), (head, params, (inputs, targets)))


@dataclasses.dataclass(frozen=True)
class _TrueFisher:
    """J' E[∇²(−log p)] J: diag(p) − pp' for softmax, I for a unit normal, over the number of examples."""

    family: str

    def __call__(self, operands: Any, v: Any) -> Any:
        model, params, (inputs,) = operands
        outputs, tangent = jax.jvp(lambda p: model(p, inputs), (params,), (v,))
        if self.family == "softmax":
            p = jax.nn.softmax(outputs)
            tangent = p * (tangent - jnp.sum(p * tangent, axis=-1, keepdims=True))
        return jax.vjp(lambda p: model(p, inputs), params)[1](tangent / len(inputs))[0]


def _outer_product(operands: Any, v: Any) -> Any:
    """Mean over examples and samples of J's s'J v, with the scores s = ∂(−log p)/∂outputs, (P, samples, K)."""
    model, params, (inputs, scores) = operands
    _, tangent = jax.jvp(lambda p: model(p, inputs), (params,), (v,))
    along = jnp.einsum("psk,pk->ps", scores, tangent)
    weighted = jnp.einsum("ps,psk->pk", along, scores) / (scores.shape[0] * scores.shape[1])
    return jax.vjp(lambda p: model(p, inputs), params)[1](weighted)[0]


@functools.partial(jax.jit, static_argnames=("samples", "family"))
def _scores(model: Any, params: Any, inputs: Any, key: Any, *, samples: int, family: str) -> Any:
    outputs = model(params, inputs)
    shape = (outputs.shape[0], samples, outputs.shape[-1])
    if family == "gaussian":
        return -jax.random.normal(key, shape, outputs.dtype)
    labels = jax.random.categorical(key, outputs[:, None, :], shape=shape[:2])
    return jax.nn.softmax(outputs)[:, None] - jax.nn.one_hot(labels, shape[-1], dtype=outputs.dtype)


def _covariance_product(operands: Any, v: Any) -> Any:
    (model, criterion), params, (inputs, targets) = operands

    def each(p: Any) -> Any:
        one = jax.vmap(lambda x, y: criterion(model(p, x[None]), y[None]))
        return one(inputs, targets)

    losses, tangent = jax.jvp(each, (params,), (v,))
    return jax.vjp(each, params)[1]((tangent - tangent.mean()) / len(losses))[0]
