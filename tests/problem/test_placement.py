"""Examples over several devices: what one device computes, to rounding."""

import os
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest

from curvexp import preprocess
from curvexp import problem as problems
from curvexp.errors import ConfigError
from curvexp.problem.placement import spread

START = """
import jax, numpy as np
import jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import curvexp
from curvexp import optim, preprocess, probe, runner
from curvexp import problem as problems
from curvexp.problem.placement import spread
assert jax.device_count() == 8
data = problems.data.gaussian(samples=160, features=5, classes=3)
alone = problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float64, data=data, hidden=[6])
eight = spread(alone, "all")
assert len(eight.data.inputs.sharding.device_set) == 8

def train(problem, rule, **settings):
    return list(runner.run(problem, optim.adam(lr=0.05), rule, steps=20, key=jax.random.key(0), **settings))
"""
PRODUCTS = """
params = alone.init(jax.random.key(0))
v = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params)
product = jax.jit(lambda op, v: op(v))
one, other = (product(curvexp.hessian(runner.over_all_data(problem), params), v) for problem in (alone, eight))
for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
    np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
one, other = (train(problem, probe.off(), batch_size=32, record_every=5) for problem in (alone, eight))
assert len(one) == len(other) == 5
for a, b in zip(one, other, strict=True):
    np.testing.assert_allclose(b.scalars["loss"], a.scalars["loss"], rtol=1e-10)
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(other[-1].state.params))
print("equal")
"""
PROBED = """
for batch_size in (None, 32):
    rule = probe.top(k=2, every=10, dense_below=0)
    for one, other in zip(*(train(problem, rule, batch_size=batch_size) for problem in (alone, eight)), strict=True):
        np.testing.assert_allclose(other.scalars["loss"], one.scalars["loss"], rtol=1e-10)
        if one.reading is not None:
            np.testing.assert_allclose(other.reading.eigenvalues, one.reading.eigenvalues, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(other.scalars["change_actual"], one.scalars["change_actual"], rtol=1e-6)
print("equal")
"""


@pytest.mark.parametrize("what", [PRODUCTS, pytest.param(PROBED, marks=pytest.mark.slow)], ids=["products", "probed"])
def test_eight_devices_compute_what_one_does(what):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", START + what],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **flags, "PYTHONPATH": str(root)},
    )
    assert found.stdout.strip() == "equal", found.stderr


def network(samples):
    data = problems.data.gaussian(samples=samples, features=4, classes=3)
    return problems.mlp(preprocess=preprocess.raw(), dtype=jnp.float32, data=data, hidden=[3])


def test_what_cannot_be_shared_out_is_refused():
    with pytest.raises(ConfigError, match="devices=9: expected at most"):
        spread(network(9), 9)
    assert spread(network(9), 1).data is not None


def test_one_device_leaves_the_problem_as_it_is():
    problem = network(10)
    assert spread(problem, 1) is problem
