"""Linear models: closed forms against dense automatic differentiation, minima against scipy."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.special
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from curvexp import preprocess
from curvexp.errors import ConfigError
from curvexp.problem import least_squares, logistic
from curvexp.problem.data import Dataset, breast_cancer, diabetes, digits, gaussian, split, wine
from curvexp.problem.linear import logistic_gradient, logistic_hessian, logistic_loss

EPS = np.finfo(np.float64).eps
PREPROCESSINGS = [
    preprocess.raw(),
    preprocess.centered(),
    preprocess.normalized(),
    preprocess.whitened(),
    preprocess.batchnorm(),
    preprocess.batchnorm(mode="frozen"),
    preprocess.batchnorm(mode="ghost", ghost=50),
]
each_preprocessing = pytest.mark.parametrize("prepare", PREPROCESSINGS, ids=lambda p: f"{p.name}-{p.hidden or ''}")
pytestmark = pytest.mark.usefixtures("x64")


def build(builder, data, prepare=PREPROCESSINGS[2], **options):
    return builder(data=data, preprocess=prepare, dtype=jnp.float64, **options)


def small(classes: int, count: int = 60, seed: int = 0) -> Dataset:
    """Overlapping classes."""
    random = np.random.default_rng(seed)
    targets = np.arange(count) % classes
    centres = random.standard_normal((classes, 3))
    return split("small", centres[targets] + random.standard_normal((count, 3)) + 1, targets, classes=classes)


@functools.partial(jax.jit, static_argnums=0)
def derivatives(loss, params, data):
    """Value and gradient, compiled once for each loss and shapes: problems of the same structure share theirs."""
    return jax.value_and_grad(loss)(params, data)


@functools.partial(jax.jit, static_argnums=0)
def hessian_blocks(loss, params, data):
    return jax.hessian(loss)(params, data)


def dense_hessian(problem, params):
    blocks = hessian_blocks(problem.loss, params, problem.data)
    return np.block([[np.reshape(blocks[a][b], (params[a].size, params[b].size)) for b in params] for a in params])


def gradient_at(problem, params):
    return np.concatenate(
        [np.ravel(leaf) for leaf in jax.tree.leaves(derivatives(problem.loss, params, problem.data)[1])]
    )


def start(problem, seed=0):
    """Parameters of the problem's shapes, from numpy."""
    random = np.random.default_rng(seed)
    return jax.tree.map(lambda x: random.standard_normal(x.shape), jax.eval_shape(problem.init, jax.random.key(0)))


@each_preprocessing
@pytest.mark.parametrize("data, l2", [(diabetes(), 0.0), (wine(), 0.01)], ids=["diabetes", "wine"])
def test_least_squares_knows_the_spectrum_of_its_dense_hessian(data, l2, prepare) -> None:
    problem = build(least_squares, data, prepare, l2=l2)
    params = start(problem)
    found = np.linalg.eigvalsh(dense_hessian(problem, params))
    known = problem.known.eigenvalues
    # Weyl: forming X'X/P in floating point costs P·eps·‖X‖²/P, and LAPACK n·eps·λmax
    assert np.abs(found - known).max() <= 500 * EPS * known[-1]
    assert np.array_equal(known, np.sort(known))
    assert np.allclose(
        dense_hessian(problem, jax.tree.map(lambda x: 5 * x + 1, params)), dense_hessian(problem, params)
    )


@each_preprocessing
@pytest.mark.parametrize("bias", [True, False])
def test_least_squares_minimum_is_numpy_lstsqs(prepare, bias) -> None:
    problem = build(least_squares, wine(), prepare, bias=bias)
    inputs, targets = np.asarray(problem.data.inputs), np.asarray(problem.data.targets)
    if prepare.hidden:
        inputs = preprocess.standardize(inputs, prepare.hidden)
    design = np.c_[inputs, np.ones(len(inputs))] if bias else inputs
    weights = np.linalg.lstsq(design, targets, rcond=None)[0]
    expected = 0.5 * np.square(design @ weights - targets).sum() / len(targets)
    assert np.isclose(problem.known.minimum, expected, rtol=1e-12)
    optimum = problem.known.optimum
    assert np.isclose(derivatives(problem.loss, optimum, problem.data)[0], problem.known.minimum, rtol=1e-12)
    # backward stable: a residual of eps·‖X‖²·‖w‖/P, times the few hundred terms of each sum
    bound = 1e3 * EPS * max(1, np.linalg.norm(design, 2) ** 2 / len(design) * np.abs(weights).max())
    assert np.abs(gradient_at(problem, optimum)).max() < bound


def test_exact_null_directions_are_exact_zeros_and_the_optimum_is_the_shortest() -> None:
    random = np.random.default_rng(0)
    inputs = random.standard_normal((40, 3)) @ random.standard_normal((3, 5))  # rank 3
    data = split("rank3", inputs, random.standard_normal(40), test_fraction=0)
    problem = build(least_squares, data, preprocess.raw(), bias=False)
    assert np.count_nonzero(problem.known.eigenvalues) == 3
    targets = np.asarray(problem.data.targets)
    assert np.allclose(problem.known.optimum["weight"], np.linalg.pinv(inputs, rcond=1e-12) @ targets, atol=1e-10)
    wide = build(least_squares, split("wide", inputs[:3], inputs[:3, 0], test_fraction=0), preprocess.raw(), bias=False)
    assert np.count_nonzero(wide.known.eigenvalues) == 3
    assert wide.known.minimum < EPS


def test_ridge_minimum_is_where_its_gradient_vanishes_and_scipy_finds_no_lower() -> None:
    problem = build(least_squares, diabetes(), l2=0.1)
    first, unravel = ravel_pytree(start(problem))
    value = jax.jit(jax.value_and_grad(lambda x: problem.loss(unravel(x), problem.data)))
    found = scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, value(x))), first, jac=True, method="L-BFGS-B", tol=1e-14
    )
    assert abs(found.fun - problem.known.minimum) < 1e-10  # L-BFGS-B's own stopping
    assert problem.known.minimum <= found.fun + 4 * EPS
    assert problem.model is None  # a regulariser is no criterion of a model


def test_batchnorm_on_a_linear_model_is_normalized_up_to_epsilon() -> None:
    data = breast_cancer()
    prepared = build(least_squares, data, preprocess.normalized())
    batch = build(least_squares, data, preprocess.batchnorm(epsilon=0.0))
    params = start(prepared)
    # raw columns have mean/deviation up to 10: so many eps in each standardised number
    assert np.isclose(batch.loss(params, batch.data), prepared.loss(params, prepared.data), rtol=1e-12)
    assert np.allclose(dense_hessian(batch, params), dense_hessian(prepared, params), atol=1e-12)
    assert np.allclose(batch.known.eigenvalues, prepared.known.eigenvalues, atol=1e-12)
    scores = [p.evaluate(params, p.data, p.test) for p in (batch, prepared)]
    for name in ("accuracy", "test_accuracy", "test_loss"):
        assert np.isclose(scores[0][name], scores[1][name], rtol=1e-11)


def test_regression_targets_are_standardised_by_the_training_set() -> None:
    data = diabetes()
    problem = build(least_squares, data)
    targets = np.asarray(problem.data.targets)
    assert np.isclose(targets.mean(), 0, atol=1e-14)
    assert np.isclose(targets.std(), 1, rtol=1e-14)
    expected = (data.test_targets - data.targets.mean()) / data.targets.std()
    assert np.allclose(problem.test.targets, expected, rtol=1e-13)


def test_input_mean_raises_the_largest_eigenvalue_as_the_spiked_model_says() -> None:
    n, p, m = 100, 1000, 0.5
    data = gaussian(samples=p, features=n, mean=m, condition_number=1.0, seed=1)
    largest = build(least_squares, data, preprocess.raw(), bias=False).known.eigenvalues[-1]
    theta, gamma = n * m**2, n / p
    # Baik, Silverstein 2006: fluctuates by about √(2/P)·λ, here 1.2; three of those
    assert abs(largest - (1 + theta) * (1 + gamma / theta)) < 3 * math.sqrt(2 / p) * largest
    centred = build(least_squares, data, preprocess.centered(), bias=False).known.eigenvalues[-1]
    assert abs(centred - (1 + math.sqrt(gamma)) ** 2) < 0.1  # Marchenko-Pastur's edge, which moves by P^(-2/3)


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("l2", [0.0, 0.05])
def test_logistic_closed_forms_equal_automatic_differentiation(classes, l2) -> None:
    problem = build(logistic, small(classes), l2=l2)
    outputs = 1 if classes == 2 else classes
    design = np.c_[np.asarray(problem.data.inputs), np.ones(problem.examples)]
    weights = np.random.default_rng(1).standard_normal((4, outputs))
    targets = np.asarray(problem.data.targets)

    def loss(flat):
        w = flat.reshape(4, outputs)
        return problem.loss({"weight": w[:-1], "bias": w[-1]}, problem.data)

    flat = jnp.asarray(weights.ravel())
    value, gradient, dense = jax.jit(lambda x: (loss(x), jax.grad(loss)(x), jax.hessian(loss)(x)))(flat)
    assert np.isclose(logistic_loss(design, targets, weights, l2), value, rtol=1e-14)
    assert np.allclose(logistic_gradient(design, targets, weights, l2).ravel(), gradient, atol=1e-14)
    hessian = logistic_hessian(design, weights, l2)
    assert np.allclose(hessian, dense, atol=1e-14)
    if classes > 2 and l2 == 0:  # one constant added to all logits of an example is no change: N+1 null directions
        null = np.kron(np.eye(4), np.ones(classes))
        assert np.abs(hessian @ null.T).max() < 1e-14


@each_preprocessing
@pytest.mark.parametrize("data", [breast_cancer(), wine()], ids=lambda d: d.name)
def test_logistic_minimum_has_no_gradient_and_its_value(data, prepare) -> None:
    problem = build(logistic, data, prepare)
    optimum = problem.known.optimum
    gradient = gradient_at(problem, optimum)
    size = np.abs(np.asarray(problem.data.inputs)).max() if not prepare.hidden else 10.0
    assert np.abs(gradient).max() < 1e-14 * max(size, 1)  # rounding of a mean of numbers of that size
    assert np.isclose(derivatives(problem.loss, optimum, problem.data)[0], problem.known.minimum, rtol=1e-14)


def test_logistic_minimum_is_scipys() -> None:
    problem = build(logistic, wine(), l2=0.01)
    first, unravel = ravel_pytree(start(problem))
    value = jax.jit(jax.value_and_grad(lambda x: problem.loss(unravel(x), problem.data)))
    found = scipy.optimize.minimize(
        lambda x: tuple(map(np.asarray, value(x))), first, jac=True, method="BFGS", tol=1e-9
    )
    assert abs(found.fun - problem.known.minimum) < 1e-12  # gtol²/l2 = 1e-16, and rounding


def test_digits_minimum_is_found() -> None:
    problem = build(logistic, digits())
    optimum = problem.known.optimum
    assert np.abs(gradient_at(problem, optimum)).max() < 1e-14


def test_without_l2_separable_classes_have_no_minimum_and_overlapping_ones_have() -> None:
    separable = build(logistic, wine(), l2=0.0)
    assert separable.known.minimum is None
    assert separable.lower_bound == 0.0
    assert "separable" in separable.notes[0]
    overlapping = build(logistic, small(3), l2=0.0)
    optimum = overlapping.known.optimum
    assert np.abs(gradient_at(overlapping, optimum)).max() < 1e-13
    assert overlapping.model is not None


@settings(deadline=None, max_examples=15)
@given(st.integers(0, 10_000), st.sampled_from([2, 3]), st.sampled_from([1e-4, 1e-2, 1.0]))
def test_no_point_lies_below_the_logistic_minimum(seed, classes, l2) -> None:
    problem = build(logistic, small(classes, seed=seed), l2=l2)
    optimum, unravel = ravel_pytree(problem.known.optimum)
    for scale in (1e-6, 1e-2, 1.0):
        point = optimum + scale * np.random.default_rng(seed).standard_normal(len(optimum))
        assert derivatives(problem.loss, unravel(point), problem.data)[0] >= problem.known.minimum - 4 * EPS


def test_loss_is_criterion_of_model() -> None:
    problem = build(least_squares, wine(), preprocess.batchnorm())
    params = start(problem)
    outputs = problem.model(params, problem.data.inputs)
    assert problem.loss(params, problem.data) == problem.criterion(outputs, problem.data.targets)


@pytest.mark.parametrize(
    "builder, data, options, key",
    [
        (logistic, diabetes(), {}, r"problem\.data=diabetes.*classes"),
        (logistic, wine(), {"l2": -1.0}, r"problem\.l2"),
        (logistic, wine(), {"l2": math.nan}, r"problem\.l2"),
        (least_squares, wine(), {"bias": "yes"}, r"problem\.bias"),
        (least_squares, "wine", {}, r"problem\.data"),
    ],
)
def test_bad_options_name_their_key(builder, data, options, key) -> None:
    with pytest.raises(ConfigError, match=key):
        build(builder, data, **options)
