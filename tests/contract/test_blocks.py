"""The layers of an operator part its parameters: each parameter is in one block, with those that lie beside it."""

import dataclasses
import functools
from collections import namedtuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from curvexp import block, hessian, layers

Pair = namedtuple("Pair", "kernel bias")


@functools.partial(jax.tree_util.register_dataclass, data_fields=("value",), meta_fields=("name",))
@dataclasses.dataclass
class Box:
    """An array with a name, as flax boxes parameters."""

    value: object
    name: str = "box"


@functools.partial(jax.tree_util.register_dataclass, data_fields=("weight", "bias"), meta_fields=("size",))
@dataclasses.dataclass
class Linear:
    """A module with its parameters as attributes, as Equinox has them."""

    weight: object
    bias: object = None
    size: int = 2


def weighted_squares(params):
    """½ Σ (i + 1) x_i², i the entry's place among all: the Hessian's diagonal tells which entries a block holds."""
    flat = jnp.concatenate([leaf.ravel() for leaf in jax.tree.leaves(params)])
    return 0.5 * jnp.sum(jnp.arange(1.0, len(flat) + 1) * flat**2)


def sizes(params):
    return {name: part.size for name, part in layers(hessian(weighted_squares, params)).items()}


names = st.text("abc/", min_size=1, max_size=2) | st.just("value")
leaves = st.integers(1, 3).map(jnp.ones) | st.integers(1, 3).map(lambda size: Box(jnp.ones(size)))
trees = st.recursive(
    leaves,
    lambda inner: (
        st.dictionaries(names, inner, min_size=1, max_size=3)
        | st.lists(inner, min_size=1, max_size=3)
        | st.builds(Linear, inner, st.none() | inner)
        | st.builds(Pair, inner, inner)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(trees)
def test_layers_part_the_parameters(params):
    op = hessian(weighted_squares, params)
    found = layers(op)
    paths = [path for part in found.values() for path in part.like]
    assert len(set(paths)) == len(paths) == len(jax.tree.leaves(params))
    assert sum(part.size for part in found.values()) == op.size
    below = {path: name for name, part in found.items() for path in part.like}
    assert block(op, lambda path: path in below).size == op.size


def test_a_block_holds_the_rows_and_columns_of_its_layer():
    params = {
        "block": {"scale": jnp.ones(4), "dense": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}},
        "out": jnp.ones(1),
    }
    found = layers(hessian(weighted_squares, params))
    diagonals = {name: sorted(np.diag(part.dense()).tolist()) for name, part in found.items()}
    # leaves in JAX's order: bias 1 to 3, kernel 4 to 9, scale 10 to 13, out 14
    assert diagonals == {"block/dense": [*range(1, 10)], "block": [*range(10, 14)], "out": [14]}
    assert block(hessian(weighted_squares, params), "block").size == 13  # a prefix takes what lies deeper


def test_boxes_are_no_layers():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            plain = nn.initializers.ones
            x = nn.Dense(3, kernel_init=nn.with_partitioning(plain, (None, "model")))(x)
            return nn.Dense(1, kernel_init=nn.with_logical_partitioning(plain, (None, "model")))(x)

    linen = Network().init(jax.random.key(0), jnp.ones((1, 2)))
    assert sizes(linen) == {"params/Dense_0": 9, "params/Dense_1": 4}
    rngs = nnx.Rngs(0)
    module = nnx.Sequential(nnx.Linear(2, 3, rngs=rngs), nnx.LayerNorm(3, rngs=rngs), nnx.Linear(3, 1, rngs=rngs))
    state = nnx.split(module)[1]
    expected = {"layers/0": 9, "layers/1": 6, "layers/2": 4}
    assert sizes(state) == sizes(nnx.to_pure_dict(state)) == expected
    assert list(block(hessian(weighted_squares, state), "layers/0").like) == ["layers/0/bias", "layers/0/kernel"]


@pytest.mark.parametrize(
    "params, expected",
    [
        ([Linear(jnp.ones((2, 2)), jnp.ones(2)), Linear(jnp.ones(2))], {"0": 6, "1": 2}),
        ({"a": Pair(jnp.ones(2), jnp.ones(1)), "b": Pair(jnp.ones(3), None)}, {"a": 3, "b": 3}),
        ((jnp.ones(2), jnp.ones(3)), {"0": 2, "1": 3}),
        (jnp.ones(3), {"": 3}),
        ({"mlp/~/linear_0": {"w": jnp.ones(2), "b": jnp.ones(1)}}, {"mlp/~/linear_0": 3}),
        ({"policy": {"value": jnp.ones(2), "w": jnp.ones(1)}, "value": {"w": jnp.ones(1)}}, {"policy": 3, "value": 1}),
        ({"a/b": {"c": jnp.ones(2)}, "a": {"b": {"c": jnp.ones(3)}}}, {"('a', 'b')": 3, "('a/b',)": 2}),
    ],
)
def test_layers_of_other_pytrees(params, expected):
    assert sizes(params) == expected
