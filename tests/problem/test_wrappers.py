"""Problems from people's models: against dense float64 autodiff of a loss written by hand; one program for equal models; runs."""

import doctest
import functools
import importlib
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from helpers import call
from jax.flatten_util import ravel_pytree
from own_models import EXACT, FAMILIES, KEY, WRAPPERS, Linen, Nnx, build, by_hand, inside, start, tiny

import curvexp
from curvexp import preprocess, problem, testing
from curvexp.errors import ConfigError
from curvexp.probe import operator_of
from curvexp.problem import supervised
from curvexp.problem.data import Dataset, split
from curvexp.training import over_all_data

# ---- against the truth -------------------------------------------------------------------------------------------------------------


def example_loss(family, z, y):
    """−log p(y | z) of one example, constants aside."""
    if family == "softmax":
        return jax.scipy.special.logsumexp(z) - z[y]
    if family == "bernoulli":
        return jnp.log1p(jnp.exp(z[0])) - y * z[0]
    return 0.5 * jnp.sum((z - y) ** 2)


def expected_scores(family, z):
    """E of s s' over y ~ p(y | z), with s the derivative of −log p(y | z) in z, from its definition."""
    if family == "gaussian":
        return jnp.eye(len(z))
    labels = 3 if family == "softmax" else 2
    losses = jnp.stack([example_loss(family, z, y) for y in range(labels)])
    scores = jnp.stack([jax.grad(lambda z, y=y: example_loss(family, z, y))(z) for y in range(labels)])
    return jnp.einsum("y,yi,yj->ij", jnp.exp(-losses), scores, scores)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("wrapper", "family"),
    [("from_apply", "softmax"), ("from_flax", "bernoulli"), ("from_nnx", "gaussian")],
)
def test_hessian_ggn_and_fisher_are_those_of_a_loss_written_by_hand(wrapper, family):
    made = build(wrapper, family)
    assert made.log_likelihood == family
    theta, unravel = ravel_pytree(inside(made))
    inputs, targets = made.data

    def outputs(theta):
        return by_hand(unravel(theta), inputs)

    each = functools.partial(example_loss, family)
    loss = lambda z: jnp.mean(jax.vmap(each)(z, targets))  # noqa: E731

    @jax.jit
    def truth(theta):
        z, jacobian = outputs(theta), jax.jacobian(outputs)(theta)
        middles = jax.vmap(jax.hessian(each))(z, targets), jax.vmap(functools.partial(expected_scores, family))(z)
        ggn, fisher = (jnp.einsum("pin,pij,pjm->nm", jacobian, middle, jacobian) / 24 for middle in middles)
        return loss(z), jax.hessian(lambda theta: loss(outputs(theta)))(theta), ggn, fisher

    value, *dense = truth(theta)
    assert np.isclose(jax.jit(made.loss)(unravel(theta), made.data), value, rtol=EXACT)
    whole = over_all_data(made)
    for name, matrix in zip(("hessian", "ggn", "fisher"), dense, strict=True):
        found = operator_of(whole, unravel(theta), operator=name).dense()
        assert np.abs(found - matrix).max() <= EXACT * np.abs(matrix).max(), name


@pytest.mark.parametrize(
    ("wrapper", "family", "left"),
    [("from_apply", "gaussian", []), ("from_flax", "softmax", ["first/.*"]), ("from_nnx", "bernoulli", [])],
)
def test_the_contract_holds(wrapper, family, left):
    made = build(wrapper, family, frozen=left, dtype=jnp.float32)
    whole = {name: jax.jit(getattr(made, name)) for name in ("init", "loss", "model", "evaluate")}  # compiled at once
    testing.check_problem(made._replace(**whole))


def hinge(outputs, labels):
    """Of two classes, less one: below zero where all is right."""
    return jnp.mean(jax.nn.softplus(1 - outputs[:, 0] * (2 * labels - 1))) - 1


def test_a_criterion_of_ones_own_has_a_ggn_and_no_lower_bound():
    made = build("from_flax", "bernoulli", criterion=hinge, dtype=jnp.float32)
    assert (made.criterion, made.log_likelihood, made.lower_bound) == (hinge, None, None)
    params = inside(made)
    assert np.isclose(made.loss(params, made.data), hinge(by_hand(params, made.data.inputs), made.data.targets))
    given = build("from_flax", "bernoulli", criterion=supervised.binary_cross_entropy, dtype=jnp.float32)
    assert (given.log_likelihood, given.lower_bound) == ("bernoulli", 0.0)


@pytest.mark.parametrize(("family", "criterion"), [("softmax", "auto"), ("softmax", "mse"), ("bernoulli", "auto")])
def test_losses_and_accuracies_are_those_of_numpy(family, criterion):
    made = build("from_nnx", family, criterion=criterion, dtype=jnp.float32)
    data, params = tiny(FAMILIES[family][0]), inside(made)
    mean, deviation = data.inputs.mean(axis=0), data.inputs.std(axis=0)
    found = jax.jit(made.evaluate)(params, made.data, made.test)
    assert set(found) == {"accuracy", "test_loss", "test_accuracy"}
    for name, inputs, labels in (
        ("accuracy", data.inputs, data.targets),
        ("test_accuracy", data.test_inputs, data.test_targets),
    ):
        z = np.asarray(by_hand(params, (inputs - mean) / deviation))
        chosen = (z[:, 0] > 0) if family == "bernoulli" else z.argmax(axis=1)
        assert float(found[name]) == pytest.approx((chosen == labels).mean(), rel=1e-6)  # float32
    if criterion == "mse":
        loss = 0.5 * np.square(z - np.eye(3)[data.test_targets]).sum(axis=1).mean()
        assert float(found["test_loss"]) == pytest.approx(loss, rel=1e-5)  # float32 sums of some tens of terms


def test_outputs_that_are_no_scores_have_no_accuracy():
    made = problem.from_flax(nn.Dense(5), data=tiny(), criterion=lambda z, y: jnp.mean(z**2))
    assert set(jax.eval_shape(made.evaluate, inside(made), made.data, made.test)) == {"test_loss"}


# ---- shapes of inputs --------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("x64")
def test_a_convolution_over_the_whole_image_is_a_matrix_and_preprocessing_acts_before_the_shape():
    conv = nn.Sequential([nn.Conv(3, (2, 2), padding="VALID"), lambda x: x[:, 0, 0]])
    made = problem.from_flax(conv, data=tiny(), shape=[2, 2, 1], preprocess=preprocess.normalized(), dtype=jnp.float64)
    dense = build("from_apply")
    assert made.data.inputs.shape == (24, 2, 2, 1)
    params = inside(made)["layers_0"]
    flat = np.asarray(dense.data.inputs) @ np.asarray(params["kernel"]).reshape(4, 3) + np.asarray(params["bias"])
    assert np.allclose(made.model({"layers_0": params}, made.data.inputs), flat, rtol=0, atol=1e-14)
    images = Dataset("images", tiny().inputs.reshape(24, 2, 2, 1), tiny().targets, classes=3)
    assert problem.from_flax(conv, data=images).data.inputs.shape == (24, 2, 2, 1)
    with pytest.raises(ConfigError, match=r"preprocess=centered: inputs of shape .*columns, \(P, N\).*preprocess=raw"):
        problem.from_flax(conv, data=images, preprocess=preprocess.centered())
    with pytest.raises(ConfigError, match=r"inputs of shape .*problem=from_flax"):
        problem.mlp(data=images)


def test_tokens_stay_integers_and_are_numbers_to_other_problems():
    tokens = np.random.default_rng(0).integers(0, 5, (30, 4))
    data = split("tokens", tokens, (tokens[:, 0] > 1).astype(int), classes=2)
    bag = nn.Sequential([nn.Embed(5, 2), lambda x: x.mean(axis=1), nn.Dense(2)])
    made = problem.from_flax(bag, data=data)
    assert made.data.inputs.dtype == made.test.inputs.dtype == jnp.int32
    assert np.array_equal(np.unique(made.data.inputs), np.arange(5))
    assert jax.eval_shape(jax.grad(made.loss), inside(made), made.data)["layers_2"]["bias"].shape == (2,)
    assert problem.mlp(data=data).data.inputs.dtype == jnp.float32
    with pytest.raises(ConfigError, match="whole numbers beyond int32"):
        problem.from_flax(bag, data=data._replace(inputs=data.inputs + 2**31))


# ---- one program for equal models --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapper", WRAPPERS)
@pytest.mark.parametrize("options", [{}, {"frozen": ["first/.*"]}], ids=["whole", "frozen"])
def test_equal_arguments_give_the_same_functions(wrapper, options):
    same, again = (build(wrapper, dtype=jnp.float32, **options) for _ in range(2))
    for part in ("init", "loss", "model", "criterion", "evaluate"):
        assert getattr(same, part) is getattr(again, part), part
    wider = {
        "from_apply": functools.partial(problem.from_apply, functools.partial(start, outputs=3, width=5), by_hand),
        "from_flax": functools.partial(problem.from_flax, Linen(3, width=5)),
        "from_nnx": functools.partial(problem.from_nnx, functools.partial(Nnx, 3, width=5)),
    }[wrapper](data=tiny(), **options)
    assert wider.init is not same.init
    assert wider.init(KEY)["last"]["kernel"].shape == (5, 3)


def test_a_module_that_cannot_be_hashed_is_built_anew():
    class Listed(nn.Module):
        widths: list[int]

        @nn.compact
        def __call__(self, x):
            return nn.Dense(self.widths[0])(x)

    same, again = (problem.from_flax(Listed([3]), data=tiny()) for _ in range(2))
    assert same.loss is not again.loss
    assert float(same.loss(inside(same), same.data)) == float(again.loss(inside(again), again.data))


# ---- runs --------------------------------------------------------------------------------------------------------------------------

LAB = """
from flax import nnx

class Deep(nnx.Module):
    def __init__(self, widths, *, rngs):
        self.layers = nnx.List([nnx.Linear(4, widths[0], rngs=rngs), nnx.Linear(widths[0], 3, rngs=rngs)])

    def __call__(self, x):
        return self.layers[1](nnx.tanh(self.layers[0](x)))
"""
YAML = """
_target_: curvexp.problem.from_nnx
_partial_: true
module: {_target_: deeplab.Deep, _partial_: true, widths: [3]}
data: {_target_: curvexp.problem.data.gaussian, samples: 24, features: 4, classes: 3}
frozen: [layers/0/bias]
criterion: auto
"""


def test_a_run_from_the_command_line_is_kept_resumed_and_read_back(tmp_path, monkeypatch):
    (tmp_path / "deeplab.py").write_text(LAB)
    (tmp_path / "myconf" / "problem").mkdir(parents=True)
    (tmp_path / "myconf" / "problem" / "deep.yaml").write_text(YAML)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--config-dir", "myconf", "problem=deep", "preprocess=normalized", "optim=adam", "probe=exact"]
    words += ["probe.operator=fisher", "probe.every=2", "checkpoint.every=2", "hydra.run.dir=run"]
    assert call(*words, "steps=4") == 0
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["status"] == "completed"
    assert summary["parameters"] == 4 * 3 + 3 * 3 + 3
    assert 0 <= summary["test_accuracy"] <= 1
    made = curvexp.load_problem("run", trust=["deeplab"])
    params = curvexp.load_params("run", like=made.init(KEY))
    assert float(made.loss(params, made.data)) == pytest.approx(summary["loss"], rel=1e-5)  # float32
    assert call(*words, "problem.frozen=[layers]") == 2
    assert call(*words, "preprocess=batchnorm") == 2


@pytest.mark.parametrize("module", ["sharing", "frozen", "wrappers", "flax_models", "other_models"])
def test_examples_of_the_docstrings_run(module):
    found = doctest.testmod(importlib.import_module(f"curvexp.problem.{module}"))
    assert found.attempted
    assert not found.failed
