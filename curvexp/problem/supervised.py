"""Supervised learning: a data set, preprocessed, with a model and a criterion on its outputs."""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Shaped

from curvexp.errors import ConfigError
from curvexp.preprocess import BatchNorm, Preprocess
from curvexp.problem import checks
from curvexp.problem.base import Examples, Known, Problem
from curvexp.problem.data import Dataset, checked
from curvexp.types import AnyArray, Criterion, Init, Model, Params, Scalar


def squared_error(outputs: Float[Array, "P C"], targets: Float[Array, "P C"]) -> Scalar:
    """½ mean over the examples of the squared distance between outputs and targets."""
    return jnp.mean(jnp.sum(optax.losses.l2_loss(outputs, targets), axis=-1))


def softmax_cross_entropy(outputs: Float[Array, "P C"], targets: Int[Array, "P"]) -> Scalar:
    """Mean over the examples of −log softmax(outputs)[target]."""
    return jnp.mean(optax.losses.softmax_cross_entropy_with_integer_labels(outputs, targets))


def binary_cross_entropy(outputs: Float[Array, "P 1"], targets: Int[Array, "P"]) -> Scalar:
    """Mean over the examples of −log σ(z) where the target is 1, −log σ(−z) where it is 0.

    One logit z an example.
    """
    return jnp.mean(optax.losses.sigmoid_binary_cross_entropy(outputs[:, 0], targets))


FAMILIES: dict[Criterion, str] = {  # whose mean negative log-likelihood a criterion is
    softmax_cross_entropy: "softmax",
    binary_cross_entropy: "bernoulli",
    squared_error: "gaussian",
}


class Prepared(NamedTuple):
    """A data set ready for a loss: preprocessed in float64, then cast.

    Attributes:
        train, test: Examples of numpy arrays; test is None where the data has none. Targets: int32 classes (P,), or (P, C) of the
            parameters' dtype: one-hot classes, or regression targets standardised by the training targets' mean and deviation.
        classes: number of classes, or None for regression.
    """

    train: Examples
    test: Examples | None
    classes: int | None


def takes_classes(criterion: str, data: Dataset) -> bool:
    """Whether a criterion, cross_entropy | mse | auto, takes integer classes as targets; auto is cross_entropy for classes.

    Raises:
        ConfigError: another name, or cross_entropy of data without classes.
    """
    criterion = checks.choice("problem.criterion", criterion, ("auto", "cross_entropy", "mse"))
    classes = getattr(data, "classes", None)
    if criterion == "cross_entropy" and classes is None:
        raise ConfigError(
            f"problem.criterion=cross_entropy: problem.data={getattr(data, 'name', data)} has no classes. Choose "
            "problem.criterion=mse or other data."
        )
    return classes is not None and criterion != "mse"


def prepare(
    data: Dataset, preprocess: Preprocess, *, dtype: np.dtype, as_classes: bool, any_inputs: bool = False
) -> Prepared:
    """The data set with `preprocess` fitted on its training inputs and applied to all, in `dtype`.

    Args:
        as_classes: integer targets for a cross-entropy; else real ones for squared errors.
        any_inputs: inputs may have any shape (P, ...), and where nothing is done to them integers (tokens) stay integers, as int32; else
            inputs are (P, N) and become numbers of `dtype`.

    Raises:
        ConfigError: data that is empty, not finite, constant, or of inconsistent shapes.
    """
    data = checked(data)
    raw = any_inputs and preprocess.name == "raw"
    if data.inputs.ndim != 2 and not raw:
        cure = "Choose preprocess=raw, or data of columns (P, N) with the model's problem.shape." if any_inputs else ""
        raise ConfigError(
            f"problem.data={data.name}, preprocess={preprocess.name}: inputs of shape {data.inputs.shape}; expected columns, (P, N). "
            + (cure or "Flatten each example, or choose problem=from_flax or the like.")
        )
    parts = [part for part in (data.inputs, data.test_inputs) if part is not None]
    integers = raw and all(part.dtype.kind in "iu" for part in parts)
    kind = np.dtype(np.int32) if integers else dtype
    if integers and max(int(np.abs(part).max()) for part in parts) > np.iinfo(kind).max:
        raise ConfigError(
            f"problem.data={data.name}: whole numbers beyond {kind} among the inputs. Give them as float64."
        )
    if as_classes:
        targets: Callable[[np.ndarray], np.ndarray] = lambda t: t.astype(np.int32)  # noqa: E731
    elif data.classes is not None:
        classes = np.arange(data.classes)
        targets = lambda t: (np.asarray(t)[:, None] == classes).astype(dtype)  # noqa: E731
    else:
        mean, deviation = data.targets.mean(axis=0), data.targets.std(axis=0)
        targets = lambda t: ((t - mean) / deviation).astype(dtype)  # noqa: E731
    transform = preprocess.fit(data.inputs)

    def examples(inputs: np.ndarray, raw_targets: np.ndarray) -> Examples:
        with np.errstate(over="ignore"):
            cast = transform(inputs).astype(kind)
        if not np.isfinite(cast).all():
            raise ConfigError(
                f"problem.data={data.name}: the inputs are not finite in {dtype} after preprocess={preprocess.name}. Choose "
                "precision=float64 or another preprocess."
            )
        return Examples(cast, targets(raw_targets))

    train = examples(data.inputs, data.targets)
    test = None
    if data.test_inputs is not None and data.test_targets is not None:
        test = examples(data.test_inputs, data.test_targets)
    return Prepared(train, test, data.classes)


def supervised(
    name: str,
    prepared: Prepared,
    *,
    init: Init,
    model: Model,
    criterion: Criterion,
    l2: float,
    batchnorm: BatchNorm | None,
    known: Known,
    notes: tuple[str, ...] = (),
) -> Problem:
    """The Problem of minimising criterion(model) + ½·l2·‖params‖² on the training examples."""
    data: Examples = jax.device_put(prepared.train)
    split = l2 == 0
    return Problem(
        name,
        init=init,
        loss=_loss(model, criterion, l2),
        data=data,
        examples=len(data.inputs),
        test=jax.device_put(prepared.test),
        model=model if split else None,
        criterion=criterion if split else None,
        evaluate=_evaluate(model, criterion, prepared.classes is not None, batchnorm),
        known=known,
        lower_bound=0.0,
        notes=notes + ((f"batchnorm: {batchnorm}, epsilon {batchnorm.epsilon:g}",) if batchnorm else ()),
        batchnorm=batchnorm,
        log_likelihood=FAMILIES.get(criterion) if split else None,
    )


@functools.cache
def _loss(model: Model, criterion: Criterion, l2: float) -> Callable[[Params, Examples], Scalar]:
    def loss(params: Params, data: Examples) -> Scalar:
        value = criterion(model(params, data.inputs), data.targets)
        if l2:
            value += 0.5 * l2 * sum(jnp.vdot(leaf, leaf) for leaf in jax.tree.leaves(params))
        return value

    return loss


@functools.cache
def _evaluate(
    model: Model, criterion: Criterion, classes: bool, batchnorm: BatchNorm | None
) -> Callable[[Params, Examples, Examples | None], dict[str, Scalar]]:
    def evaluate(params: Params, data: Examples, test: Examples | None) -> dict[str, Scalar]:
        found = {}
        if classes:
            found["accuracy"] = accuracy(model(params, data.inputs), data.targets)
        if test is None:
            return found
        if batchnorm is None:
            outputs = model(params, test.inputs)
        else:  # the training set's own statistics: exact, where running averages would lag
            rows = len(data.inputs)
            outputs = model(params, jnp.concatenate([data.inputs, test.inputs]), rows=rows)[rows:]
        found["test_loss"] = criterion(outputs, test.targets)
        if classes:
            found["test_accuracy"] = accuracy(outputs, test.targets)
        return found

    return evaluate


def accuracy(outputs: Float[Array, "... C"], targets: Shaped[AnyArray, "..."]) -> Scalar:
    """Share of the examples whose own class has the largest output, the first of equal ones; NaN outputs are wrong."""
    if outputs.shape[-1] == 1:
        return jnp.mean((outputs[..., 0] > 0) == targets.reshape(outputs.shape[:-1]), dtype=outputs.dtype)
    classes = (targets if targets.ndim < outputs.ndim else jnp.argmax(targets, axis=-1))[..., None]
    own = jnp.take_along_axis(
        outputs, classes, axis=-1
    )  # a quarter of the time of argmax on a CPU, which is a tenth of a small step
    index = jnp.arange(outputs.shape[-1])
    return jnp.mean(jnp.where(index < classes, outputs < own, outputs <= own).all(axis=-1), dtype=outputs.dtype)
