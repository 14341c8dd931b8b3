"""Frozen parameters: constants of the loss, and no parameters of the problem."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from own_models import EXACT, KEY, Linen, build, by_hand, tiny

import curvexp
from curvexp import optim, probe, problem
from curvexp.curvature import blocks
from curvexp.linalg.vectors import space_of
from curvexp.problem import frozen


@pytest.mark.usefixtures("x64")
def test_frozen_parameters_are_constants_and_the_hessian_is_the_block_of_the_others():
    whole, part = build("from_nnx"), build("from_nnx", frozen=["first/.*", ".*/bias"])
    init = jax.jit(whole.init)
    initial, params = init(KEY), part.init(jax.random.key(3))
    assert params["first"] == {"bias": None, "kernel": None}
    kernel = params["last"]["kernel"]
    assert len(jax.tree.leaves(params)) == 1
    assert np.array_equal(kernel, init(jax.random.key(3))["last"]["kernel"])
    full = {"first": initial["first"], "last": {"kernel": kernel, "bias": initial["last"]["bias"]}}
    assert np.isclose(jax.jit(part.loss)(params, part.data), jax.jit(whole.loss)(full, whole.data), rtol=EXACT)
    op = curvexp.block(curvexp.hessian(whole.loss, full, whole.data), "last/kernel")
    found, expected = curvexp.hessian(part.loss, params, part.data).dense(), op.dense()
    assert np.abs(found - expected).max() <= EXACT * np.abs(expected).max()


def test_frozen_parameters_do_not_move_in_a_run():
    made = build("from_flax", frozen=["first/kernel"], dtype=jnp.float32)
    *_, last = curvexp.run(made, optim.adam(lr=0.01), probe.exact(every=2), steps=4, key=5)
    begun, ended = made.init(jax.random.key(5)), last.state.params
    assert jax.tree.structure(ended) == jax.tree.structure(begun)
    assert ended["first"]["kernel"] is None
    assert len(last.reading.eigenvalues) == sum(leaf.size for leaf in jax.tree.leaves(begun)) == 3 + 9 + 3
    kept = problem.from_flax(Linen(3), data=tiny()).init(KEY)["first"]["kernel"]  # of the key that is stated
    full = {"first": {"bias": ended["first"]["bias"], "kernel": kept}, "last": ended["last"]}
    assert np.allclose(made.model(ended, made.data.inputs), by_hand(full, made.data.inputs), atol=1e-6)  # float32


def test_paths_are_those_of_blocks():
    class Point(nnx.Module):
        def __init__(self, rngs):
            self.layers = nnx.List([nnx.Linear(2, 2, rngs=rngs), nnx.Linear(2, 1, rngs=rngs)])

    trees = [
        {"a": {"kernel": jnp.ones(2)}, "b": [jnp.ones(1), (jnp.ones(2),)]},
        nnx.state(Point(nnx.Rngs(0))),  # boxes around arrays
        {"w": nn.Partitioned(jnp.ones(2), names=("x",))},
        jnp.ones(2),
    ]
    for tree in trees:
        assert frozen.paths(tree) == blocks.paths(space_of(tree))
