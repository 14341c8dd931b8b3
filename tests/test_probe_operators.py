"""Probes of the Gauss-Newton matrix and of the Fisher information, against matrices whose Jacobians are written out."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from curvexp import optim, preprocess, probe, training
from curvexp import problem as problems
from curvexp.curvature.samples import spread_over_groups
from curvexp.errors import ConfigError
from curvexp.programs import count as count_programs
from curvexp.training import over_all_data

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)
NORMALIZED = preprocess.normalized()


@functools.cache
def network(criterion):
    """A network of 88 parameters on the wine data, and its parameters."""
    problem = problems.mlp(
        preprocess=NORMALIZED, dtype=jnp.float64, data=problems.data.wine(), hidden=[5], criterion=criterion
    )
    return problem, problem.init(KEY)


@functools.cache
def reference(criterion):
    """The dense matrix: the mean of J'BJ over the examples, B = diag(p) − pp' or I written out."""
    problem, params = network(criterion)
    flat, tree = ravel_pytree(params)
    outputs = np.asarray(problem.model(params, problem.data.inputs))
    jacobians = np.asarray(
        jax.jit(jax.jacrev(lambda x: problem.model(tree(x), problem.data.inputs)))(flat)
    )  # (P, K, n)
    p = np.exp(outputs) / np.exp(outputs).sum(axis=1, keepdims=True)
    curved = np.stack([np.diag(row) - np.outer(row, row) for row in p])
    inner = curved if criterion == "cross_entropy" else np.broadcast_to(np.eye(outputs.shape[1]), curved.shape)
    return np.einsum("pkn,pkl,plm->nm", jacobians, inner, jacobians) / len(outputs)


def read(measure, criterion, state=None, key=KEY):
    problem, params = network(criterion)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    measure.check(size, problem)
    return measure.measure(over_all_data(problem), params, state, key)


@pytest.mark.parametrize("criterion", ["cross_entropy", "mse"])
@pytest.mark.parametrize("operator", ["ggn", "fisher"])
def test_the_exact_reading_of_each_operator_is_that_of_its_matrix(criterion, operator):
    reading, _ = read(probe.exact(operator=operator), criterion)
    exact = np.linalg.eigvalsh(reference(criterion))
    # backward stable: n·eps of the largest, for each of the two decompositions and as much for the products
    np.testing.assert_allclose(reading.eigenvalues, exact, rtol=0, atol=300 * 2.3e-16 * exact[-1])
    assert reading.scalars["lambda_max"] == reading.eigenvalues[-1]
    assert reading.extra["operator"] == operator


@pytest.mark.parametrize(
    "criterion, operator, chunk",
    [
        ("cross_entropy", "ggn", None),
        pytest.param("cross_entropy", "ggn", 50, marks=pytest.mark.slow),  # a compiled program each
        pytest.param("mse", "fisher", None, marks=pytest.mark.slow),
        pytest.param("mse", "fisher", 50, marks=pytest.mark.slow),
    ],
)
def test_the_top_reading_lies_within_its_residuals(criterion, operator, chunk):
    measure = probe.top(k=3, tol=1e-8, dense_below=0, operator=operator, chunk=chunk)
    reading, state = read(measure, criterion)
    exact = np.linalg.eigvalsh(reference(criterion))
    np.testing.assert_allclose(reading.eigenvalues[-3:], exact[-3:], atol=1e-8 * exact[-1])  # the tolerance asked for
    assert reading.extra["operator"] == operator
    programs = count_programs()
    problem, params = network(criterion)
    moved = jax.tree.map(lambda leaf: 1.01 * leaf, params)
    warm, _ = measure.measure(over_all_data(problem), moved, state, KEY)
    assert count_programs() == programs  # one program for all readings
    assert warm.scalars["hvps"] < reading.scalars["hvps"]


@pytest.mark.slow
def test_the_densitys_trace_is_within_its_standard_error():
    reading, _ = read(probe.density(k=2, vectors=20, depth=30, operator="ggn"), "cross_entropy")
    trace = np.trace(reference("cross_entropy"))
    assert abs(reading.scalars["trace"] - trace) < 4 * reading.scalars["trace_stderr"]
    assert reading.scalars["trace_stderr"] < 0.1 * trace
    assert reading.scalars["negative_share"] == 0  # J'BJ has none


def test_of_a_linear_least_squares_problem_the_gauss_newton_matrix_is_the_hessian():
    problem = problems.least_squares(data=problems.data.diabetes(), preprocess=NORMALIZED, dtype=jnp.float64)
    params = problem.init(KEY)
    one, other = (
        probe.exact(operator=name).measure(over_all_data(problem), params, None, KEY)[0] for name in ("hessian", "ggn")
    )
    np.testing.assert_allclose(one.eigenvalues, other.eigenvalues, atol=1e-13 * one.eigenvalues[-1])  # rounding
    np.testing.assert_allclose(one.eigenvalues, problem.known.eigenvalues, atol=1e-13 * one.eigenvalues[-1])


def test_a_samples_error_is_the_spread_over_its_groups():
    problem, params = network("mse")
    whole = over_all_data(problem)
    part = whole._replace(data=jax.tree.map(lambda leaf: leaf[:45], whole.data))
    vectors = jax.tree.map(lambda leaf: leaf[None], params)
    found = spread_over_groups(
        probe.operator_of(part, params, operator="ggn"), vectors=vectors, groups=4, population=178
    )
    sizes, forms = np.array([12, 11, 11, 11]), []
    for end, size in zip(np.cumsum(sizes), sizes, strict=True):
        inputs = problem.data.inputs[end - size : end]
        _, tangent = jax.jvp(lambda p, x=inputs: problem.model(p, x), (params,), (params,))
        forms.append(float((np.asarray(tangent) ** 2).sum()) / size)  # B = I
    mean = (sizes * forms).sum() / 45
    variance = (sizes * (np.array(forms) - mean) ** 2).sum() / 3 / 45 * (1 - 45 / 178)
    np.testing.assert_allclose(found.mean, mean, rtol=1e-12)  # rounding
    np.testing.assert_allclose(found.stderr, np.sqrt(variance), rtol=1e-10)  # of differences of means


@pytest.mark.slow
def test_a_reading_of_a_sample_says_so_and_has_its_error():
    reading, _ = read(probe.top(k=1, which="LA", samples=100, dense_below=0, operator="ggn"), "cross_entropy")
    assert reading.extra["samples"] == 100
    assert 0 < reading.scalars["lambda_max_sampling_error"] < reading.scalars["lambda_max"]


@pytest.mark.parametrize("rule", [optim.sgd(lr=0.1), optim.adam(lr=1e-2)])
def test_a_run_that_measures_another_operator_has_no_sharpness_and_says_why(rule):
    problem, _ = network("cross_entropy")
    first, *_, last = training.run(problem, rule, probe.exact(every=2, operator="ggn"), steps=2, key=KEY)
    assert "operator=ggn" in first.note
    assert "no sharpness" in first.note
    for record in (first, last):
        assert record.scalars["lambda_max"] > 0
        assert record.scalars["threshold"] > 0
        absent = ("sharpness", "stability_margin", "effective_condition_number", "top_contraction_theory")
        assert not record.scalars.keys() & set(absent)
        assert "ledger" not in record.reading.extra
        assert record.scalars["gradient_curvature"] is not None  # of the Hessian, along the gradient
    plain, *_ = training.run(problem, rule, probe.exact(every=2), steps=2, key=KEY)
    assert plain.scalars["sharpness"] > 0
    assert plain.note is None


@pytest.mark.parametrize("make", [probe.exact, probe.top, probe.density])
def test_an_operator_that_does_not_exist_is_refused(make):
    with pytest.raises(ConfigError, match=r"probe.operator=gauss: expected hessian, ggn, fisher"):
        make(operator="gauss")


@pytest.mark.parametrize(
    "make, problem, message",
    [
        (
            lambda: probe.top(operator="ggn"),
            lambda: problems.quadratic(dimension=4),
            "probe.operator=ggn: problem=quadratic has no model",
        ),
        (
            lambda: probe.density(k=1, operator="fisher"),
            lambda: problems.logistic(data=problems.data.wine(), preprocess=NORMALIZED),
            "probe.operator=fisher: problem=logistic .*problem.l2=0",
        ),
        (
            lambda: probe.exact(operator="fisher"),
            lambda: network("mse")[0]._replace(log_likelihood=None),
            "probe.operator=fisher: .*Problem.log_likelihood",
        ),
    ],
)
def test_an_operator_that_a_problem_has_no_parts_for_is_refused(make, problem, message):
    made, found = make(), problem()
    with pytest.raises(ConfigError, match=message):
        made.check(88, found)
