"""Networks: their sizes, what batch normalization does to them exactly, and one compilation for all numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from curvexp import preprocess
from curvexp.errors import ConfigError
from curvexp.problem import mlp, supervised
from curvexp.problem.data import Dataset, diabetes, digits, gaussian, split, wine
from curvexp.problem.network import ACTIVATIONS, _activation

KEY = jax.random.key(0)


def tiny(classes: int | None = 3, count: int = 24, seed: int = 0) -> Dataset:
    return gaussian(samples=count, features=4, classes=classes, condition_number=4.0, seed=seed)


def build(data=None, prepare=None, dtype=jnp.float64, **options):
    options = {"hidden": [5, 4]} | options
    return mlp(data=data or tiny(), preprocess=prepare or preprocess.normalized(), dtype=dtype, **options)


def begin(problem, seed=0):
    """Parameters of the problem's shapes and dtype, none at its initial value, from numpy: Linen's own init takes a second to compile."""
    random = np.random.default_rng(seed)
    shapes = jax.eval_shape(problem.init, KEY)
    return jax.tree.map(lambda x: (0.7 * random.standard_normal(x.shape)).astype(x.dtype), shapes)


def vectors(problem):
    """Flat parameters, the way back to the tree, and the loss of the flat ones."""
    flat, unravel = ravel_pytree(begin(problem))
    return flat, unravel, jax.jit(lambda x: problem.loss(unravel(x), problem.data))


def test_parameters_have_the_shapes_and_the_dtype_asked_for() -> None:
    problem = build(digits(), hidden=[32], dtype=jnp.float32)
    shapes = jax.tree.map(jnp.shape, jax.eval_shape(problem.init, KEY))
    assert shapes == {"Dense_0": {"kernel": (64, 32), "bias": (32,)}, "Dense_1": {"kernel": (32, 10), "bias": (10,)}}
    normalized = build(digits(), preprocess.batchnorm(), hidden=[32], dtype=jnp.float32)
    params = jax.eval_shape(normalized.init, KEY)
    assert sum(x.size for x in jax.tree.leaves(params)) == 64 * 32 + 2 * 32 + 32 * 10 + 10
    assert "bias" not in params["Dense_0"]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("prepare", [preprocess.raw(), preprocess.batchnorm()], ids=lambda p: p.name)
def test_float64_is_float64_throughout(prepare) -> None:
    problem = build(prepare=prepare)
    params = jax.eval_shape(problem.init, KEY)
    found = jax.eval_shape(jax.value_and_grad(problem.loss), params, problem.data)
    assert {x.dtype for x in jax.tree.leaves((params, found))} == {np.dtype(np.float64)}


@pytest.mark.usefixtures("x64")
def test_outputs_are_those_of_numpy() -> None:
    problem = build(activation="tanh")
    p = begin(problem)
    h = np.asarray(problem.data.inputs)
    for layer in ("Dense_0", "Dense_1"):
        h = np.tanh(h @ p[layer]["kernel"] + p[layer]["bias"])
    expected = h @ p["Dense_2"]["kernel"] + p["Dense_2"]["bias"]
    assert np.allclose(problem.model(p, problem.data.inputs), expected, atol=1e-14)
    chosen = expected[np.arange(len(h)), problem.data.targets]
    loss = np.mean(np.log(np.exp(expected).sum(axis=1)) - chosen)
    assert np.isclose(jax.jit(problem.loss)(p, problem.data), loss, rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_batchnorm_outputs_are_those_of_numpy_and_test_examples_take_the_training_statistics() -> None:
    problem = build(prepare=preprocess.batchnorm(), hidden=[5])
    flat, unravel, _ = vectors(problem)
    p = jax.tree.map(np.asarray, unravel(flat))
    train, test = (np.asarray(x.inputs) @ p["Dense_0"]["kernel"] for x in (problem.data, problem.test))
    outputs = []
    for h in (train, test):
        z = (h - train.mean(axis=0)) / np.sqrt(train.var(axis=0) + 1e-5)
        outputs.append(
            np.tanh(p["Normalization_0"]["scale"] * z + p["Normalization_0"]["shift"]) @ p["Dense_1"]["kernel"]
            + p["Dense_1"]["bias"]
        )
    assert np.allclose(problem.model(p, problem.data.inputs), outputs[0], atol=1e-13)
    scores = jax.jit(problem.evaluate)(p, problem.data, problem.test)
    assert np.isclose(scores["test_loss"], problem.criterion(outputs[1], problem.test.targets), rtol=1e-12)
    assert np.isclose(scores["test_accuracy"], (outputs[1].argmax(axis=1) == problem.test.targets).mean())
    assert np.isclose(scores["accuracy"], (outputs[0].argmax(axis=1) == problem.data.targets).mean())
    # a test example alone, not a batch with statistics of its own
    alone = jax.jit(problem.evaluate)(p, problem.data, jax.tree.map(lambda x: x[:1], problem.test))
    assert np.isclose(alone["test_loss"], problem.criterion(outputs[1][:1], problem.test.targets[:1]), rtol=1e-12)


@pytest.mark.usefixtures("x64")
def test_ghost_loss_is_the_mean_of_its_groups_batch_losses() -> None:
    ghost = build(prepare=preprocess.batchnorm(mode="ghost", ghost=10))  # 24 examples: groups of 10, 10 and 4
    batch = build(prepare=preprocess.batchnorm())
    flat, unravel, loss = vectors(ghost)
    groups = [jax.tree.map(lambda x, s=s: x[s : s + 10], ghost.data) for s in (0, 10, 20)]
    parts = [len(g.inputs) * jax.jit(batch.loss)(unravel(flat), g) for g in groups]
    assert np.isclose(loss(flat), sum(parts) / 24, rtol=1e-13)
    assert str(ghost.batchnorm) == "ghost(10)"
    assert ghost.notes == ("batchnorm: ghost(10), epsilon 1e-05",)


@pytest.mark.usefixtures("x64")
def test_frozen_statistics_give_the_same_loss_and_another_hessian() -> None:
    batch, frozen = (build(prepare=preprocess.batchnorm(mode=mode), hidden=[5]) for mode in ("batch", "frozen"))
    flat, _, loss = vectors(batch)
    _, _, frozen_loss = vectors(frozen)
    assert loss(flat) == frozen_loss(flat)
    largest = [np.linalg.eigvalsh(jax.jit(jax.hessian(f))(flat))[-1] for f in (loss, frozen_loss)]
    assert abs(largest[0] - largest[1]) > 1e-3 * largest[0]


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("mode", [{"mode": "batch"}, {"mode": "ghost", "ghost": 8}], ids=lambda m: m["mode"])
def test_weights_before_batchnorm_without_epsilon_are_scale_invariant(mode) -> None:
    problem = build(prepare=preprocess.batchnorm(epsilon=0.0, **mode), hidden=[5])
    flat, unravel, _ = vectors(problem)
    params = unravel(flat)
    kernel = params["Dense_0"]["kernel"]

    def loss(w):
        return problem.loss({**params, "Dense_0": {"kernel": w.reshape(kernel.shape)}}, problem.data)

    theta = kernel.ravel()
    gradient, hessian = jax.jit(jax.grad(loss))(theta), jax.jit(jax.hessian(loss))(theta)
    # Euler's identities of a function homogeneous of degree 0; roundings of numbers of order 1
    assert abs(theta @ gradient) < 1e-12
    assert np.allclose(hessian @ theta, -gradient, atol=1e-12)
    assert np.allclose(jax.jit(jax.hessian(loss))(3 * theta), hessian / 9, atol=1e-12)
    assert np.isclose(loss(3 * theta), loss(theta), rtol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_bias_before_batchnorm_would_be_a_null_direction_and_there_is_none() -> None:
    problem = build(prepare=preprocess.batchnorm(), hidden=[5])
    flat, unravel, _ = vectors(problem)
    params = unravel(flat)
    x = problem.data.inputs @ params["Dense_0"]["kernel"]
    spec = preprocess.BatchNorm()
    assert np.allclose(preprocess.standardize(x + 7.0, spec), preprocess.standardize(x, spec), atol=1e-13)


@pytest.mark.usefixtures("x64")
def test_a_softmax_has_one_null_direction_per_input_of_its_last_layer() -> None:
    problem = build(hidden=[5])
    flat, unravel, loss = vectors(problem)
    hessian = np.asarray(jax.jit(jax.hessian(loss))(flat))
    zero = jax.tree.map(jnp.zeros_like, unravel(flat))
    shift = ravel_pytree({**zero, "Dense_1": {**zero["Dense_1"], "bias": jnp.ones(3)}})[0]
    assert np.abs(hessian @ shift).max() < 1e-14


@pytest.mark.usefixtures("x64")
def test_mse_of_classes_is_against_one_hot_targets_and_a_linear_network_is_least_squares() -> None:
    from curvexp.problem import least_squares

    options = {"preprocess": preprocess.normalized(), "dtype": jnp.float64, "data": wine()}
    network, linear = mlp(hidden=[], criterion="mse", **options), least_squares(**options)
    params = begin(linear)
    same = {"Dense_0": {"kernel": params["weight"], "bias": params["bias"]}}
    assert np.isclose(jax.jit(network.loss)(same, network.data), jax.jit(linear.loss)(params, linear.data), rtol=1e-13)
    scores = (
        jax.jit(network.evaluate)(same, network.data, network.test),
        jax.jit(linear.evaluate)(params, linear.data, linear.test),
    )
    assert jax.tree.map(float, scores[0]) == pytest.approx(jax.tree.map(float, scores[1]), rel=1e-12)


@pytest.mark.usefixtures("x64")
def test_l2_adds_half_the_squared_norm() -> None:
    plain, ridged = build(), build(l2=0.1)
    flat, unravel, loss = vectors(plain)
    assert np.isclose(jax.jit(ridged.loss)(unravel(flat), ridged.data), loss(flat) + 0.05 * flat @ flat, rtol=1e-14)
    assert ridged.model is None
    assert ridged.criterion is None
    assert plain.criterion is not None


def test_regression_takes_mse_and_reports_its_test_loss() -> None:
    problem = build(diabetes(), dtype=jnp.float32)
    params = begin(problem)
    assert set(problem.evaluate(params, problem.data, problem.test)) == {"test_loss"}
    assert jax.jit(problem.evaluate)(params, problem.data, None) == {}
    assert jax.jit(problem.loss)(params, problem.data) > 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_builds_and_bends_as_its_name_says(activation) -> None:
    problem = build(dtype=jnp.float32, activation=activation, hidden=[3])
    assert jax.eval_shape(problem.loss, jax.eval_shape(problem.init, KEY), problem.data).shape == ()
    x = jnp.linspace(-3, 3, 7)
    found = _activation(activation)(x)
    assert np.array_equal(found, x if activation == "identity" else getattr(jax.nn, activation)(x))
    assert np.array_equal(found, x) == (activation == "identity")


@pytest.mark.parametrize(
    "prepare",
    [preprocess.raw(), preprocess.batchnorm(mode="ghost", ghost=9)],
    ids=["raw", "ghost"],
)
def test_one_compilation_serves_all_data_of_the_same_shape(prepare) -> None:
    traces = []

    def step(loss, params, data):
        traces.append(loss)
        return loss(params, data)

    jitted = jax.jit(step, static_argnums=0)
    for seed in range(3):
        problem = build(tiny(seed=seed), prepare._replace(fit=preprocess.normalized().fit), dtype=jnp.float32)
        jitted(problem.loss, begin(problem, seed), problem.data)
    assert len(traces) == 1
    other = build(prepare=prepare, dtype=jnp.float32, hidden=[6])
    jitted(other.loss, begin(other), other.data)
    assert len(traces) == 2
    same, again = build(dtype=jnp.float32), build(tiny(seed=7), dtype=jnp.float32)
    assert (same.init, same.model, same.evaluate) == (again.init, again.model, again.evaluate)


def test_the_default_network_learns_digits_in_a_hundred_steps_of_gradient_descent() -> None:
    problem = mlp(data=digits(), preprocess=preprocess.normalized())

    @jax.jit
    def train(params, data):
        def step(params, _):
            return jax.tree.map(lambda p, g: p - 0.5 * g, params, jax.grad(problem.loss)(params, data)), None

        return jax.lax.scan(step, params, length=100)[0]

    scores = jax.jit(problem.evaluate)(train(jax.jit(problem.init)(KEY), problem.data), problem.data, problem.test)
    assert scores["accuracy"] > 0.95  # chance is 0.1
    assert scores["test_accuracy"] > 0.9


@pytest.mark.parametrize(
    "options, key",
    [
        ({"hidden": [32, 0]}, r"problem\.hidden\[1\]=0"),
        ({"hidden": [-1]}, r"problem\.hidden"),
        ({"hidden": [2.5]}, r"problem\.hidden"),
        ({"hidden": 32}, r"problem\.hidden=32.*\[32\]"),
        ({"hidden": "32"}, r"problem\.hidden"),
        ({"activation": "thanh"}, r"problem\.activation=thanh.*Did you mean tanh"),
        ({"criterion": "hinge"}, r"problem\.criterion"),
        ({"criterion": "cross_entropy", "data": diabetes()}, r"problem\.criterion.*diabetes has no classes"),
        ({"l2": -0.1}, r"problem\.l2"),
        ({"data": "digits"}, r"problem\.data"),
        (
            {
                "data": split("huge", [[1e60, 0.0], [1.0, 2.0]], [0, 1], classes=2, test_fraction=0),
                "prepare": preprocess.raw(),
            },
            "not finite in float32",
        ),
    ],
)
def test_bad_options_name_their_key(options, key) -> None:
    with pytest.raises(ConfigError, match=key):
        build(dtype=jnp.float32, **options)


@pytest.mark.parametrize("one_hot", [False, True])
def test_accuracy_is_that_of_argmax_with_equal_outputs_too(one_hot):
    data = wine()
    problem = mlp(data=data, hidden=[3], preprocess=preprocess.normalized())
    params = jax.tree.map(
        jnp.zeros_like, problem.init(jax.random.key(0))
    )  # all outputs are equal: the first class is chosen
    assert float(problem.evaluate(params, problem.data, None)["accuracy"]) == pytest.approx(
        (problem.data.targets == 0).mean()
    )
    outputs = jax.random.randint(jax.random.key(1), (500, 4), 0, 3).astype(jnp.float32)  # many ties
    targets = jax.random.randint(jax.random.key(2), (500,), 0, 4)
    given = jax.nn.one_hot(targets, 4) if one_hot else targets
    true = (np.asarray(outputs).argmax(axis=1) == np.asarray(targets)).mean()
    assert float(supervised.accuracy(outputs, given)) == pytest.approx(true, rel=1e-6)


def test_accuracy_of_one_output_is_that_of_its_sign_whatever_the_shape_of_the_labels():
    outputs, targets = jnp.array([[1.0], [-1.0], [2.0]]), jnp.array([1, 1, 0])
    assert (
        float(supervised.accuracy(outputs, targets))
        == float(supervised.accuracy(outputs, targets[:, None]))
        == pytest.approx(1 / 3)
    )
