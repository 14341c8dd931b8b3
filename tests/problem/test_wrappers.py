"""Problems from people's models: against dense float64 autodiff of a loss written by hand, and what is refused."""

import dataclasses
import doctest
import functools
import importlib
import json
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax import nnx
from helpers import call
from jax.flatten_util import ravel_pytree

import curvexp
from curvexp import optim, preprocess, probe, problem, testing
from curvexp.curvature import blocks
from curvexp.errors import ConfigError
from curvexp.linalg.vectors import space_of
from curvexp.preprocess import ignored, watched
from curvexp.probe import operator_of
from curvexp.problem import frozen, supervised
from curvexp.problem.data import Dataset, gaussian, split
from curvexp.training import over_all_data

KEY = jax.random.key(0)
EXACT = 1e-12  # relative to the largest entry: roundings of sums of some tens of float64 products, each of 1e-16


class Linen(nn.Module):
    outputs: int
    width: int = 3

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.outputs, name="last")(nn.tanh(nn.Dense(self.width, name="first")(x)))


class Nnx(nnx.Module):
    def __init__(self, outputs, width=3, *, rngs):
        self.first = nnx.Linear(4, width, rngs=rngs)
        self.last = nnx.Linear(width, outputs, rngs=rngs)

    def __call__(self, x):
        return self.last(nnx.tanh(self.first(x)))


def start(key, inputs, *, outputs, width=3):
    keys = jax.random.split(key)
    sizes = {"first": (inputs.shape[1], width), "last": (width, outputs)}
    return {
        name: {"kernel": jax.random.normal(k, shape), "bias": jnp.zeros(shape[1])}
        for k, (name, shape) in zip(keys, sizes.items(), strict=True)
    }


def by_hand(params, x):
    """The network that all of them are."""
    hidden = jnp.tanh(x @ params["first"]["kernel"] + params["first"]["bias"])
    return hidden @ params["last"]["kernel"] + params["last"]["bias"]


def tiny(classes: int | None = 3) -> Dataset:
    return gaussian(samples=24, features=4, classes=classes, condition_number=4.0)


WRAPPERS = {
    "from_apply": lambda outputs: functools.partial(
        problem.from_apply, functools.partial(start, outputs=outputs), by_hand
    ),
    "from_flax": lambda outputs: functools.partial(problem.from_flax, Linen(outputs)),
    "from_nnx": lambda outputs: functools.partial(problem.from_nnx, functools.partial(Nnx, outputs)),
}
FAMILIES = {"softmax": (3, 3), "bernoulli": (2, 1), "gaussian": (None, 1)}  # classes of the data, outputs of the model


def build(wrapper, family="softmax", **options):
    classes, outputs = FAMILIES[family]
    options = {"preprocess": preprocess.normalized(), "dtype": jnp.float64} | options
    return WRAPPERS[wrapper](outputs)(data=tiny(classes), **options)


def inside(made):
    """Parameters of the problem's shapes, none at zero, from numpy: an init takes a second to compile."""
    random = np.random.default_rng(0)
    return jax.tree.map(
        lambda x: (0.7 * random.standard_normal(x.shape)).astype(x.dtype), jax.eval_shape(made.init, KEY)
    )


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


# ---- refusals ----------------------------------------------------------------------------------------------------------------------


class Dropping(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dropout(0.5, deterministic=False)(nn.Dense(3)(x))


class Noisy(nnx.Module):
    def __init__(self, layer, *, rngs):
        self.first, self.layer = nnx.Linear(4, 3, rngs=rngs), layer(rngs)

    def __call__(self, x):
        return self.layer(self.first(x))


NORMED = nn.Sequential([nn.Dense(3), nn.BatchNorm(use_running_average=False)])
CASES = [
    (problem.from_flax, NORMED, r"variables batch_stats beside.*LayerNorm or GroupNorm.*preprocess=batchnorm"),
    (problem.from_flax, Dropping(), r'Dropping: Dropout_0 needs PRNG for "dropout"; .*deterministic=True'),
    (
        problem.from_flax,
        nn.Sequential([nn.Dense(3), nn.Dropout(0.5)]),
        r'Parameter "deterministic" must .*; expected a model without',
    ),
    (
        problem.from_nnx,
        functools.partial(Noisy, lambda rngs: nnx.Dropout(0.5)),
        r"`deterministic` is False, .*expected a model without",
    ),
    (problem.from_flax, Nnx, r"expected a flax\.linen\.Module.*class"),
    (problem.from_nnx, functools.partial(Noisy, lambda rngs: nnx.BatchNorm(3, rngs=rngs)), r"BatchStat.*LayerNorm"),
    (
        problem.from_nnx,
        functools.partial(Noisy, lambda rngs: nnx.Dropout(0.5, rngs=rngs)),
        r"RngKey.*deterministic=True",
    ),
    (problem.from_nnx, lambda rngs: 1, r"it returned int; expected an nnx\.Module"),
    (problem.from_flax, nn.Dense(4), r"outputs have the shape \(24, 4\); expected \(24, 3\)"),
    (problem.from_flax, nn.Sequential([nn.Dense(3), jnp.sum]), r"shape \(\); expected 24 rows"),
    (problem.from_flax, nn.Sequential([lambda x: x[:, :3]]), r"parameters are none"),
    (problem.from_flax, nn.Dense(3, dtype=jnp.bfloat16), r"outputs are bfloat16; expected float32"),
]


@pytest.mark.parametrize(("wrapper", "model", "words"), CASES)
def test_models_that_do_not_fit_are_refused_by_words(wrapper, model, words):
    with pytest.raises(ConfigError, match=words):
        wrapper(model, data=tiny())


def test_a_module_of_nnx_in_place_of_its_builder_is_refused():
    made = nnx.eval_shape(lambda: Nnx(3, rngs=nnx.Rngs(0)))
    with pytest.raises(ConfigError, match=r"problem\.module=Nnx: expected a function of rngs"):
        problem.from_nnx(made, data=tiny())
    with pytest.raises(ConfigError, match=r"Call problem\.from_nnx"):
        problem.from_flax(made, data=tiny())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"criterion": "hinge"}, r"problem\.criterion=hinge: expected one of auto"),
        ({"criterion": "cross_entropy", "data": tiny(None)}, r"problem\.criterion=cross_entropy.*no classes"),
        ({"criterion": lambda z, y: z[:, 0]}, r"problem\.criterion: it returns float32 of shape \(24,\)"),
        ({"shape": [2, 3]}, r"problem\.shape=\[2, 3\]: 6 numbers; expected 4"),
        ({"shape": 4}, r"problem\.shape=4: expected a list"),
        ({"preprocess": preprocess.batchnorm()}, r"preprocess=batchnorm: the hidden layers are the model's own"),
        ({"dtype": jnp.float16}, r"precision=float16"),
        ({"frozen": "first/.*"}, r"problem\.frozen=first/\.\*: expected a list"),
        (
            {"frozen": ["first"]},
            r"problem\.frozen\[0\]=first: it matches no parameter.*first/bias, first/kernel, last/bias",
        ),
        ({"frozen": ["("]}, r"problem\.frozen\[0\]=\(: .*expected regular expressions"),
        ({"frozen": [".*"]}, r"no parameter remains"),
    ],
)
def test_bad_options_name_their_key(options, words):
    with pytest.raises(ConfigError, match=words):
        problem.from_flax(Linen(3), **{"data": tiny()} | options)


def test_functions_that_do_not_fit_are_refused_and_nothing_is_run():
    seen = []

    def apply(params, inputs):
        seen.append(inputs)
        return inputs @ params

    made = problem.from_apply(lambda key, x: jnp.zeros((4, 3)), apply, data=tiny())
    assert seen
    assert all(isinstance(inputs, jax.core.Tracer) for inputs in seen)
    assert made.model is apply
    with pytest.raises(ConfigError, match=r"parameters are of type int32; expected real arrays"):
        problem.from_apply(lambda key, x: jnp.zeros((4, 3), int), apply, data=tiny())
    with pytest.raises(ConfigError, match=r"problem\.init=3: expected a function"):
        problem.from_apply(3, apply, data=tiny())
    with pytest.raises(ConfigError, match=r"problem\.apply: .*can be hashed"):
        problem.from_apply(start, type("Model", (), {"__call__": by_hand, "__hash__": None})(), data=tiny())


def test_a_preprocessing_is_made_use_of_and_told_where_it_is_not():
    for prepare in (preprocess.normalized(), preprocess.raw()):
        given = watched(prepare)
        build("from_flax", preprocess=given, dtype=jnp.float32)
        assert ignored(given) is None


# ---- Equinox and Haiku, by stand-ins of the same interface -------------------------------------------------------------------------


@functools.partial(jax.tree_util.register_dataclass, data_fields=["first", "last", "bend"], meta_fields=["name"])
@dataclasses.dataclass
class Module:
    """As an eqx.Module: a pytree, with a function among its leaves; called with one example."""

    first: Any
    last: Any
    bend: Any = jnp.tanh
    name: str = "module"

    def __call__(self, x):
        hidden = self.bend(x @ self.first["kernel"] + self.first["bias"])
        return hidden @ self.last["kernel"] + self.last["bias"]


def module(key, outputs=3, name="module"):
    return Module(**start(key, np.zeros((1, 4)), outputs=outputs), name=name)


class Transformed(NamedTuple):
    """As haiku.transform returns."""

    init: Callable[..., Any]
    apply: Callable[..., Any]


TRANSFORMED = Transformed(lambda key, x: start(key, x, outputs=3), lambda params, key, x: by_hand(params, x))


def test_equinox_takes_one_example_and_its_real_arrays_are_parameters():
    made = problem.from_equinox(functools.partial(module, outputs=3), data=tiny(), frozen=["first/bias"])
    params = inside(made)
    assert (params.bend, params.first["bias"], params.name) == (None, None, "module")
    whole = {"first": params.first | {"bias": np.zeros(3, np.float32)}, "last": params.last}  # as it begins
    assert np.allclose(made.model(params, made.data.inputs), by_hand(whole, made.data.inputs), atol=1e-6)  # float32
    again = problem.from_equinox(functools.partial(module, outputs=3), data=tiny(), frozen=["first/bias"])
    assert again.loss is made.loss
    *_, last = curvexp.run(made, optim.sgd(lr=0.1), steps=2, key=0)
    assert last.outcome.status == "completed"
    assert last.state.params.first["bias"] is None


def test_haiku_is_called_without_a_key():
    made, plain = problem.from_haiku(TRANSFORMED, data=tiny()), build("from_apply", dtype=jnp.float32)
    params = inside(made)
    assert jax.tree.structure(params) == jax.tree.structure(inside(plain))
    assert np.allclose(made.model(params, made.data.inputs), by_hand(params, made.data.inputs), atol=1e-6)  # float32
    assert problem.from_haiku(TRANSFORMED, data=tiny()).loss is made.loss


@pytest.mark.parametrize(
    ("wrapper", "model", "words"),
    [
        (problem.from_equinox, lambda key: (module(key), "state"), r"problem\.module: tuple; expected a model"),
        (problem.from_equinox, lambda key: Module(key, jnp.ones(3)), r"arrays of key<fry>; .*keys of dropout"),
        (problem.from_haiku, Transformed(lambda key, x: ({}, {}), by_hand), r"parameters and state.*LayerNorm"),
        (problem.from_haiku, by_hand, r"problem\.transformed=function: expected what haiku\.transform returns"),
    ],
)
def test_what_is_no_model_of_equinox_or_haiku_is_refused(wrapper, model, words):
    with pytest.raises(ConfigError, match=words):
        wrapper(model, data=tiny())


# ---- frozen parameters -------------------------------------------------------------------------------------------------------------


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
