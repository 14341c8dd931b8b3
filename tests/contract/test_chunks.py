"""An operator over chunks of the examples is the operator over all of them, or it is refused."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.flatten_util import ravel_pytree

from curvexp import WeightedMean, fisher, ggn, gradient_covariance, hessian, sampling_error

pytestmark = pytest.mark.usefixtures("x64")
P, T, N, K, CHUNK = 22, 5, 3, 2, 4  # examples, tokens each; inputs, hidden units; 22 = 5·4 + 2
EXACT = 1e-12  # relative: float64 sums over 22 examples in another order, through two orders of differentiation


@pytest.fixture
def case(x64):
    random = np.random.default_rng(0)
    params = {
        "body": jnp.asarray(random.standard_normal((N, K))),
        "head": jnp.zeros((K, 1)),  # as people initialise it: the loss itself does not see the features
    }
    inputs, targets = random.standard_normal((P, T, N)), random.standard_normal((P, T, 1))
    lengths = np.sort(random.integers(1, T + 1, P))  # of equal length in the first chunks, as bucketed data is
    lengths[: 2 * CHUNK] = lengths[0]
    mask = np.arange(T) < lengths[:, None]
    return params, jnp.asarray(inputs), jnp.asarray(targets), jnp.asarray(mask, float)


def model(params, inputs):
    return jnp.tanh(inputs @ params["body"]) @ params["head"]


def batch_normalized(params, inputs):
    hidden = inputs @ params["body"]
    mean, variance = hidden.mean(axis=(0, 1)), hidden.var(axis=(0, 1))
    return jnp.tanh((hidden - mean) / jnp.sqrt(variance + 1e-5)) @ params["head"]


def ghost(params, inputs):
    """Statistics of successive pairs of examples."""
    hidden = (inputs @ params["body"]).reshape(-1, 2, T, K)
    mean, variance = hidden.mean(axis=(1, 2), keepdims=True), hidden.var(axis=(1, 2), keepdims=True)
    normalized = (hidden - mean) / jnp.sqrt(variance + 1e-5)
    return jnp.tanh(normalized.reshape(-1, T, K)) @ params["head"]


def errors(outputs, targets):
    """Of each example, (P,)."""
    return jnp.mean((outputs - targets) ** 2, axis=(1, 2))


def penalty(params):
    return 0.1 * sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(params))


def contrastive(params, inputs, targets, mask):
    features = jnp.tanh(inputs[:, 0] @ params["body"]) + model(params, inputs)[:, 0]
    return -jnp.mean(jnp.diag(jax.nn.log_softmax(features @ features.T)))


def tokens(params, inputs, targets, mask):
    squared = mask * ((model(params, inputs) - targets) ** 2)[..., 0]
    return WeightedMean(jnp.sum(squared), jnp.sum(mask))


def bent(params, inputs, targets, mask):
    weights = jnp.exp(jnp.mean(inputs @ params["body"], axis=(1, 2)))
    return WeightedMean(jnp.sum(weights * errors(model(params, inputs), targets)), jnp.sum(weights))


def of_tokens(params, inputs, targets, mask):
    found = tokens(params, inputs, targets, mask)
    return found.sum / found.weight


MEANS = {
    "mean and penalty": lambda p, x, y, m: jnp.mean(errors(model(p, x), y)) + penalty(p),
    "WeightedMean and penalty": lambda p, *a: WeightedMean(
        tokens(p, *a).sum + tokens(p, *a).weight * penalty(p), tokens(p, *a).weight
    ),
    "ghost batches": lambda p, x, y, m: jnp.mean(errors(ghost(p, x), y)),
}
COUPLED = {
    "batch normalization": lambda p, x, y, m: jnp.mean(errors(batch_normalized(p, x), y)),
    "padded tokens": of_tokens,
    "contrastive": contrastive,
    "sum": lambda p, x, y, m: jnp.sum(errors(model(p, x), y)),
    "penalty over the batch": lambda p, x, y, m: jnp.mean(errors(model(p, x), y)) + penalty(p) / len(x),
    "hardest half": lambda p, x, y, m: jnp.mean(jnp.sort(errors(model(p, x), y))[len(x) // 2 :]),
    "WeightedMean and a penalty without weight": lambda p, *a: WeightedMean(
        tokens(p, *a).sum + penalty(p), tokens(p, *a).weight
    ),
}


@pytest.mark.parametrize("name", MEANS)
def test_a_mean_is_exact_in_chunks(case, name):
    params, *data = case
    params = {**params, "head": params["head"] + 0.5}
    whole = np.asarray(hessian(MEANS[name], params, *data).dense())
    found = np.asarray(hessian(MEANS[name], params, *data, chunk=CHUNK).dense())
    assert np.abs(found - whole).max() <= EXACT * np.abs(whole).max()


@pytest.mark.parametrize(
    "name, dtype",
    [*((name, "float64") for name in COUPLED), ("batch normalization", "float32"), ("padded tokens", "float32")],
)
def test_what_is_no_mean_is_refused_although_the_head_is_zero(case, name, dtype):
    params, *data = jax.tree.map(lambda leaf: leaf.astype(dtype), case)
    with pytest.raises(ValueError, match=r"chunk=4.*(coupled|a sum)"):
        hessian(COUPLED[name], params, *data, chunk=CHUNK)


def test_weights_that_depend_on_the_parameters_are_refused_in_chunks_and_exact_without(case):
    params, *data = case
    with pytest.raises(ValueError, match=r"weight.*depends on the parameters"):
        hessian(bent, params, *data, chunk=CHUNK)
    flat, unravel = ravel_pytree(params)
    ratio = lambda flat: (lambda found: found.sum / found.weight)(bent(unravel(flat), *data))  # noqa: E731
    exact = np.asarray(jax.hessian(ratio)(flat))
    assert np.abs(np.asarray(hessian(bent, params, *data).dense()) - exact).max() <= EXACT * np.abs(exact).max()


def test_chunks_of_padding_alone_add_nothing(case):
    params, inputs, targets, mask = case
    mask = mask.at[:CHUNK].set(0)
    whole = np.asarray(hessian(of_tokens, params, inputs, targets, mask).dense())
    found = np.asarray(hessian(tokens, params, inputs, targets, mask, chunk=CHUNK).dense())
    assert np.abs(found - whole).max() <= EXACT * np.abs(whole).max()


def test_under_jit_a_coupled_loss_is_nan_and_a_mean_exact(case):
    params, *data = case

    @functools.partial(jax.jit, static_argnames="loss")
    def matrix(params, data, loss):
        return hessian(loss, params, *data, chunk=CHUNK).dense()

    assert np.isnan(matrix(params, data, of_tokens)).all()
    whole = np.asarray(hessian(of_tokens, params, *data).dense())
    assert np.abs(matrix(params, data, tokens) - whole).max() <= EXACT * np.abs(whole).max()


def test_where_the_loss_is_not_finite_chunks_are_nan():
    op = hessian(
        lambda p, x: jnp.mean(jnp.log(p * x)), -jnp.ones(()), jnp.arange(1.0, 8), chunk=3
    )  # its derivatives are finite
    assert np.isnan(op(jnp.ones(())))


def test_fisher_and_sampling_error_refuse_what_couples_examples_too(case):
    params, inputs, targets, mask = case
    with pytest.raises(ValueError, match=r"outputs .*coupled"):
        fisher(batch_normalized, "gaussian", params, inputs, chunk=CHUNK)
    with pytest.raises(ValueError, match="coupled"):
        sampling_error(COUPLED["batch normalization"], params, inputs, targets, mask, vectors=_unit(params), groups=5)


def normalized_last(epsilon):
    """Batch normalization as the last layer, with scale and bias: the mean of its outputs is the bias in every chunk."""

    def model(params, inputs):
        hidden = inputs[:, 0] @ params["body"]
        deviation = jnp.sqrt(hidden.var(axis=0) + epsilon)
        return (hidden - hidden.mean(axis=0)) / deviation * params["scale"] + params["bias"]

    return model


def scaled_and_biased(params):
    return {"body": params["body"], "scale": jnp.ones(K), "bias": jnp.ones(K)}


CLASSES = jnp.arange(P) % K
SQUARES = lambda outputs, targets: jnp.mean(outputs**2)  # noqa: E731  # of normalized outputs: 1 + bias² in every chunk
THROUGH_OUTPUTS = {
    "softmax": lambda m, p, x, chunk: fisher(m, "softmax", p, x, chunk=chunk),
    "bernoulli": lambda m, p, x, chunk: fisher(m, "bernoulli", p, x, chunk=chunk),
    "gaussian": lambda m, p, x, chunk: fisher(m, "gaussian", p, x, chunk=chunk),
    "sampled": lambda m, p, x, chunk: fisher(m, "softmax", p, x, kind="sampled", key=0, chunk=chunk),
    "empirical": lambda m, p, x, chunk: fisher(m, "softmax", p, x, kind="empirical", targets=CLASSES, chunk=chunk),
    "ggn": lambda m, p, x, chunk: ggn(m, SQUARES, p, x, x[:, 0, :K], chunk=chunk),
}


@pytest.mark.parametrize("name", THROUGH_OUTPUTS)
def test_coupled_outputs_are_refused_although_their_loss_is_a_mean(case, name):
    params, inputs, *_ = jax.tree.map(lambda leaf: leaf.astype("float32"), case)
    with pytest.raises(ValueError, match=r"chunk=4: .*outputs .*coupled"):
        THROUGH_OUTPUTS[name](normalized_last(1e-5), scaled_and_biased(params), inputs, CHUNK)


def test_single_examples_that_are_not_finite_beside_a_whole_that_is_are_refused(case):
    """A batch of one has the variance 0."""
    params, inputs, *_ = case
    with pytest.raises(ValueError, match=r"chunk=1: .*outputs .*nan.*coupled"):
        THROUGH_OUTPUTS["gaussian"](normalized_last(0.0), scaled_and_biased(params), inputs, 1)


def test_under_jit_coupled_outputs_are_nan(case):
    params, inputs, *_ = case
    params = scaled_and_biased(params)
    found = jax.jit(lambda p: THROUGH_OUTPUTS["ggn"](normalized_last(1e-5), p, inputs, CHUNK)(p))(params)
    assert all(np.isnan(leaf).all() for leaf in jax.tree.leaves(found))


SQUARED = lambda outputs, targets: jnp.mean((outputs - targets) ** 2)  # noqa: E731
NO_OWN_GRADIENTS = {
    "normalized last": (normalized_last(0.0), SQUARED, "outputs .*nan"),  # an example alone: 0/0
    "with epsilon": (normalized_last(1e-5), SQUARED, "outputs "),  # an example alone: the bias
    "contrastive": (
        lambda p, x: x[:, 0] @ p["body"],
        lambda f, y: -jnp.mean(jnp.diag(jax.nn.log_softmax(f @ f.T))),
        "loss ",
    ),
    "sum": (lambda p, x: x[:, 0] @ p["body"], lambda f, y: jnp.sum((f - y) ** 2), "loss .*a sum"),
}


@pytest.mark.parametrize("name", NO_OWN_GRADIENTS)
def test_gradient_covariance_refuses_what_couples_examples(case, name):
    params, inputs, targets, _ = case
    model, criterion, words = NO_OWN_GRADIENTS[name]
    with pytest.raises(ValueError, match=f"gradient_covariance: .*{words}"):
        gradient_covariance(model, criterion, scaled_and_biased(params), inputs, targets[:, 0])


def test_under_jit_the_gradient_covariance_of_coupled_examples_is_nan_and_that_of_others_exact(case):
    params, inputs, targets, _ = case
    params = {**scaled_and_biased(params), "head": params["head"] + 0.5}

    def matrix(model, p):
        return gradient_covariance(model, SQUARED, p, inputs, targets[:, 0]).dense()

    plain = lambda p, x: model(p, x)[:, 0] * p["scale"]  # noqa: E731
    assert np.isnan(jax.jit(functools.partial(matrix, normalized_last(1e-5)))(params)).all()
    flat, unravel = ravel_pytree(params)
    losses = lambda flat: jnp.mean((plain(unravel(flat), inputs) - targets[:, 0]) ** 2, axis=-1)  # noqa: E731
    exact = np.cov(np.asarray(jax.jacobian(losses)(flat)).T, bias=True)
    found = np.asarray(jax.jit(functools.partial(matrix, plain))(params))
    assert np.abs(found - exact).max() <= EXACT * np.abs(exact).max()


def test_outputs_may_have_their_examples_on_any_axis_and_parts_of_the_parameters_alone(case):
    params, inputs, targets, _ = case
    params = {**params, "head": params["head"] + 0.5}

    def outputs(p, x):
        return {"time major": jnp.swapaxes(model(p, x), 0, 1), "penalty": penalty(p)}

    def criterion(f, y):
        return jnp.mean((f["time major"] - jnp.swapaxes(y, 0, 1)) ** 2) + f["penalty"] ** 2

    whole, found = (
        np.asarray(ggn(outputs, criterion, params, inputs, targets, chunk=c).dense()) for c in (None, CHUNK)
    )
    assert np.abs(found - whole).max() <= EXACT * np.abs(whole).max()
    similarity = lambda p, x: model(p, x)[:, 0] @ model(p, x)[:, 0].T  # noqa: E731  # examples by examples
    with pytest.raises(ValueError, match=r"outputs .*inf.*coupled"):
        ggn(similarity, lambda f, y: jnp.mean(jnp.diag(f) ** 2), params, inputs, targets, chunk=CHUNK)


@pytest.mark.parametrize("dtype", [bool, "int32", "uint8"])
def test_a_weight_may_be_a_count(case, dtype):
    params, inputs, targets, mask = case
    params, whole = {**params, "head": params["head"] + 0.5}, mask.astype(dtype)
    exact = np.asarray(hessian(tokens, params, inputs, targets, mask).dense())
    for chunk in (None, CHUNK):
        found = np.asarray(hessian(tokens, params, inputs, targets, whole, chunk=chunk).dense())
        assert np.abs(found - exact).max() <= EXACT * np.abs(exact).max()
    with pytest.raises(TypeError, match=r"WeightedMean the sum is a real number"):
        hessian(lambda p, m: WeightedMean(jnp.sum(p["head"]), jnp.sum(m)[None]), params, whole)
    with pytest.raises(TypeError, match=r"WeightedMean the sum is a real number"):
        hessian(lambda p, m: WeightedMean(jnp.sum(m), jnp.sum(m)), params, whole)


def test_ggn_takes_a_weighted_mean(case):
    params, inputs, targets, mask = case
    params = {**params, "head": params["head"] + 0.5}

    def criterion(outputs, data):
        targets, mask = data
        return WeightedMean(jnp.sum(mask * ((outputs - targets) ** 2)[..., 0]), jnp.sum(mask))

    whole = np.asarray(ggn(model, criterion, params, inputs, (targets, mask)).dense())
    found = np.asarray(ggn(model, criterion, params, inputs, (targets, mask), chunk=CHUNK).dense())
    flat, unravel = ravel_pytree(params)
    j = np.asarray(jax.jacobian(lambda x: model(unravel(x), inputs).ravel())(flat))
    weights = 2 * np.asarray(mask).ravel() / np.asarray(mask).sum()
    exact = j.T @ (weights[:, None] * j)
    assert np.abs(whole - exact).max() <= EXACT * np.abs(exact).max()
    assert np.abs(found - exact).max() <= EXACT * np.abs(exact).max()


def _unit(params):
    return jax.tree.map(lambda leaf: jnp.ones((1, *leaf.shape)), params)


COUPLINGS = (jnp.var, jnp.max, lambda e: jnp.mean(e * jnp.roll(e, 1)))  # of the examples' errors


def mixed(params, inputs, targets, *, strengths):
    each = errors(model(params, inputs), targets)
    return jnp.mean(each) + sum(
        strength * coupling(each) for strength, coupling in zip(strengths, COUPLINGS, strict=True)
    )


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    st.sampled_from(range(len(COUPLINGS))),
    st.one_of(st.just(0.0), st.floats(-16, 1).map(lambda power: 10.0**power)),
    st.integers(0, 10**6),
)
def test_chunked_is_whole_or_refused_for_random_losses(kind, strength, seed):
    with jax.enable_x64(True):
        random = np.random.default_rng(seed)
        draw = lambda *shape: jnp.asarray(random.standard_normal(shape))  # noqa: E731
        params, inputs, targets = {"body": draw(N, K), "head": draw(K, 1)}, draw(P, T, N), draw(P, T, 1)
        strengths = jnp.zeros(len(COUPLINGS)).at[kind].set(strength)
        whole = np.asarray(hessian(mixed, params, inputs, targets, strengths=strengths).dense())
        try:
            found = np.asarray(hessian(mixed, params, inputs, targets, chunk=CHUNK, strengths=strengths).dense())
        except ValueError:
            assert strength != 0
            return
        # the comparison lets differences of 1e3 eps pass, 2e-13 of value and derivative; two orders more for the second derivative
        assert np.abs(found - whole).max() <= (EXACT if strength == 0 else 1e-10) * np.abs(whole).max()


def test_under_jit_of_the_vector_alone_the_data_may_be_closed_over():
    """There a comparison of arrays that have values is traced all the same."""
    x, w = jnp.asarray(np.random.default_rng(0).standard_normal((12, 3)), jnp.float32), jnp.arange(1.0, 4.0)

    def mean(w, x):
        return jnp.mean(jnp.tanh(x @ w) ** 2)

    def coupled(w, x):
        return jnp.mean(jnp.tanh((x - x.mean(axis=0)) @ w) ** 2)

    def times(loss, **options):
        return jax.jit(lambda v: hessian(loss, w, x, **options)(v))(w)

    np.testing.assert_allclose(times(mean, chunk=5), times(mean), atol=1e-6)  # ten roundings of numbers near 1
    assert np.isnan(times(coupled, chunk=5)).all()
    vectors = jnp.eye(3)

    def sampled(loss, w):
        return sampling_error(loss, w, x, vectors=vectors, groups=5)

    inside, outside = jax.jit(functools.partial(sampled, mean))(w), sampled(mean, w)
    np.testing.assert_allclose(inside.mean, outside.mean, atol=1e-6)
    np.testing.assert_allclose(inside.stderr, outside.stderr, atol=1e-6)
    assert np.isnan(jax.jit(functools.partial(sampled, coupled))(w).mean).all()
