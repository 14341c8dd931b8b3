"""One small network, written with each library, as several test files build it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import nnx

from curvexp import preprocess, problem
from curvexp.problem.data import Dataset, gaussian

KEY = jax.random.key(0)
EXACT = 1e-12  # relative to the largest entry: roundings of sums of some tens of float64 products, each of 1e-16


class Linen(nn.Module):
    outputs: int
    width: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs, name="last")(nn.tanh(nn.Dense(self.width, name="first")(x)))


class Nnx(nnx.Module):
    def __init__(self, outputs, width=3, *, rngs):
        self.first = nnx.Linear(4, width, rngs=rngs)
        self.last = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.tanh(self.first(x)))


def start(key, inputs, *, outputs, width=3):
    keys = jax.random.split(key)
    sizes = {"first": (inputs.shape[1], width), "last": (width, outputs)}
    return {
        name: {"kernel": jax.random.normal(k, shape), "bias": jnp.zeros(shape[1])}
        for k, (name, shape) in zip(keys, sizes.items(), strict=True)
    }


def by_hand(params, x):
    """The network that all of them are."""
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"]


def tiny(classes: int | None = 3) -> Dataset:
    return gaussian(samples=24, features=4, classes=classes, condition_number=4.0)


WRAPPERS = {
    "from_apply": lambda outputs: functools.partial(
        problem.from_apply, functools.partial(start, outputs=outputs), by_hand
    ),
    "from_flax": lambda outputs: functools.partial(problem.from_flax, Linen(outputs)),
    "from_nnx": lambda outputs: functools.partial(problem.from_nnx, functools.partial(Nnx, outputs)),
}
FAMILIES = {"softmax": (3, 3), "bernoulli": (2, 1), "gaussian": (None, 1)}  # classes of the data, outputs of the model


def build(wrapper, family="softmax", **options):
    classes, outputs = FAMILIES[family]
    options = {"preprocess": preprocess.normalized(), "dtype": jnp.float64} | options
    return WRAPPERS[wrapper](outputs)(data=tiny(classes), **options)


def inside(made):
    """Parameters of the problem's shapes, none at zero, from numpy: an init takes a second to compile."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (0.7 * random.standard_normal(x.shape)).astype(x.dtype), jax.eval_shape(made.init, KEY)
    )
