"""A problem from a person's own model: its functions, a data set and a criterion.

    loss(params, data) = criterion(apply(params, data.inputs), data.targets)

The model takes all inputs of a batch at once, (P, ...), and its outputs have a row for each. The criterion is a mean over the examples.
"""

import math
from collections.abc import Callable, Sequence
from typing import cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree
from numpy.typing import DTypeLike

from curvexp import memory
from curvexp.errors import ConfigError
from curvexp.preprocess import RAW, Preprocess
from curvexp.problem import checks
from curvexp.problem.base import Examples, Known, Problem, checked_dtype
from curvexp.problem.data import Dataset
from curvexp.problem.frozen import freeze
from curvexp.problem.sharing import once, shared
from curvexp.problem.supervised import (
    FAMILIES,
    Prepared,
    binary_cross_entropy,
    prepare,
    softmax_cross_entropy,
    squared_error,
    supervised,
    takes_classes,
)
from curvexp.types import AnyArray, Criterion, Init, Model, Params, RandomKey

Start = Callable[[RandomKey, AnyArray], Params]  # (key, inputs of one example) -> parameters


def from_apply(
    init: Start,
    apply: Model,
    *,
    data: Dataset,
    criterion: str | Criterion = "auto",
    shape: Sequence[int] | None = None,
    frozen: Sequence[str] = (),
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """The problem of training a model that is two functions.

    Equal arguments give equal functions, so that programs are compiled once; of a lambda or a closure, give the same object.

    Args:
        init: (key, inputs) -> parameters, a pytree of real arrays; `inputs` is one example of zeros, (1, ...). They are cast to `dtype`.
        apply: (parameters, inputs) -> outputs, with a row for each example.
        data: a Dataset, of inputs (P, ...). Integer inputs (tokens) stay integers where preprocess=raw.
        criterion: cross_entropy | mse (½ mean over the examples of the squared distance to the one-hot or standardised targets) | auto,
            which is cross_entropy for classes; or a function (outputs, targets) -> mean over the examples, whose targets are integer
            classes (P,), or (P, C) standardised. Two classes may have one output, the logit of class 1.
        shape: of one example as the model takes it, such as (8, 8, 1): preprocessing acts on the columns (P, N) before; None leaves it.
        frozen: regular expressions; a parameter whose path, "layer/kernel", one matches as a whole stays at its value in
            init(jax.random.key(0), inputs), whatever the run's key, and is no parameter of the problem: None stands in its place.
        preprocess: raw; or of inputs (P, N) centered, normalized or whitened.
        dtype: of parameters and inputs.

    Raises:
        ConfigError: what does not fit together, before the model is run.

    >>> import jax.numpy as jnp
    >>> from curvexp import problem
    >>> def init(key, inputs):
    ...     return {"w": jnp.zeros((inputs.shape[1], 3))}
    >>> def apply(params, inputs):
    ...     return inputs @ params["w"]
    >>> wine = problem.from_apply(init, apply, data=problem.data.wine())
    >>> round(float(wine.loss(wine.init(jax.random.key(0)), wine.data)), 4)  # log 3
    1.0986
    >>> wine.log_likelihood
    'softmax'
    """
    start, model = shared("problem.init", init), shared("problem.apply", apply)
    return wrapped(
        "from_apply",
        start,
        model,
        data=data,
        criterion=criterion,
        shape=shape,
        frozen=frozen,
        preprocess=preprocess,
        dtype=dtype,
    )


def wrapped(
    name: str,
    start: Start,
    apply: Model,
    *,
    data: Dataset,
    criterion: str | Criterion,
    shape: Sequence[int] | None,
    frozen: Sequence[str],
    preprocess: Preprocess,
    dtype: DTypeLike,
) -> Problem:
    """The problem that `from_apply` and its like give, of functions that are the same objects for equal models."""
    dtype = checked_dtype(dtype)
    if preprocess.hidden is not None:
        raise ConfigError(
            f"preprocess={preprocess.name}: the hidden layers are the model's own; expected raw, centered, normalized or whitened. Change "
            "preprocess, or choose problem=mlp."
        )
    own = criterion if callable(criterion) else None
    as_classes = takes_classes("auto" if own else cast(str, criterion), data)
    prepared = _shaped(prepare(data, preprocess, dtype=dtype, as_classes=as_classes, any_inputs=True), shape)
    inputs, targets = prepared.train.inputs, prepared.train.targets
    if isinstance(frozen, str) or not isinstance(frozen, Sequence):
        raise ConfigError(f"problem.frozen={frozen}: expected a list of regular expressions. Change problem.frozen.")
    init, model = _init(start, inputs.shape[1:], inputs.dtype, dtype), apply
    outputs = jax.eval_shape(lambda key, inputs: apply(init(key), inputs), jax.random.key(0), _form(inputs))
    _check_outputs(outputs, len(inputs), dtype)
    chosen = shared("problem.criterion", own) if own else _criterion(outputs, prepared, as_classes)
    _check_value(jax.eval_shape(chosen, outputs, _form(targets)))
    if not _is_score(outputs, prepared.classes):
        prepared = prepared._replace(classes=None)  # there is no accuracy
    if frozen:
        init, model = _frozen(init, apply, tuple(frozen))
    size = sum(leaf.size for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))
    what = f"training {size} parameters, with gradient and momentum,"
    memory.check("problem", name, what, 4 * dtype.itemsize * size, "Choose a smaller model.")
    found = supervised(name, prepared, init=init, model=model, criterion=chosen, l2=0.0, batchnorm=None, known=Known())
    return found if chosen in FAMILIES else found._replace(lower_bound=None)


@once
def _init(start: Start, example: tuple[int, ...], kind: np.dtype, dtype: np.dtype) -> Init:
    """Initialization by the key alone. kind: the inputs' dtype."""

    def init(key: RandomKey) -> Params:
        params = start(key, jnp.zeros((1, *example), kind))
        _check_params(params)
        return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)

    return init


_frozen = once(freeze)


def _form(array: AnyArray) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(array.shape, array.dtype)


def _shaped(prepared: Prepared, shape: Sequence[int] | None) -> Prepared:
    """Each example in the shape that the model takes."""
    if shape is None:
        return prepared
    key, found = "problem.shape", prepared.train.inputs.shape[1:]
    if isinstance(shape, str) or not isinstance(shape, Sequence):
        raise ConfigError(f"{key}={shape}: expected a list of sizes such as [8,8,1]. Change {key}.")
    example = tuple(checks.whole(f"{key}[{i}]", size) for i, size in enumerate(shape))
    if math.prod(example) != math.prod(found):
        raise ConfigError(
            f"{key}={list(example)}: {math.prod(example)} numbers; expected {math.prod(found)}, those of an example. Change {key}."
        )
    train, test = (
        part and part._replace(inputs=part.inputs.reshape(-1, *example)) for part in (prepared.train, prepared.test)
    )
    return Prepared(cast(Examples, train), test, prepared.classes)


def _check_params(params: Params) -> None:
    leaves = jax.tree.leaves(params)
    kinds = {str(leaf.dtype) if hasattr(leaf, "dtype") else type(leaf).__name__ for leaf in leaves}
    wrong = sorted(kind for kind in kinds if not kind.startswith(("float", "bfloat")))
    if not leaves or wrong:
        what = f"of type {', '.join(wrong)}" if leaves else "none"
        raise ConfigError(
            f"problem: the model's parameters are {what}; expected real arrays. Let the model close over what is not trained."
        )


def _check_outputs(outputs: PyTree, examples: int, dtype: np.dtype) -> None:
    for leaf in jax.tree.leaves(outputs):
        if leaf.shape[:1] != (examples,):
            raise ConfigError(
                f"problem: the model's outputs have the shape {leaf.shape}; expected {examples} rows, one for each example. Let the model "
                "take a batch of inputs, (P, ...): by jax.vmap where it takes one."
            )
        if leaf.dtype != dtype:
            raise ConfigError(
                f"problem: the model's outputs are {leaf.dtype}; expected {dtype}, as precision says. Let the model compute in the dtype "
                "of its parameters, or change precision."
            )


def _criterion(outputs: PyTree, prepared: Prepared, as_classes: bool) -> Criterion:
    """The criterion by name, whose targets fit the model's outputs."""
    count = len(prepared.train.targets)
    wanted = (count, prepared.classes) if as_classes else prepared.train.targets.shape
    found = outputs.shape if hasattr(outputs, "shape") else jax.tree.structure(outputs)
    if as_classes and prepared.classes == 2 and found == (count, 1):
        return binary_cross_entropy
    if found != wanted:
        one = ", or one output, the logit of class 1" if as_classes and prepared.classes == 2 else ""
        raise ConfigError(
            f"problem: the model's outputs have the shape {found}; expected {wanted}{one}. Change the model's last layer, or give a "
            "function as problem.criterion."
        )
    return softmax_cross_entropy if as_classes else squared_error


def _check_value(value: PyTree) -> None:
    shape = getattr(value, "shape", None)
    if shape != () or not jnp.issubdtype(value.dtype, jnp.floating):
        what = type(value).__name__ if shape is None else f"{value.dtype} of shape {shape}"
        raise ConfigError(
            f"problem.criterion: it returns {what}; expected one real number, the mean over the examples. Change problem.criterion."
        )


def _is_score(outputs: PyTree, classes: int | None) -> bool:
    """Whether the outputs have a number for each class, or for two classes one, so that the largest tells the class."""
    shape: tuple[int, ...] = getattr(outputs, "shape", ())
    return classes is not None and len(shape) == 2 and (shape[1] == classes or (classes, shape[1]) == (2, 1))
