"""Predictive distributions that a model's outputs stand for: their scores, labels and curvature in the outputs."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree, Shaped

from curvexp.curvature.functions import described
from curvexp.types import AnyArray, RandomKey

Family = Literal["softmax", "bernoulli", "gaussian"]


def check_family(family: object) -> None:
    """Refuses a name that is no family.

    >>> check_family("poisson")
    Traceback (most recent call last):
    ValueError: log_likelihood='poisson': expected 'softmax', 'bernoulli' or 'gaussian'.
    """
    if family not in ("softmax", "bernoulli", "gaussian"):
        raise ValueError(f"log_likelihood={family!r}: expected 'softmax', 'bernoulli' or 'gaussian'.")


def check_outputs(outputs: PyTree, family: Family) -> None:
    """Refuses outputs that are no predictions of the family.

    Args:
        outputs: what the model returned, or its shape.

    >>> check_outputs(jnp.ones((4, 3)), "softmax")  # four examples of three classes
    """
    if not hasattr(outputs, "dtype") or not jnp.issubdtype(outputs.dtype, jnp.floating) or not outputs.shape:
        raise TypeError(f"fisher: the model returned {described(outputs)}, expected one floating array, (P, ..., C).")
    if family == "softmax" and (outputs.ndim == 1 or outputs.shape[-1] == 1):
        raise ValueError(
            f"log_likelihood='softmax': the model returned {described(outputs)}, one logit an example, which a softmax makes 1. Expected "
            "logits (P, ..., C) of C >= 2 classes; for one logit of two classes choose log_likelihood='bernoulli'; "
            "for one example alone give the inputs a leading axis."
        )


def predictions(outputs: Float[Array, "P ..."]) -> Float[Array, "P ... C"]:
    """Outputs as (P, ..., C): those of one number an example, as (P, 1).

    >>> predictions(jnp.ones(4)).shape, predictions(jnp.ones((4, 3))).shape
    ((4, 1), (4, 3))
    """
    return outputs[..., None] if outputs.ndim == 1 else outputs


def metric(
    outputs: Float[Array, "P ... C"], tangent: Float[Array, "P ... C"], family: Family
) -> Float[Array, "P ... C"]:
    """E_y[∇²(−log p)]·tangent in the outputs: diag(p) − pp' for softmax, p(1 − p) for Bernoulli, I for a unit normal.

    >>> metric(jnp.zeros((1, 2)), jnp.array([[1.0, 0.0]]), "softmax").tolist()  # (diag(p) − pp')(1, 0) at p = (½, ½)
    [[0.25, -0.25]]
    """
    if family == "softmax":
        p = jax.nn.softmax(outputs)
        # a contraction: XLA's CPU fuses jnp.sum(p * tangent) with the rest, which gave wrong numbers beyond 2^15 entries (jaxlib 0.10.2)
        return p * (tangent - jnp.einsum("...k,...k->...", p, tangent)[..., None])
    if family == "bernoulli":
        return jax.nn.sigmoid(outputs) * jax.nn.sigmoid(-outputs) * tangent
    return tangent


def sampled_scores(
    outputs: Float[Array, "P ... C"], key: RandomKey, *, samples: int, family: Family
) -> Float[Array, "P ... samples C"]:
    """∂(−log p)/∂outputs at labels drawn from the model's own distribution.

    >>> sampled_scores(jnp.zeros((4, 3)), jax.random.key(0), samples=2, family="gaussian").shape
    (4, 2, 3)
    """
    shape = (*outputs.shape[:-1], samples, outputs.shape[-1])
    if family == "gaussian":
        return -jax.random.normal(key, shape, outputs.dtype)
    if family == "bernoulli":
        p = jax.nn.sigmoid(outputs)[..., None, :]
        return p - jax.random.bernoulli(key, p, shape).astype(outputs.dtype)
    labels = jax.random.categorical(key, outputs[..., None, :], shape=shape[:-1])
    return jax.nn.softmax(outputs)[..., None, :] - jax.nn.one_hot(labels, shape[-1], dtype=outputs.dtype)


def label_scores(
    outputs: Float[Array, "P ... C"], targets: Shaped[AnyArray, "P ..."], family: Family
) -> Float[Array, "P ... 1 C"]:
    """∂(−log p)/∂outputs at the data's labels.

    Args:
        targets: softmax: integer classes (...), or distributions over the classes such as one-hot rows (..., C). bernoulli: 0 or 1, or
            probabilities, (..., C), or (...) where C = 1. gaussian: (..., C), or (...) where C = 1.

    Raises:
        ValueError: another shape; a class, a distribution or a probability out of its range. TypeError: classes that are no integers.
        Under jit values cannot be looked at: scores of labels out of range are nan.

    >>> label_scores(jnp.zeros((1, 2)), jnp.array([0]), "softmax").tolist()  # p − the class's row
    [[[-0.5, 0.5]]]
    """
    targets = jnp.asarray(targets)
    classes, shape = outputs.shape[-1], outputs.shape
    if family == "softmax" and targets.shape == shape[:-1]:
        if not jnp.issubdtype(targets.dtype, jnp.integer):
            raise TypeError(
                f"targets is {described(targets)}: expected integer classes {shape[:-1]}, or distributions over the classes {shape}."
            )
        valid = (targets >= 0) & (targets < classes)
        _look(valid, targets, f"an integer from 0 to {classes - 1}, a class. Leave padding out of the examples")
        aim = jax.nn.one_hot(targets, classes, dtype=outputs.dtype)
        valid = valid[..., None]
    elif targets.shape == shape or (classes == 1 and targets.shape == shape[:-1]):
        aim = targets.reshape(shape).astype(outputs.dtype)
        valid = jnp.isfinite(aim) if family == "gaussian" else (aim >= 0) & (aim <= 1)
        expected = "a finite number" if family == "gaussian" else "a probability, from 0 to 1"
        _look(valid, aim, expected)
        if family == "softmax":
            total = jnp.sum(aim, axis=-1, keepdims=True)
            valid &= jnp.abs(total - 1) < 1e-3
            _look(valid, jnp.broadcast_to(total, aim.shape), "a sum of 1 over the classes")
    else:
        expected = f"{shape}" if family != "softmax" else f"integer classes {shape[:-1]}, or distributions {shape}"
        raise ValueError(f"targets is {described(targets)}: expected {expected}, one for each prediction of the model.")
    mean = {"softmax": jax.nn.softmax, "bernoulli": jax.nn.sigmoid, "gaussian": lambda f: f}[family](outputs)
    return jnp.where(valid, mean - aim, jnp.nan)[..., None, :]


def _look(valid: Bool[Array, "..."], values: Shaped[Array, "..."], expected: str) -> None:
    """Refuses the first value that is not valid; looks at nothing under jit."""
    if isinstance(valid, jax.core.Tracer) or bool(jnp.all(valid)):
        return
    first = values.ravel()[int(jnp.argmin(valid.ravel()))]
    raise ValueError(f"targets has the entry {first}: expected {expected}.")
