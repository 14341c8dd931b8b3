"""Fisher information of a model, and the covariance of the single examples' gradients."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from curvexp.curvature.chunks import Chunked, check_chunk, checked, count_examples
from curvexp.curvature.functions import arrays, bound
from curvexp.curvature.likelihoods import (
    Family,
    check_family,
    check_outputs,
    label_scores,
    metric,
    predictions,
    sampled_scores,
)
from curvexp.curvature.modes import FORWARD, Mode, derivative, is_known, mode_of, returned
from curvexp.curvature.objective import WeightedCriterion, WeightedMean, check_value
from curvexp.curvature.operator import Operator
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import random_key, space_of
from curvexp.programs import compiled
from curvexp.types import KeyLike, Model, Params, Product, RandomKey, Scalar, Vector


@full_precision
def fisher(
    model: Model,
    log_likelihood: Family,
    params: Params,
    inputs: PyTree,
    *,
    kind: Literal["true", "sampled", "empirical"] = "true",
    targets: PyTree = None,
    samples: int = 1,
    key: KeyLike = None,
    chunk: int | None = None,
) -> Operator:
    """Fisher information of a model's predictive distribution, positive semidefinite: a mean over the predictions.

    A prediction is a row of C outputs, the last axis: outputs (P, C) are P of them, logits (P, T, C) of T tokens each are P·T, (P,) are P
    of one output. Over the C outputs of a prediction log-likelihoods add up. This is the mean that optax's losses take with .mean(); where
    some tokens are padding, take `ggn` with a criterion that returns a WeightedMean.

    Args:
        model: model(params, inputs) -> (P, ..., C).
        log_likelihood: what the outputs are. softmax: logits of C >= 2 classes. bernoulli: a logit for each of C labels that are 0 or
            1. gaussian: means of normals with unit variance, whose negative log-likelihood is half the squared error.
        inputs: array, or pytree of arrays.
        kind: true, E_y over the model's own distribution, exact; sampled, `samples` labels drawn from it for each prediction with `key`,
            unbiased; empirical, with the data's `targets`, which is no Fisher but the second moment of the predictions' gradients.
        targets: softmax: integer classes (P, ...), or distributions over the classes such as one-hot rows (P, ..., C). bernoulli and
            gaussian: (P, ..., C), or (P, ...) where C = 1.
        chunk: examples taken at once. A model that couples them (batch normalization) is refused.

    Raises:
        ValueError: a kind without what it needs; outputs or targets that do not fit the family; targets out of range.
        TypeError: outputs that are no floating array; classes that are no integers; a model that JAX cannot differentiate.

    Source: Martens 2020, sec. 9 to 11; Kunstner et al. 2019 on the empirical one.

    >>> import jax.numpy as jnp, curvexp
    >>> curvexp.fisher(lambda w, x: x @ w, "bernoulli", jnp.zeros(1), jnp.array([[1.0], [3.0]])).dense()  # mean of x²/4
    Array([[1.25]], dtype=float32)
    """
    check_family(log_likelihood)
    space_of(params)
    params = arrays(params)
    model, _ = bound(model, name="model")
    true: Callable[[Mode], Product] = functools.partial(TrueFisher, log_likelihood)
    if not is_known(true, (model, params, (inputs,))):
        check_outputs(returned(model, params, (inputs,), "fisher"), log_likelihood)
    if targets is not None and kind != "empirical":
        raise ValueError(
            f"fisher(kind={kind!r}) takes no targets=: labels are the model's own. For the data's take kind='empirical'."
        )
    if kind == "true":
        examples: PyTree = (inputs,)
        product = true
    elif kind == "sampled":
        if key is None:
            raise ValueError("fisher(kind='sampled') draws labels: expected key=jax.random.key(...).")
        if isinstance(samples, bool) or not isinstance(samples, int) or samples < 1:
            raise ValueError(f"samples={samples!r}: expected a positive integer, the labels drawn for each prediction.")
        examples = (inputs, _drawn(model, params, inputs, random_key(key), samples=samples, family=log_likelihood))
        product = ScoreProduct
    elif kind == "empirical":
        if targets is None:
            raise ValueError("fisher(kind='empirical') takes the data's labels: expected targets=.")
        examples = (inputs, label_scores(predictions(_outputs(model, params, inputs)), targets, log_likelihood))
        product = ScoreProduct
    else:
        raise ValueError(f"kind={kind!r}: expected 'true', 'sampled' or 'empirical'.")
    if chunk is not None:
        check_chunk(chunk, examples)
    mode = mode_of("fisher", product, (model, params, examples), params)
    if chunk is None:
        return Operator(product(mode), space_of(params), (model, params, examples))
    whole = checked(None, params, (inputs,), chunk, model=model)
    return Operator(Chunked(product(mode), chunk), space_of(params), (model, params, examples, whole))


def gradient_covariance(
    model: Model,
    criterion: WeightedCriterion,
    params: Params,
    inputs: PyTree,
    targets: PyTree,
) -> Operator:
    """Covariance of the single examples' gradients: their second moment less the outer product of their mean.

    Args:
        criterion: mean over the examples; each example's own loss is taken as criterion on that example alone.
        inputs, targets: arrays, or pytrees of arrays, whose leading axis is the examples.

    That the mean over two examples is the mean of both alone, and the model's outputs likewise, is measured first, as with `chunk`. Under
    jit, where nothing can be raised, products are nan where it does not hold.

    Raises:
        ValueError: arrays of unequal length; a model that couples the examples; a criterion that is no mean over them.
        TypeError: a criterion that returns no real scalar (nor is a WeightedMean one of examples), or that JAX cannot differentiate.

    Source: Jastrzębski et al. 2020, sec. 2.

    >>> import curvexp
    >>> loss = lambda outputs, targets: jnp.mean(outputs)  # of gradients 1 and 3
    >>> op = curvexp.gradient_covariance(lambda w, x: w * x, loss, jnp.ones(1), jnp.array([1.0, 3.0]), jnp.zeros(2))
    >>> op(jnp.ones(1)).tolist()
    [1.0]
    """
    space_of(params)
    params = arrays(params)
    head = (bound(model, name="model")[0], bound(criterion, name="criterion")[0])
    count = count_examples((inputs, targets), name="gradient_covariance")
    one = jax.tree_util.Partial(_own_loss, head)
    value = returned(one, params, jax.tree.map(lambda a: jnp.asarray(a)[0], (inputs, targets)), "gradient_covariance")
    check_value(value, "gradient_covariance", name="criterion")
    if isinstance(value, tuple):
        raise TypeError(
            "gradient_covariance: the criterion returned a WeightedMean, expected the mean over the examples."
        )
    args = (inputs, targets)
    mode = mode_of("gradient_covariance", CovarianceProduct, (head, params, args), params)
    whole = checked(
        jax.tree_util.Partial(_composed, head),
        params,
        args,
        1,
        model=head[0],
        name="gradient_covariance",
        at_once=count,
        cure="An example has no gradient of its own there. Freeze the statistics of the batch, and let the criterion be the mean over the "
        "examples.",
    )
    return Operator(CovarianceProduct(mode), space_of(params), (head, params, args, whole))


@dataclasses.dataclass(frozen=True)
class TrueFisher:
    """(model, params, (inputs,)), v -> J' E[∇²(−log p)] J v, over the number of predictions.

    >>> TrueFisher("gaussian")((lambda w, x: x @ w, jnp.ones(1), (jnp.array([[1.0], [3.0]]),)), jnp.ones(1)).tolist()
    [5.0]
    """

    family: Family
    mode: Mode = FORWARD

    def __call__(self, operands: PyTree, v: Vector) -> Vector:
        model, params, (inputs,) = operands
        forward = functools.partial(_outputs, model, inputs=inputs)
        outputs, tangent = derivative(forward, params, v, self.mode)
        rows, curved = predictions(outputs), metric(predictions(outputs), predictions(tangent), self.family)
        curved = curved / (rows.size // rows.shape[-1])
        return jax.vjp(forward, params)[1](curved.reshape(outputs.shape))[0]


@dataclasses.dataclass(frozen=True)
class ScoreProduct:
    """(model, params, (inputs, scores)), v -> mean of J's s'J v over predictions and samples; scores s (P, ..., samples, C).

    >>> scores = jnp.array([[[1.0]], [[2.0]]])  # two examples, a sample and an output each
    >>> ScoreProduct()((lambda w, x: x @ w, jnp.ones(1), (jnp.array([[1.0], [3.0]]), scores)), jnp.ones(1)).tolist()
    [18.5]
    """

    mode: Mode = FORWARD

    def __call__(self, operands: PyTree, v: Vector) -> Vector:
        model, params, (inputs, scores) = operands
        forward = functools.partial(_outputs, model, inputs=inputs)
        outputs, tangent = derivative(forward, params, v, self.mode)
        along = jnp.einsum("...sk,...k->...s", scores, predictions(tangent))
        weighted = jnp.einsum("...s,...sk->...k", along, scores) / (scores.size // scores.shape[-1])
        return jax.vjp(forward, params)[1](weighted.reshape(outputs.shape))[0]


@dataclasses.dataclass(frozen=True)
class CovarianceProduct:
    """((model, criterion), params, (inputs, targets)), v -> covariance of the examples' gradients times v; nan where a fourth entry, a
    Whole, says that the loss is no mean over the examples.

    >>> head = (lambda w, x: w * x, lambda outputs, targets: jnp.mean(outputs))
    >>> CovarianceProduct()((head, jnp.ones(1), (jnp.array([1.0, 3.0]), jnp.zeros(2))), jnp.ones(1)).tolist()
    [1.0]
    """

    mode: Mode = FORWARD

    def __call__(self, operands: PyTree, v: Vector) -> Vector:
        head, params, args, *whole = operands

        def each(p: Params) -> Any:
            return jax.vmap(lambda x, y: _own_loss(head, p, x, y))(*args)

        losses, tangent = derivative(each, params, v, self.mode)
        product = jax.vjp(each, params)[1]((tangent - tangent.mean()) / len(losses))[0]
        for found in whole:
            product = jax.tree.map(lambda leaf, found=found: jnp.where(found.valid, leaf, jnp.nan), product)
        return product


def _composed(
    head: tuple[Model, WeightedCriterion], params: Params, inputs: PyTree, targets: PyTree
) -> Scalar | WeightedMean:
    model, criterion = head
    return criterion(model(params, inputs), targets)


def _own_loss(head: tuple[Model, WeightedCriterion], params: Params, x: PyTree, y: PyTree) -> Scalar | WeightedMean:
    """The criterion on one example alone."""
    return _composed(head, params, *jax.tree.map(lambda a: jnp.asarray(a)[None], (x, y)))


def _outputs(model: Model, params: Params, inputs: PyTree) -> Float[Array, "P ..."]:
    return model(params, inputs)


@functools.partial(compiled, static=("samples", "family"))
@full_precision
def _drawn(
    model: Model, params: Params, inputs: PyTree, key: RandomKey, *, samples: int, family: Family
) -> Float[Array, "P ... samples C"]:
    return sampled_scores(predictions(model(params, inputs)), key, samples=samples, family=family)
