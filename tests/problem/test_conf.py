"""The contract of a problem, held against every file under conf/problem with every file under conf/preprocess."""

import functools
import math
from pathlib import Path

import hydra
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

import curvexp
from curvexp.errors import Unsupported
from curvexp.problem import Problem
from curvexp.problem.data import Dataset

CONF = Path(__file__).parents[2] / "conf"
PROBLEMS = sorted(path.stem for path in (CONF / "problem").glob("*.yaml"))
DATA = sorted(path.stem for path in (CONF / "problem" / "data").glob("*.yaml"))
PREPROCESS = sorted(path.stem for path in (CONF / "preprocess").glob("*.yaml"))
UNSUPPORTED = {
    (problem, prepare)
    for problem in (
        *("quadratic", "bowl", "dome", "saddle", "valley"),
        *("rosenbrock", "himmelblau", "monkey_saddle", "two_layers"),
    )
    for prepare in ("batchnorm", "centered", "whitened")
} | {
    (problem, "normalized") for problem in ("rosenbrock", "himmelblau", "monkey_saddle", "dome", "saddle", "two_layers")
}
DENSE_LIMIT = 200  # parameters


@functools.partial(jax.jit, static_argnums=0)
def call(function, *args):
    """function(*args), compiled once for each function and shapes: problems of the same structure share their functions."""
    return function(*args)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(loss, params, data):
    return jax.value_and_grad(loss)(params, data)


@functools.partial(jax.jit, static_argnums=0)
def hessian_blocks(loss, params, data):
    return jax.hessian(loss)(params, data)


def dense(blocks, params):
    """The Hessian's blocks, a tree of trees, as one matrix."""
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    rows = [
        jax.tree.leaves(row)
        for row in jax.tree.leaves(blocks, is_leaf=lambda b: jax.tree.structure(b) == jax.tree.structure(params))
    ]
    sizes = [leaf.size for leaf in jax.tree.leaves(params)]
    return np.block(
        [[np.reshape(b, (m, n)) for b, n in zip(row, sizes, strict=True)] for row, m in zip(rows, sizes, strict=True)]
    ).reshape(size, size)


def compose(*overrides: str):
    with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
        return hydra.compose(overrides=[f"+{o}" if o.startswith(("problem=", "preprocess=")) else o for o in overrides])


def build(*overrides: str, dtype=jnp.float64) -> Problem:
    cfg = compose(*overrides)
    return instantiate(cfg.problem)(preprocess=instantiate(cfg.preprocess), dtype=dtype)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prepare", PREPROCESS)
@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_with_every_preprocessing_keeps_the_contract(name, prepare) -> None:
    if (name, prepare) in UNSUPPORTED:
        with pytest.raises(Unsupported, match=f"preprocess={prepare}"):
            build(f"problem={name}", f"preprocess={prepare}")
        return
    problem = build(f"problem={name}", f"preprocess={prepare}")
    assert problem.name == name
    params = call(problem.init, jax.random.key(3))
    again = call(problem.init, jax.random.key(3))
    assert all(map(np.array_equal, jax.tree.leaves(params), jax.tree.leaves(again)))
    value, gradient = derivatives(problem.loss, params, problem.data)
    assert value.shape == ()
    assert value.dtype == np.float64
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    assert jax.tree.structure(gradient) == jax.tree.structure(params)
    examples = problem.examples
    assert examples is None or all(len(leaf) == examples for leaf in jax.tree.leaves(problem.data))
    if problem.evaluate is not None:
        scores = call(problem.evaluate, params, problem.data, problem.test)
        assert all(score.shape == () and np.isfinite(score) for score in scores.values())
        assert "test_loss" in scores
        assert set(jax.eval_shape(problem.evaluate, params, problem.data, None)) <= {"accuracy"}
    known = problem.known
    if known.minimum is None:
        assert problem.lower_bound is not None
    else:
        assert value >= known.minimum
    if known.optimum is not None:
        optimum = jax.tree.map(jnp.asarray, known.optimum)
        assert jax.tree.map(jnp.shape, optimum) == jax.tree.map(jnp.shape, params)
        assert math.isclose(call(problem.loss, optimum, problem.data), known.minimum, rel_tol=1e-12, abs_tol=1e-300)
    if known.eigenvalues is not None and len(known.eigenvalues) <= DENSE_LIMIT:
        exact = np.linalg.eigvalsh(dense(hessian_blocks(problem.loss, params, problem.data), params))
        # Weyl: rounding in the Hessian's sums over up to 500 terms, and LAPACK's own n·eps·λmax
        assert np.abs(known.eigenvalues - exact).max() <= 1000 * np.finfo(np.float64).eps * np.abs(exact).max()


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", PROBLEMS)
def test_the_operator_of_every_problem_is_its_dense_hessian_and_eigsh_finds_its_ends(name) -> None:
    small = {"mlp": ["problem/data=wine", "problem.hidden=[3]"], "logistic": ["problem/data=wine"]}
    problem = build(f"problem={name}", "preprocess=raw", *small.get(name, []))
    params = call(problem.init, jax.random.key(3))
    exact = dense(hessian_blocks(problem.loss, params, problem.data), params)
    operator = curvexp.hessian(problem.loss, params, problem.data)
    norm = np.abs(np.linalg.eigvalsh(exact)).max()
    rounding = (
        1e4 * np.finfo(np.float64).eps * norm
    )  # two orders of differentiation, each with sums over up to 500 examples
    assert np.abs(np.asarray(operator.dense()) - exact).max() <= rounding
    values = np.linalg.eigvalsh((exact + exact.T) / 2)
    k = min(2, len(values))
    found = curvexp.eigsh(operator, k=k, which="BE", tol=1e-8, key=jax.random.key(0))
    assert found.converged, found.message
    expected = values[[0, -1]] if k == 2 else values[-1:]
    assert np.abs(np.asarray(found.eigenvalues) - expected).max() <= 1e-8 * norm + rounding


@pytest.mark.parametrize("name", ["mlp", "least_squares", "quadratic"])
def test_float32_gives_float32(name) -> None:
    problem = build(f"problem={name}", "preprocess=normalized", dtype=jnp.float32)
    params = jax.eval_shape(problem.init, jax.random.key(0))
    loss = jax.eval_shape(problem.loss, params, problem.data)
    assert {leaf.dtype for leaf in jax.tree.leaves((params, loss))} == {np.dtype(np.float32)}


@pytest.mark.parametrize("data", [name for name in DATA if name != "openml"])
def test_every_data_file_serves_every_problem_on_data(data) -> None:
    for name in ("mlp", "least_squares"):
        chosen = f"problem={name}", "preprocess=normalized", f"problem/data={data}", "problem.data.seed=1"
        problem = build(*chosen, dtype=jnp.float32)
        found = instantiate(compose(*chosen).problem.data)
        assert isinstance(found, Dataset)
        assert problem.data.inputs.shape == found.inputs.shape
        params = jax.eval_shape(problem.init, jax.random.key(0))
        assert jax.eval_shape(problem.loss, params, problem.data).shape == ()


def test_options_of_the_data_are_set_under_the_problem() -> None:
    cfg = compose("problem=mlp", "problem/data=gaussian", "problem.data.mean=3", "problem.hidden=[8,8]")
    assert cfg.problem.data.mean == 3
    assert list(cfg.problem.hidden) == [8, 8]
    partial = instantiate(cfg.problem)
    assert abs(partial.keywords["data"].inputs.mean() - 3) < 0.1  # deviations up to 1, 20 000 numbers
    assert compose("problem=mlp").problem.data._target_ == "curvexp.problem.data.digits"


def test_openml_needs_a_name_and_has_every_option_of_its_builder() -> None:
    cfg = compose("problem=mlp", "problem/data=openml")
    assert OmegaConf.is_missing(cfg.problem.data, "name")


@pytest.mark.parametrize(
    "path", sorted(CONF.glob("problem/**/*.yaml")) + sorted(CONF.glob("preprocess/*.yaml")), ids=lambda p: p.stem
)
def test_every_file_states_every_option_of_its_builder_with_its_default(path) -> None:
    import inspect

    from hydra.utils import get_method

    stated = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(stated, dict)
    options = {
        key: parameter.default
        for key, parameter in inspect.signature(get_method(stated["_target_"])).parameters.items()
        if key not in ("preprocess", "dtype", "data", "options") and not (key == "name" and path.stem != "openml")
    }
    written = {k: v for k, v in stated.items() if k not in ("_target_", "_partial_", "defaults")}
    if path.stem in ("bowl", "dome", "saddle", "valley"):  # the rest of their options are the quadratic's
        assert {"b": None, "start": "random", "basis_seed": 0}.items() <= written.items()
        written = {"eigenvalues": written["eigenvalues"]}
    as_lists = {
        k: list(v) if isinstance(v, tuple) else v for k, v in options.items() if v is not inspect.Parameter.empty
    }
    assert {k: v for k, v in written.items() if v != "???"} == as_lists
