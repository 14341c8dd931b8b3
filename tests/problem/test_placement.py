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

EIGHT = """
import jax, numpy as np
import jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from curvexp import optim, preprocess, probe, runner
from curvexp import problem as problems
from curvexp.problem.placement import spread
assert jax.device_count() == 8
data = problems.data.gaussian(samples=160, features=5, classes=3)
alone = problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float64, data=data, hidden=[6])
both = {}
for name, problem in {"one": alone, "eight": spread(alone, "all")}.items():
    for batch_size in (None, 32):
        records = list(runner.run(problem, optim.adam(lr=0.05), probe.top(k=2, every=10, dense_below=0), steps=20,
                                  key=jax.random.key(0), batch_size=batch_size))
        both[name, batch_size] = records
assert len(spread(alone, 8).data.inputs.sharding.device_set) == 8
last = both["eight", None][-1].state.params
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(last))
for batch_size in (None, 32):
    for one, eight in zip(both["one", batch_size], both["eight", batch_size], strict=True):
        np.testing.assert_allclose(eight.scalars["loss"], one.scalars["loss"], rtol=1e-10)
        if one.reading is not None:
            np.testing.assert_allclose(eight.reading.eigenvalues, one.reading.eigenvalues, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(eight.scalars["change_actual"], one.scalars["change_actual"], rtol=1e-6)
print("equal")
"""


def test_training_and_probe_over_eight_devices_are_those_of_one():
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", EIGHT],
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
