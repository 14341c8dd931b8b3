"""Examples over several devices: what one device computes, to rounding."""

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from curvexp import preprocess
from curvexp import problem as problems
from curvexp.errors import ConfigError
from curvexp.problem.placement import spread

ROOT = Path(__file__).parents[2]
START = """
import jax, numpy as np
import jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
import curvexp
from curvexp import optim, preprocess, probe, training
from curvexp import problem as problems
from curvexp.problem.placement import spread
assert jax.device_count() == 8
data = problems.data.gaussian(samples=160, features=5, classes=3)
alone = problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float64, data=data, hidden=[6])
eight = spread(alone, "all")
assert len(eight.data.inputs.sharding.device_set) == 8

def train(problem, rule, **settings):
    return list(training.run(problem, optim.adam(lr=0.05), rule, steps=20, key=jax.random.key(0), **settings))
"""
PRODUCTS = """
params = alone.init(jax.random.key(0))
v = jax.tree.map(lambda leaf: jnp.cos(jnp.arange(leaf.size, dtype=leaf.dtype)).reshape(leaf.shape), params)
product = jax.jit(lambda op, v: op(v))
for name in ("hessian", "ggn", "fisher"):
    wholes = [training.over_all_data(problem) for problem in (alone, eight)]
    one, other = (product(probe.operator_of(whole, params, operator=name), v) for whole in wholes)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(b, a, rtol=1e-9, atol=1e-12)
one, other = (train(problem, probe.off(), batch_size=32, record_every=5) for problem in (alone, eight))
assert len(one) == len(other) == 5
for a, b in zip(one, other, strict=True):
    np.testing.assert_allclose(b.scalars["loss"], a.scalars["loss"], rtol=1e-10)
assert all(leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(other[-1].state.params))
"""
PROBED = """
for batch_size in (None, 32):
    rule = probe.top(k=2, every=10, dense_below=0)
    for one, other in zip(*(train(problem, rule, batch_size=batch_size) for problem in (alone, eight)), strict=True):
        np.testing.assert_allclose(other.scalars["loss"], one.scalars["loss"], rtol=1e-10)
        if one.reading is not None:
            np.testing.assert_allclose(other.reading.eigenvalues, one.reading.eigenvalues, rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(other.scalars["change_actual"], one.scalars["change_actual"], rtol=1e-6)
"""

BASIS = """
from curvexp.linalg import eigenpairs, krylov, krylov_state
from curvexp.linalg.layout import Layout, layout_of
from curvexp.linalg.vectors import domain
mesh, n, k = eight.data.inputs.sharding.mesh, 20_001, 3  # no multiple of 8
exact = np.r_[np.linspace(-1, 1, n - 3), 2.0, 3.0, 4.0]
values = jax.device_put(exact, jax.NamedSharding(mesh, jax.P()))

def operator(values):
    return jax.tree_util.Partial(lambda values, v: {"a": values[:20_000] * v["a"], "b": values[20_000:] * v["b"]}, values)

def temporary(op):
    op, space = domain(op, like)
    layout = layout_of(op, n)
    rows, count = eigenpairs._start_rows(None, space, k, np.dtype(float), layout, host=False)
    limits = krylov_state.Limits(np.float64(1e-8), np.int32(500), np.int32(-1), np.int32(-1))
    wanted = krylov_state.Wanted(k, "LA", 28, 1, layout)
    lowered = eigenpairs._solve.lower(op, rows, count, limits, jax.random.key(0), space=space, wanted=wanted)
    return lowered.compile().memory_analysis().temp_size_in_bytes

like = {"a": jnp.zeros(20_000), "b": jnp.zeros(1)}
one, other = (operator(jnp.asarray(v)) for v in (exact, values))
assert layout_of(one, n).mesh is None and layout_of(other, n) == Layout(n, mesh)
needed = temporary(one)
assert needed > 28 * n * 8
assert temporary(other) < needed / 6, (temporary(other), needed)  # of each device: an eighth, and the vector that is multiplied
cold = curvexp.eigsh(other, like, k=k, tol=1e-8)
assert cold.converged, cold.message
np.testing.assert_allclose(cold.eigenvalues, [2, 3, 4], atol=1e-8)
alone = curvexp.eigsh(one, like, k=k, tol=1e-8)
np.testing.assert_allclose(cold.eigenvalues, alone.eigenvalues, rtol=1e-12)
assert int(cold.matvecs) == int(alone.matvecs)
assert cold.eigenvectors["a"].sharding.spec == jax.P(None, ("examples",)), cold.eigenvectors["a"].sharding
vectors = np.concatenate([cold.eigenvectors["a"], cold.eigenvectors["b"]], axis=1)
np.testing.assert_allclose(vectors @ vectors.T, np.eye(k), atol=1e-12)
assert (np.linalg.norm(vectors * (exact - np.asarray(cold.eigenvalues)[:, None]), axis=1) <= cold.residuals + 1e-12).all()
"""
REST = """
warm = curvexp.eigsh(other, like, k=k, tol=1e-8, start=cold.eigenvectors)
assert warm.converged and int(warm.matvecs) < int(cold.matvecs) / 2
one, other = (curvexp.spectral_density(op, like, probes=2, steps=10, spikes=cold) for op in (one, other))
np.testing.assert_allclose(other.nodes, one.nodes, atol=1e-9)
np.testing.assert_allclose(other.density, one.density, atol=1e-9)
"""


@pytest.mark.parametrize(
    "what",
    [PRODUCTS, *(pytest.param(part, marks=pytest.mark.slow) for part in (BASIS, BASIS + REST, PROBED))],
    ids=["products", "basis", "start and density", "probed"],
)
def test_eight_devices_compute_what_one_does(what):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", START + what + "print('equal')"],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, **flags, "PYTHONPATH": str(ROOT)},
    )
    assert found.stdout.strip() == "equal", found.stderr


@pytest.mark.slow
def test_two_processes_compute_what_one_does(tmp_path):
    """The script of docs/scale.md, started once by each host: here by two processes of two devices each, and by one alone."""
    (script,) = re.findall(r"```python\n(# train\.py\n.*?)```", (ROOT / "docs/scale.md").read_text(), flags=re.DOTALL)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    both = f"jax.distributed.initialize('127.0.0.1:{port}', num_processes=2, process_id=int(sys.argv[1]))"

    def start(join, number, devices, folder):
        text = "import sys\n" + script.replace("jax.distributed.initialize()", join)
        flags = {"XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}", "JAX_PLATFORMS": "cpu"}
        (tmp_path / folder).mkdir(exist_ok=True)
        return subprocess.Popen(
            [sys.executable, "-c", text, str(number)],
            cwd=tmp_path / folder,
            env={**os.environ, **flags, "PYTHONPATH": str(ROOT)},
            stderr=subprocess.PIPE,
            text=True,
        )

    going = [start(both, number, 2, "two") for number in (0, 1)] + [start("pass", 0, 1, "one")]
    for process in going:
        _, error = process.communicate(timeout=280)
        assert process.returncode == 0, error
    two, one = (tmp_path / folder / "outputs/hosts" for folder in ("two", "one"))
    assert json.loads((two / "summary.json").read_text())["status"] == "completed"
    for name in ("metrics.jsonl", "spectrum.jsonl"):
        found, wanted = ([json.loads(line) for line in (path / name).read_text().splitlines()] for path in (two, one))
        assert [line["step"] for line in found] == [line["step"] for line in wanted] == [0, 10, 20]
        key = {"metrics.jsonl": "loss", "spectrum.jsonl": "eigenvalues"}[name]
        for a, b in zip(found, wanted, strict=True):  # float32 sums in another order; the probe's tolerance
            np.testing.assert_allclose(a[key], b[key], rtol=1e-4, atol=2e-3 if key == "eigenvalues" else 0)


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
