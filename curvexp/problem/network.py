"""Networks of Flax Linen on a data set."""

import functools
import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PyTree
from numpy.typing import DTypeLike

from curvexp import memory
from curvexp.errors import ConfigError
from curvexp.preprocess import RAW, BatchNorm, Preprocess, standardize
from curvexp.problem import checks
from curvexp.problem.base import Known, Problem, checked_dtype
from curvexp.problem.data import Dataset
from curvexp.problem.supervised import Model, prepare, softmax_cross_entropy, squared_error, supervised, takes_classes
from curvexp.types import Init, Params, RandomKey

ACTIVATIONS = (
    *(
        "celu",
        "elu",
        "gelu",
        "hard_sigmoid",
        "hard_silu",
        "hard_tanh",
        "identity",
        "leaky_relu",
        "log_sigmoid",
        "mish",
        "relu",
    ),
    *("relu6", "selu", "sigmoid", "silu", "soft_sign", "softplus", "sparse_plus", "squareplus", "swish", "tanh"),
)


def mlp(
    *,
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
    data: Dataset,
    hidden: Sequence[int] = (32,),
    activation: str = "tanh",
    criterion: str = "auto",
    l2: float = 0.0,
    init_scale: float = 1.0,
) -> Problem:
    """A fully connected network on a data set, LeCun normal weights and zero biases at the start.

    With preprocess=batchnorm each hidden layer is activation(scale·standardized(Wx) + shift), without a bias beside W: it would be an exact
    null direction of the Hessian.

    Args:
        data: a Dataset.
        hidden: list of widths; [] is a linear model.
        activation: one of ACTIVATIONS, names of jax.nn, or tanh or identity.
        criterion: cross_entropy | mse (½ mean over the examples of the squared distance to the one-hot or standardised targets) | auto,
            which is cross_entropy for classes.
        l2: adds ½·l2·‖params‖² over all parameters; a part of the compiled program, unlike the data.
        init_scale: factor on all parameters at the start.
    """
    dtype = checked_dtype(dtype)
    if isinstance(hidden, str | int | float) or hidden is None:
        raise ConfigError(
            f"problem.hidden={hidden}: expected a list of widths such as [32] or [64,64]. Change problem.hidden."
        )
    widths = tuple(checks.whole(f"problem.hidden[{i}]", width) for i, width in enumerate(hidden))
    activation = checks.choice("problem.activation", activation, ACTIVATIONS)
    l2 = checks.number("problem.l2", l2, least=0)
    init_scale = checks.number("problem.init_scale", init_scale, above=0)
    as_classes = takes_classes(criterion, data)
    prepared = prepare(data, preprocess, dtype=dtype, as_classes=as_classes)
    outputs = data.classes if data.classes is not None else prepared.train.targets.shape[1]
    batchnorm = preprocess.hidden if widths else None
    sizes = (prepared.train.inputs.shape[1], *widths, outputs)
    parameters = sum((rows + 1) * columns for rows, columns in itertools.pairwise(sizes))
    what = f"training {parameters} parameters, with gradient and momentum,"
    memory.check("problem.hidden", list(widths), what, 4 * dtype.itemsize * parameters, "Lower problem.hidden.")
    network = Network(widths, outputs, activation, batchnorm, dtype)
    return supervised(
        "mlp",
        prepared,
        init=_init(network, prepared.train.inputs.shape[1], init_scale),
        model=_model(network),
        criterion=softmax_cross_entropy if as_classes else squared_error,
        l2=l2,
        batchnorm=batchnorm,
        known=Known(),
    )


class Network(nn.Module):
    """Dense layers with an activation, and batch normalization where asked for, between them."""

    hidden: tuple[int, ...]
    outputs: int
    activation: str
    batchnorm: BatchNorm | None
    dtype: np.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "P N"], *, rows: int | None = None) -> Float[Array, "P C"]:
        """`rows`: batch statistics from the first so many rows, see `standardize`."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, param_dtype=self.dtype)
        for width in self.hidden:
            x = dense(width, use_bias=self.batchnorm is None)(x)
            if self.batchnorm is not None:
                x = Normalization(self.batchnorm, self.dtype)(x, rows=rows)
            x = _activation(self.activation)(x)
        return dense(self.outputs)(x)


class Normalization(nn.Module):
    """scale·standardize(x) + shift, from scale 1 and shift 0 of each unit."""

    batchnorm: BatchNorm
    dtype: np.dtype

    @nn.compact
    def __call__(self, x: Float[Array, "P N"], *, rows: int | None = None) -> Float[Array, "P N"]:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],), self.dtype)
        shift = self.param("shift", nn.initializers.zeros, (x.shape[-1],), self.dtype)
        return scale * standardize(x, self.batchnorm, rows=rows) + shift


def _activation(name: str) -> Callable[[Float[Array, "..."]], Float[Array, "..."]]:
    if name == "identity":
        return lambda x: x
    return getattr(jax.nn, name)


@functools.cache
def _model(network: Network) -> Model:
    def model(params: Params, inputs: Float[Array, "P N"], *, rows: int | None = None) -> PyTree:
        return network.apply({"params": params}, inputs, rows=rows)

    return model


@functools.cache
def _init(network: Network, features: int, scale: float) -> Init:
    def init(key: RandomKey) -> Params:
        params = network.init(key, jnp.zeros((1, features), network.dtype))["params"]
        return params if scale == 1 else jax.tree.map(lambda leaf: scale * leaf, params)

    return init
