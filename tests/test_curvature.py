"""Every operator against the dense matrix that automatic differentiation gives, in float64, and the identities between them."""

import itertools
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import waits
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from curvexp.curvature import (
    block,
    difference,
    fisher,
    ggn,
    gradient_covariance,
    hessian,
    layers,
    preconditioned,
    sampling_error,
    scaled,
    shifted,
)
from curvexp.linalg import eigsh

pytestmark = pytest.mark.usefixtures("x64")
P, N, K = 11, 3, 4
EXACT = 1e-12  # relative: float64 rounding of two orders of differentiation over 11 examples


def model(params, inputs):
    hidden = jnp.tanh(inputs @ params["one"]["kernel"] + params["one"]["bias"])
    return hidden @ params["two"]["kernel"]


def linear(params, inputs):
    return inputs @ params["w"]


def cross_entropy(outputs, targets):
    return -jnp.mean(jnp.take_along_axis(jax.nn.log_softmax(outputs), targets[:, None], 1))


def squared(outputs, targets):
    return 0.5 * jnp.mean(jnp.sum((outputs - targets) ** 2, axis=-1))


def loss(params, inputs, targets):
    return cross_entropy(model(params, inputs), targets)


@pytest.fixture
def case(x64):
    random = np.random.default_rng(0)
    params = {
        "one": {"kernel": random.standard_normal((N, 5)), "bias": random.standard_normal(5)},
        "two": {"kernel": random.standard_normal((5, K))},
    }
    return jax.tree.map(jnp.asarray, params), jnp.asarray(random.standard_normal((P, N))), jnp.arange(P) % K


def dense(function, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.hessian(lambda x: function(unravel(x))))(flat))


def jacobian(function, params):
    flat, unravel = ravel_pytree(params)
    return np.asarray(jax.jit(jax.jacobian(lambda x: function(unravel(x))))(flat))


def close(left, right):
    left, right = np.asarray(left), np.asarray(right)
    assert np.abs(left - right).max() <= EXACT * max(np.abs(right).max(), 1)


@pytest.mark.parametrize("chunk", [None, 1, 4, 11, 50])
def test_hessian_is_that_of_jax_whole_and_in_uneven_chunks(case, chunk):
    params, x, y = case
    op = hessian(loss, params, x, y, chunk=chunk)
    close(op.dense(), dense(lambda p: loss(p, x, y), params))
    assert op.size == 40
    assert op.dtype == np.float64


@pytest.mark.parametrize("width", [1, 7, 40, 400])
def test_dense_does_not_depend_on_how_many_columns_are_made_at_once(case, width):
    params, x, y = case
    op = hessian(loss, params, x, y)
    close(op.dense(chunk=width), op.dense())


def test_on_a_gpu_a_product_in_chunks_waits_for_nothing(case):
    params, x, y = case
    op = hessian(loss, params, x, y, chunk=4)
    program = jax.jit(lambda op, v: op(v)).lower(op, params).compile()
    assert " while(" in program.as_text()
    assert waits(program) == []


@pytest.mark.parametrize("chunk", [None, 4])
def test_ggn_is_the_jacobian_around_the_criterions_hessian(case, chunk):
    params, x, y = case
    j = jacobian(lambda p: model(p, x), params).reshape(P * K, -1)
    outputs = model(params, x)
    inner = jax.hessian(lambda f: cross_entropy(f, y))(outputs).reshape(P * K, P * K)
    close(ggn(model, cross_entropy, params, x, y, chunk=chunk).dense(), j.T @ inner @ j)


def test_hessian_is_ggn_plus_residual_part(case):
    params, x, y = case
    h, g = hessian(loss, params, x, y), ggn(model, cross_entropy, params, x, y)
    second = dense(lambda p: model(p, x).ravel(), params)
    slope = np.asarray(jax.grad(lambda f: cross_entropy(f, y))(model(params, x))).ravel()
    close(difference(h, g).dense(), np.einsum("i,iab->ab", slope, second))


def test_ggn_of_a_linear_model_with_squared_error_is_its_hessian(case):
    _, x, _ = case
    params, y = {"w": jnp.ones((N, 2))}, jnp.zeros((P, 2))
    h = hessian(lambda p: squared(linear(p, x), y), params)
    close(ggn(linear, squared, params, x, y).dense(), h.dense())


@pytest.mark.parametrize("chunk", [None, 4])
def test_true_fisher_is_the_ggn_of_its_likelihood(case, chunk):
    params, x, y = case
    close(fisher(model, "softmax", params, x, chunk=chunk).dense(), ggn(model, cross_entropy, params, x, y).dense())
    real = jnp.zeros((P, K))
    close(fisher(model, "gaussian", params, x, chunk=chunk).dense(), ggn(model, squared, params, x, real).dense())


def test_empirical_fisher_and_covariance_are_moments_of_the_examples_gradients(case):
    params, x, y = case
    gradients = jacobian(lambda p: jax.vmap(lambda a, b: loss(p, a[None], b[None]))(x, y), params)
    close(fisher(model, "softmax", params, x, kind="empirical", targets=y).dense(), gradients.T @ gradients / P)
    centred = gradients - gradients.mean(axis=0)
    close(gradient_covariance(model, cross_entropy, params, x, y).dense(), centred.T @ centred / P)


def test_sampled_fisher_comes_near_the_true_one_as_samples_grow(case):
    params, x, _ = case
    true = fisher(model, "softmax", params, x).dense()

    def error(samples):
        key = jax.random.key(0)
        found = fisher(model, "softmax", params, x, kind="sampled", samples=samples, key=key).dense()
        return float(jnp.linalg.norm(found - true) / jnp.linalg.norm(true))

    assert error(10000) < 0.05  # 1/√(10000·11) times a few
    assert error(10) > 2 * error(10000)  # √1000 in expectation


def test_preconditioned_scaled_shifted(case):
    params, x, y = case
    op = hessian(loss, params, x, y)
    h = np.asarray(op.dense())
    p = jax.tree.map(lambda leaf: 0.5 + jnp.abs(leaf), params)
    root = np.sqrt(np.asarray(ravel_pytree(p)[0]))
    close(preconditioned(op, p).dense(), h / np.outer(root, root))
    close(scaled(op, -2.0).dense(), -2 * h)
    close(shifted(op, 3.0).dense(), h + 3 * np.eye(40))


def test_blocks_are_the_diagonal_blocks_and_interlace(case):
    params, x, y = case
    op = hessian(loss, params, x, y)
    h = np.asarray(op.dense())  # leaves in the order one/bias, one/kernel, two/kernel
    close(block(op, "two").dense(), h[20:, 20:])
    close(block(op, lambda path: path.endswith("bias")).dense(), h[:5, :5])
    assert {name: part.size for name, part in layers(op).items()} == {"one": 20, "two": 20}
    whole, part = np.linalg.eigvalsh(h), np.linalg.eigvalsh(h[20:, 20:])
    found = eigsh(block(op, "two"), k=1, tol=1e-10)
    assert abs(float(found.eigenvalues[0]) - part[-1]) < 1e-9 * whole[-1]
    assert whole[19] - 1e-12 <= part[0]  # Cauchy: λ_i of the whole <= λ_i of the block <= λ_(i+20)
    assert part[-1] <= whole[-1] + 1e-12
    with pytest.raises(ValueError, match="one/bias"):
        block(op, "three")


def test_stacked_vectors_are_multiplied_one_by_one(case):
    params, x, y = case
    op = hessian(loss, params, x, y)
    stack = jax.tree.map(lambda leaf: jnp.stack([leaf, 2 * leaf, -leaf]), params)
    one = ravel_pytree(op(params))[0]
    many = jax.vmap(lambda v: ravel_pytree(v)[0])(op.many(stack))
    close(many, np.outer([1, 2, -1], one))


def test_one_program_serves_all_values_of_one_loss():
    traces = []

    def counted(params, scale):
        traces.append(1)
        return jnp.sum(scale * params["w"] ** 4)

    def top(scale):
        op = hessian(counted, {"w": jnp.arange(1.0, 9.0) * scale}, jnp.asarray(scale))
        return float(eigsh(op, k=1, tol=1e-8).eigenvalues[0])

    assert top(1.0) == pytest.approx(12 * 64, rel=1e-8)  # ∂²(s·w⁴) = 12·s·w², w = 8·s
    first = len(traces)
    assert top(2.0) == pytest.approx(2 * 12 * 256, rel=1e-8)
    assert len(traces) == first > 0


def test_an_operator_can_be_made_and_solved_inside_jit(case):
    params, x, y = case
    top = jax.jit(lambda p: eigsh(hessian(loss, p, x, y), k=1, tol=1e-8).eigenvalues[0])
    assert abs(float(top(params)) - np.linalg.eigvalsh(dense(lambda p: loss(p, x, y), params))[-1]) < 1e-8


def test_chunks_are_refused_where_the_loss_is_no_mean(case):
    params, x, y = case

    def normalized(p, inputs, targets):
        inputs = (inputs - inputs.mean(0)) / inputs.std(0)
        return loss(p, inputs, targets)

    with pytest.raises(ValueError, match="coupled"):
        hessian(normalized, params, x, y, chunk=8)
    with pytest.raises(ValueError, match="leading axes"):
        hessian(loss, params, x, y[:5], chunk=8)
    with pytest.raises(ValueError, match="chunk=0"):
        hessian(loss, params, x, y, chunk=0)


def test_parameters_that_have_no_curvature_are_refused_by_name():
    with pytest.raises(TypeError, match=r"'i'.*int"):
        hessian(lambda p: 0.0, {"i": jnp.arange(3)})
    with pytest.raises(TypeError, match="complex"):
        hessian(lambda p: 0.0, {"c": jnp.ones(2, complex)})
    with pytest.raises(ValueError, match="at least one parameter"):
        hessian(lambda p: 0.0, {})


def test_ghost_batches_are_chunked_by_their_multiples_alone(case):
    params, inputs, targets = case
    inputs, targets = jnp.tile(inputs, (2, 1))[:20], jnp.tile(targets, 2)[:20]

    def ghost(params, inputs, targets):
        groups = inputs.reshape(-1, 5, N)
        standardised = (groups - groups.mean(axis=1, keepdims=True)) / groups.std(axis=1, keepdims=True)
        return loss(params, standardised.reshape(inputs.shape), targets)

    exact = dense(lambda p: ghost(p, inputs, targets), params)
    close(hessian(ghost, params, inputs, targets, chunk=10).dense(), exact)
    with pytest.raises(ValueError, match="coupled"):
        hessian(lambda p, x, t: loss(p, x - x.mean(axis=0), t), params, inputs, targets, chunk=10)


def test_sampling_error_covers_the_whole_datas_curvature_as_often_as_it_states(case):
    params, _, _ = case
    random = np.random.default_rng(1)
    inputs, targets = jnp.asarray(random.standard_normal((2000, N))), jnp.asarray(random.integers(0, K, 2000))
    whole = eigsh(hessian(loss, params, inputs, targets), k=2, tol=1e-8)
    within = []
    for seed in range(100):
        chosen = jax.random.choice(jax.random.key(seed), 2000, (400,), replace=False)
        found = sampling_error(
            loss, params, inputs[chosen], targets[chosen], vectors=whole.eigenvectors, groups=20, population=2000
        )
        within.append(np.abs(np.asarray(found.mean) - np.asarray(whole.eigenvalues)) <= 2 * np.asarray(found.stderr))
    # two standard errors from 20 groups hold 94 % (Student's t, 19 degrees); five deviations of a count of 200 below that is 86 %
    assert 0.86 <= np.mean(within) <= 1
    full = sampling_error(loss, params, inputs, targets, vectors=whole.eigenvectors, population=2000)
    np.testing.assert_allclose(full.mean, whole.eigenvalues, rtol=1e-7)
    assert (np.asarray(full.stderr) == 0).all()  # all examples: nothing is left to chance
    with pytest.raises(ValueError, match="population=5"):
        sampling_error(loss, params, inputs, targets, vectors=whole.eigenvectors, population=5)


def test_sampling_error_is_unbiased_over_all_samples_of_a_population_in_unequal_groups():
    """Each of 6 examples has the Hessian a_i: v'Hv of a sample is its mean. All 720 orders, of which a sample takes the first 5."""
    values = np.array([0.3, 1.0, 2.5, -1.0, 4.0, 0.7])
    orders = np.array(list(itertools.permutations(range(6))))[:, :5]

    def loss(params, a):
        return 0.5 * jnp.mean(a) * jnp.sum(params**2)

    def of(order):
        found = sampling_error(loss, jnp.ones(1), values[order], vectors=jnp.ones((1, 1)), groups=2, population=6)
        return found.mean[0], found.stderr[0] ** 2

    some = orders[:: 720 // 20]
    means, squares = np.array([of(order) for order in some]).T
    every = values[orders]
    assert np.allclose(means, every[:: 720 // 20].mean(axis=1), rtol=1e-13)  # all 5 examples are in the mean
    # the estimate of all 720 by the stated formula, which the 20 computed ones follow
    first, second, whole = every[:, :3].mean(axis=1), every[:, 3:].mean(axis=1), every.mean(axis=1)
    formula = (3 * (first - whole) ** 2 + 2 * (second - whole) ** 2) * (1 - 5 / 6) / 5
    np.testing.assert_allclose(squares, formula[:: 720 // 20], rtol=1e-12)
    assert formula.mean() == pytest.approx(whole.var(), rel=1e-12)  # the variance of the mean over all samples


def test_sampling_error_takes_all_examples_in_groups_that_do_not_divide_them():
    values = np.random.default_rng(0).standard_normal(59)
    found = sampling_error(
        lambda p, a: 0.5 * jnp.mean(a) * jnp.sum(p**2), jnp.ones(1), values, vectors=jnp.ones((1, 1)), population=59
    )
    assert float(found.mean[0]) == pytest.approx(values.mean(), rel=1e-13)
    assert float(found.stderr[0]) == 0


@pytest.mark.parametrize(
    "family, shape",
    [
        ("softmax", (P, 2, K)),
        ("gaussian", (P, 2, K)),
        ("bernoulli", (P, 2, K)),
        ("bernoulli", (P,)),
        ("gaussian", (P,)),
    ],
)
def test_fisher_is_the_second_moment_of_explicit_scores(family, shape):
    """Of each prediction: the sum over all labels, or over the nodes of Gauss-Hermite's rule, of probability times score times score."""
    random = np.random.default_rng(0)
    params, inputs = jnp.asarray(random.standard_normal((N, *shape[1:]))), jnp.asarray(random.standard_normal((P, N)))

    def outputs(params, data):
        return jnp.tanh(jnp.tensordot(data["x"], params, 1))

    data = {"x": inputs}  # one entry, not P, is the length of this
    rows = np.asarray(outputs(params, data)).reshape(-1, shape[-1] if len(shape) > 1 else 1)
    j = jacobian(lambda p: outputs(p, data), params).reshape(*rows.shape, -1)
    exact = np.zeros((j.shape[-1], j.shape[-1]))
    for row, slope in zip(rows, j, strict=True):
        for probability, score in _labels(row, family):
            exact += probability * np.outer(score @ slope, score @ slope) / len(rows)
    close(fisher(outputs, family, params, data).dense(), exact)
    close(fisher(outputs, family, params, data, chunk=4).dense(), exact)
    criterion = {
        "softmax": lambda f, y: -jnp.mean(jnp.sum(y * jax.nn.log_softmax(f), -1)),
        "gaussian": lambda f, y: 0.5 * jnp.sum((f - y) ** 2) / len(rows),
        "bernoulli": lambda f, y: jnp.sum(jax.nn.softplus(f) - y * f) / len(rows),
    }[family]
    labels = jax.nn.one_hot(jnp.zeros(shape[:-1], int), shape[-1])
    close(ggn(outputs, criterion, params, data, labels if family == "softmax" else jnp.zeros(shape)).dense(), exact)


def _labels(row, family):
    """Probability and score of each label that a prediction may have."""
    if family == "softmax":
        p = np.exp(row) / np.exp(row).sum()
        return [(p[k], p - np.eye(len(row))[k]) for k in range(len(row))]
    if family == "bernoulli":
        p = 1 / (1 + np.exp(-row))
        labels = np.array(list(itertools.product([0, 1], repeat=len(row))))
        return [(np.prod(np.where(label, p, 1 - p)), p - label) for label in labels]
    nodes = np.array(list(itertools.product([-1, 1], repeat=len(row))))  # the rule of two nodes: exact for squares
    return [(1 / len(nodes), node) for node in nodes]


@pytest.mark.parametrize("family", ["softmax", "gaussian", "bernoulli"])
def test_sampled_scores_have_the_moments_of_their_family(family):
    params = {"logits": jnp.array([0.3, -1.0, 0.8])}
    found = fisher(
        lambda p, x: jnp.broadcast_to(p["logits"], (len(x), 2, 3)),
        family,
        params,
        jnp.zeros((50, 1)),
        kind="sampled",
        samples=400,
        key=jax.random.key(0),
    )
    true = fisher(lambda p, x: jnp.broadcast_to(p["logits"], (len(x), 2, 3)), family, params, jnp.zeros((50, 1)))
    # 40 000 draws: entries of size 1 with a standard error of at most √(2/40000) = 0.007, of which five
    assert np.abs(np.asarray(found.dense()) - np.asarray(true.dense())).max() < 0.035


def test_empirical_fisher_takes_classes_one_hot_rows_and_tokens():
    random = np.random.default_rng(0)
    params, inputs = jnp.asarray(random.standard_normal((N, 2 * K))), jnp.asarray(random.standard_normal((P, N)))
    outputs = lambda params, x: (x @ params).reshape(-1, 2, K)  # noqa: E731
    classes = random.integers(K, size=(P, 2))
    slopes = jacobian(
        lambda p: jnp.take_along_axis(jax.nn.log_softmax(outputs(p, inputs)), classes[..., None], -1), params
    )
    exact = (lambda g: g.T @ g / (2 * P))(slopes.reshape(2 * P, -1))
    options = {"kind": "empirical", "chunk": 4}
    close(fisher(outputs, "softmax", params, inputs, targets=classes, **options).dense(), exact)
    close(fisher(outputs, "softmax", params, inputs, targets=np.eye(K)[classes], **options).dense(), exact)
    one = lambda params, x: x @ params  # noqa: E731
    weights, labels = params[:, :1], classes[:, 0] % 2
    score = jax.nn.sigmoid(inputs @ weights) - labels[:, None]
    exact = np.asarray((score * inputs).T @ (score * inputs) / P)
    for targets in (labels, labels.astype(bool), labels[:, None].astype(float)):
        close(fisher(one, "bernoulli", weights, inputs, kind="empirical", targets=targets).dense(), exact)
    score = inputs @ weights - labels[:, None]
    exact = np.asarray((score * inputs).T @ (score * inputs) / P)
    close(fisher(one, "gaussian", weights, inputs, kind="empirical", targets=labels).dense(), exact)


@pytest.mark.parametrize(
    "family, width, targets, words",
    [
        ("softmax", None, None, "bernoulli"),
        ("softmax", 1, None, "bernoulli"),
        ("poisson", K, None, "expected 'softmax', 'bernoulli' or 'gaussian'"),
        ("softmax", K, np.full(P, K), "entry 4"),
        ("softmax", K, np.full(P, -1), "entry -1"),
        ("softmax", K, np.zeros(P), "integer classes"),
        ("softmax", K, np.zeros(P + 1, int), r"int64\[12\]"),
        ("softmax", K, np.ones((P, K)), "sum of 1"),
        ("bernoulli", 1, np.full(P, 2), "probability"),
        ("bernoulli", 1, np.full(P, -1), "probability"),
        ("gaussian", 2, np.zeros(P), r"expected \(11, 2\)"),
        ("gaussian", 1, np.full(P, np.nan), "finite"),
    ],
)
def test_outputs_and_labels_that_do_not_fit_are_refused(family, width, targets, words):
    params = jnp.ones((N,) if width is None else (N, width))
    kind = "true" if targets is None else "empirical"
    with pytest.raises((ValueError, TypeError), match=words):
        fisher(lambda w, x: x @ w, family, params, jnp.ones((P, N)), kind=kind, targets=targets)


def test_fisher_refuses_labels_that_it_would_not_read():
    with pytest.raises(ValueError, match="takes no targets"):
        fisher(linear, "softmax", {"w": jnp.ones((N, K))}, jnp.ones((P, N)), targets=jnp.zeros(P, int))


def test_labels_out_of_range_are_nan_under_jit():
    op = jax.jit(
        lambda y: fisher(
            linear, "softmax", {"w": jnp.ones((N, K))}, jnp.ones((P, N)), kind="empirical", targets=y
        ).dense()
    )
    assert np.isfinite(op(jnp.zeros(P, int))).all()
    assert np.isnan(op(jnp.full(P, K))).any()


def test_gradient_covariance_takes_pytrees_of_examples(case):
    params, x, y = case
    gradients = jacobian(lambda p: jax.vmap(lambda a, b: loss(p, a[None], b[None]))(x, y), params)
    centred = gradients - gradients.mean(axis=0)
    found = gradient_covariance(
        lambda p, data: model(p, data["x"]),
        lambda f, data: cross_entropy(f, data[0]),
        params,
        {"x": np.asarray(x)},
        (y,),
    )
    close(found.dense(), centred.T @ centred / P)
    with pytest.raises(ValueError, match=r"gradient_covariance: .*leading axes"):
        gradient_covariance(model, cross_entropy, params, x, y[:5])
    with pytest.raises(TypeError, match="expected one real number"):
        gradient_covariance(model, lambda f, t: f, params, x, y)


def test_numpy_parameters_are_in_the_precision_that_jax_computes_in():
    with jax.enable_x64(False):
        op = hessian(lambda p: jnp.sum(p["w"] ** 4), {"w": np.ones(3)})
        assert op.dtype == np.float32
        np.testing.assert_array_equal(op.dense(), 12 * np.eye(3))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from curvexp import eigsh, hessian, spectral_density

assert jax.device_count() == 8
random = np.random.default_rng(0)
params = {"one": jnp.asarray(random.standard_normal((6, 9)), jnp.float32), "two": jnp.asarray(random.standard_normal((9, 3)), jnp.float32)}
inputs, targets = random.standard_normal((64, 6)).astype(np.float32), random.standard_normal((64, 3)).astype(np.float32)


def loss(params, x, t):
    return jnp.mean((jnp.tanh(x @ params["one"]) @ params["two"] - t) ** 2)


mesh = Mesh(np.array(jax.devices()), ("batch",))
split = lambda a: jax.device_put(a, NamedSharding(mesh, PartitionSpec("batch")))
everywhere = jax.device_put(params, NamedSharding(mesh, PartitionSpec()))
one, eight = hessian(loss, params, inputs, targets), hessian(loss, everywhere, split(inputs), split(targets))
assert len(split(inputs).sharding.device_set) == 8
norm = float(jnp.abs(jnp.linalg.eigvalsh(one.dense())).max())
# float32: sums over 64 examples in another order, through two orders of differentiation
assert float(jnp.abs(one.dense() - eight.dense()).max()) < 1e-5 * norm
a, b = eigsh(one, k=4, which="BE", tol=1e-4), eigsh(eight, k=4, which="BE", tol=1e-4)
assert b.converged and float(jnp.abs(a.eigenvalues - b.eigenvalues).max()) < 2e-4 * norm
a, b = (spectral_density(op, probes=3, steps=10) for op in (one, eight))
assert abs(float(a.mean - b.mean)) < 1e-5 * norm
print("equal on 8 devices")
"""


def test_examples_over_eight_devices_give_the_same(tmp_path):
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    found = subprocess.run(
        [sys.executable, "-c", SHARDED], capture_output=True, text=True, timeout=240, env={**os.environ, **flags}
    )
    assert found.returncode == 0, found.stderr
    assert "equal on 8 devices" in found.stdout


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 3.0]), st.sampled_from([2, 5, 11]))
def test_identities_hold_at_random_parameters_and_data(seed, scale, chunk):
    with jax.enable_x64(True):
        random = np.random.default_rng(seed)
        shapes = {"one": {"kernel": (N, 5), "bias": (5,)}, "two": {"kernel": (5, K)}}
        params = jax.tree.map(
            lambda shape: jnp.asarray(scale * random.standard_normal(shape)), shapes, is_leaf=lambda x: type(x) is tuple
        )
        x, y = jnp.asarray(random.standard_normal((P, N))), jnp.asarray(random.integers(K, size=P))
        h, g = hessian(loss, params, x, y), ggn(model, cross_entropy, params, x, y)
        matrix, gauss = np.asarray(h.dense()), np.asarray(g.dense())
        close(hessian(loss, params, x, y, chunk=chunk).dense(), matrix)
        close(difference(h, g).dense(), matrix - gauss)
        close(fisher(model, "softmax", params, x).dense(), gauss)
        close(matrix, matrix.T)
        size = np.abs(gauss).max()
        assert np.linalg.eigvalsh(gauss).min() > -1e-12 * max(size, 1)  # positive semidefinite to rounding
        whole = np.linalg.eigvalsh(matrix)
        for part in layers(h).values():
            inner = np.linalg.eigvalsh(np.asarray(part.dense()))
            left = len(whole) - len(inner)  # Cauchy: λ_i(A) <= λ_i(block) <= λ_(i + left)(A)
            slack = 1e-12 * max(np.abs(whole).max(), 1)
            assert (whole[: len(inner)] <= inner + slack).all()
            assert (inner <= whole[left:] + slack).all()


def test_many_columns_of_a_fisher_at_once_are_those_one_by_one():
    """128 columns over 426 outputs: XLA's CPU fuses a sum over the outputs with its use wrongly there (jaxlib 0.10.2)."""
    rng = np.random.default_rng(0)
    shapes = {"a": (13, 8), "b": (8,), "c": (8, 3), "d": (3,)}
    params = {name: rng.normal(size=shape).astype(np.float32) / 3 for name, shape in shapes.items()}
    x = rng.normal(size=(142, 13)).astype(np.float32)

    def network(p, x):
        return jnp.tanh(x @ p["a"] + p["b"]) @ p["c"] + p["d"]

    op = fisher(network, "softmax", params, x)
    wide, narrow = np.asarray(op.dense(chunk=128)), np.asarray(op.dense(chunk=8))
    np.testing.assert_allclose(wide, narrow, atol=1e-5 * narrow.max())  # float32: eps times the sums' lengths
