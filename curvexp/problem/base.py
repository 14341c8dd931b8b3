"""Problem: a loss to minimise, with its data and what is known of it exactly."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float64, PyTree, Real, Shaped
from numpy.typing import DTypeLike

from curvexp.errors import ConfigError
from curvexp.preprocess import BatchNorm
from curvexp.types import AnyArray, Criterion, Init, Model, Params, Scalar


class Known(NamedTuple):
    """What is known of a problem without training it.

    Attributes:
        eigenvalues: of the Hessian where it is constant, ascending.
        optimum: parameters at a minimum: the unique one, or the shortest of many.
        minimum: value of the loss there; -inf where the loss is unbounded below.
    """

    eigenvalues: Float64[np.ndarray, "n"] | None = None
    optimum: Params | None = None
    minimum: float | None = None


class Examples(NamedTuple):
    """A data set as a loss takes it."""

    inputs: Real[AnyArray, "P ..."]
    targets: Shaped[AnyArray, "P ..."]


class Problem(NamedTuple):
    """A loss, its data, and what is known of both.

    Functions are the same objects for every problem of the same structure, and all numbers are in `data`: so jax.jit compiles once for all
    seeds, condition numbers and preprocessings of the same shapes.

    Attributes:
        name: the option's name.
        init: key -> parameters.
        loss: (parameters, data) -> the mean over the examples.
        data: what `loss` takes: Examples; Quadratic; or () for a surface.
        examples: P, or None where `data` is no set of examples and has no minibatches.
        test: like `data`, or None.
        model, criterion: loss = criterion(model(parameters, inputs), targets), or None where the loss has no such form.
        evaluate: (parameters, data, test or None) -> {name: scalar}, can be jitted; or None.
        known: what is known exactly.
        lower_bound: a value that the loss cannot go below, where the minimum is unknown.
        notes: what a reader of the results should know.
        batchnorm: how batch statistics enter the loss, or None where they do not; where they do, the examples of a batch are coupled and
            a mean over chunks is another loss.
        log_likelihood: softmax | bernoulli | gaussian, the family of `curvexp.fisher` whose mean negative log-likelihood the criterion is,
            up to a constant; None where it is of none of them: then the problem has no Fisher information.
    """

    name: str
    init: Init
    loss: Callable[[Params, PyTree], Scalar]
    data: PyTree
    examples: int | None = None
    test: PyTree = None
    model: Model | None = None
    criterion: Criterion | None = None
    evaluate: Callable[[Params, PyTree, PyTree], dict[str, Scalar]] | None = None
    known: Known = Known()
    lower_bound: float | None = None
    notes: tuple[str, ...] = ()
    batchnorm: BatchNorm | None = None
    log_likelihood: str | None = None


def checked_dtype(dtype: DTypeLike) -> np.dtype:
    """The numpy dtype of the parameters, float32 or float64; float64 needs JAX's 64-bit mode."""
    found = np.dtype(dtype)
    if found not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ConfigError(f"precision={found}: expected float32 or float64. Change precision.")
    if found == np.float64 and jax.dtypes.canonicalize_dtype(found) != found:
        raise ConfigError(
            "precision=float64: JAX's 64-bit mode is off. Call jax.config.update('jax_enable_x64', True) first."
        )
    return found
