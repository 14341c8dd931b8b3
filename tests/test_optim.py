"""Optimizers against their textbook recursions, and `auto` against theory."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from curvexp import optim, theory
from curvexp.errors import ConfigError

ALL = {
    "sgd": optim.sgd,
    "momentum": optim.momentum,
    "nesterov": optim.nesterov,
    "adam": optim.adam,
    "rmsprop": optim.rmsprop,
    "adagrad": optim.adagrad,
}
NUMBERS = {"sgd": {"lr": 0.1}, "momentum": {"lr": 0.1, "momentum": 0.8}, "nesterov": {"lr": 0.1, "momentum": 0.8}}


def walk(optimizer, gradient, x, steps):
    state = optimizer.init(x)
    path = [x]
    for _ in range(steps):
        updates, state = optimizer.transform.update(gradient(x), state, x)
        x = optax.apply_updates(x, updates)
        path.append(x)
    return np.array(path), state


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_decay_along_each_eigenvector_is_the_stated_rate(name):
    eigenvalues = np.array([0.5, 2.0, 9.0])
    optimizer = ALL[name](**NUMBERS[name])
    path, _ = walk(optimizer, lambda x: jnp.asarray(eigenvalues) * x, jnp.ones(3), 400)
    rate = optimizer.rate(optimizer.hyper, eigenvalues)
    for i in range(3):
        size = np.maximum.accumulate(np.abs(path[::-1, i]))[::-1]  # the envelope, for complex roots oscillate
        usable = size > 1e-280
        k = np.flatnonzero(usable)[len(np.flatnonzero(usable)) // 2 :]
        slope = np.polyfit(k, np.log(size[k]), 1)[0]
        assert np.exp(slope) == pytest.approx(rate[i], rel=5e-3)  # an envelope over 200 steps moves in half periods


@pytest.mark.usefixtures("x64")
def test_heavy_ball_is_polyaks_recursion():
    a = jnp.diag(jnp.array([1.0, 7.0]))
    path, _ = walk(optim.momentum(lr=0.2, momentum=0.7), lambda x: a @ x, jnp.array([1.0, -2.0]), 30)
    for k in range(1, 30):
        expected = path[k] - 0.2 * a @ path[k] + 0.7 * (path[k] - path[k - 1])
        assert np.abs(path[k + 1] - expected).max() < 1e-14  # a few roundings of numbers of size 1


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["adam", "rmsprop", "adagrad"])
def test_preconditioner_is_what_the_update_divides_by(name):
    """One step on a constant gradient g from a state with memory: lr · (first moment, corrected) / P in each method's terms."""
    optimizer = ALL[name](lr=0.01)
    gradient = jnp.array([1.0, -3.0, 0.5])
    x, state = jnp.zeros(3), optimizer.init(jnp.zeros(3))
    for _ in range(7):
        updates, state = optimizer.transform.update(gradient, state, x)
    p = optimizer.preconditioner(state)
    if name == "adam":  # update = −lr · m̂/(√ν̂+ε), and m̂ = m/(1−β₁^t) is g here: P carries the factor 1−β₁^t
        assert np.allclose(updates, -0.01 * (1 - 0.9**7) * gradient / p, rtol=1e-12)
    else:
        assert np.allclose(updates, -0.01 * gradient / p, rtol=1e-12)


@pytest.mark.parametrize("name", ALL)
def test_one_transformation_serves_all_numbers_and_states_carry_them(name):
    first, second = (ALL[name](**{**NUMBERS.get(name, {}), "lr": lr}) for lr in (0.1, 0.7))
    assert first.transform is second.transform
    state = second.init({"w": jnp.ones(2)})
    assert second.hyper_at(state)["lr"] == pytest.approx(0.7, rel=1e-6)  # float32
    traces = []

    @jax.jit
    def update(gradient, state):
        traces.append(1)
        return first.transform.update(gradient, state, gradient)

    moved = [update({"w": jnp.ones(2)}, made.init({"w": jnp.ones(2)}))[0]["w"][0] for made in (first, second)]
    assert len(traces) == 1
    assert moved[1] == pytest.approx(7 * float(moved[0]), rel=1e-5)  # the first step of each is proportional to lr


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov"])
def test_auto_takes_theorys_best_where_the_spectrum_is_known(name):
    eigenvalues = np.array([0.0, 1e-18, 2.0, 5.0, 30.0])  # the null space holds no gradient
    made, note = optim.resolve(ALL[name](lr="auto"), eigenvalues=eigenvalues)
    best = {
        "sgd": theory.gradient_descent_optimum,
        "momentum": theory.heavy_ball_optimum,
        "nesterov": theory.nesterov_optimum,
    }
    expected = best[name](2.0, 30.0)
    assert made.hyper["lr"] == expected.lr
    assert made.hyper.get("momentum", 0.0) == expected.momentum
    assert f"{made.hyper['lr']:.6g}" in note


@pytest.mark.parametrize("name", ["momentum", "nesterov"])
@pytest.mark.parametrize("beta", [0.0, 0.5, 0.95])
def test_auto_lr_beside_a_given_momentum_is_the_best_of_a_grid(name, beta):
    ends = np.array([1.0, 40.0])
    made, _ = optim.resolve(ALL[name](lr="auto", momentum=beta), eigenvalues=ends)
    assert made.hyper["momentum"] == beta
    grid = np.linspace(1e-4, made.threshold({"lr": 1.0, "momentum": beta}) / 40, 20001)
    rates = np.array([made.rate({"lr": lr, "momentum": beta}, ends).max() for lr in grid])
    assert made.rate(made.hyper, ends).max() <= rates.min() + 1e-6  # the bounded search's own tolerance


@pytest.mark.parametrize("name", ["sgd", "momentum", "nesterov", "adam", "rmsprop"])
def test_auto_elsewhere_is_the_stated_fraction_of_the_threshold(name):
    made, note = optim.resolve(ALL[name](lr="auto", fraction=0.25), sharpness=12.0)
    assert made.threshold(made.hyper) == pytest.approx(12.0 / 0.25, rel=1e-12)
    assert made.hyper.get("momentum", 0.9) == 0.9
    assert "0.25" in note


def test_auto_on_an_indefinite_quadratic_scales_by_the_largest_curvature():
    made, _ = optim.resolve(optim.sgd(), eigenvalues=np.array([-4.0, 1.0]))
    assert made.hyper["lr"] == pytest.approx(0.5 * 2 / 4)


def test_auto_without_curvature_is_refused():
    for sharpness in (0.0, -1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"optim\.lr=auto"):
            optim.resolve(optim.sgd(), sharpness=sharpness)


@pytest.mark.parametrize("bad", [0, -0.1, float("nan"), float("inf"), 1e13, "fast", True, None])
def test_bad_lr_is_refused_by_its_key(bad):
    for builder in ALL.values():
        with pytest.raises(ConfigError, match=r"optim\.lr=.*expected"):
            builder(lr=bad)


@pytest.mark.parametrize(
    "builder, key, bad",
    [
        (optim.momentum, "momentum", 1.0),
        (optim.nesterov, "momentum", -0.1),
        (optim.adam, "b1", 1.5),
        (optim.adam, "b2", "auto"),
        (optim.adam, "eps", 0),
        (optim.rmsprop, "decay", -1),
        (optim.sgd, "fraction", 0),
    ],
)
def test_other_bad_numbers_are_refused_by_their_key(builder, key, bad):
    with pytest.raises(ConfigError, match=rf"optim\.{key}="):
        builder(**{"lr": 0.1, key: bad})


@pytest.mark.parametrize("name", ["adam", "adamw", "lion", "lamb", "adagrad", "nadam", "sgd", "novograd", "yogi"])
def test_any_optax_optimizer_steps_as_optax_itself(name):
    function = getattr(optax, name)
    x = {"w": jnp.array([1.0, -2.0, 3.0])}
    ours = optim.from_optax(function, lr=0.05)
    theirs = function(0.05)
    state, their_state = ours.init(x), theirs.init(x)
    for _ in range(3):
        mine, state = ours.transform.update(x, state, x)
        updates, their_state = theirs.update(x, their_state, x)
        assert np.allclose(mine["w"], updates["w"], rtol=1e-5)  # float32: the same operations, lr as an array
    assert ours.name in (name, "adam")  # nadam is a partial of adam


def test_schedule_multiplies_lr_and_is_seen_by_the_threshold():
    schedule = optax.linear_schedule(1.0, 0.0, 10)
    optimizer = optim.sgd(lr=0.5, schedule=schedule)
    path, state = walk(optimizer, lambda x: jnp.ones(()), jnp.zeros(()), 4)
    assert np.allclose(np.diff(path), -0.5 * np.array([1.0, 0.9, 0.8, 0.7]), rtol=1e-6)
    assert optimizer.hyper_at(state)["lr"] == pytest.approx(0.5 * 0.6, rel=1e-6)


def test_unknown_option_of_an_optax_function_is_refused():
    with pytest.raises(ConfigError, match="weight_decai"):
        optim.from_optax(optax.adamw, lr=0.1, weight_decai=0.1)
    with pytest.raises(ConfigError, match=r"optim\.lr=auto"):
        optim.from_optax(optax.lion, lr="auto")


def test_every_builder_takes_a_schedule_and_says_what_it_is():
    for builder in ALL.values():
        assert "schedule" in inspect.signature(builder).parameters
        assert builder.__doc__


@pytest.mark.parametrize("name", ["sgd", "momentum", "adam", "rmsprop", "adagrad"])
@pytest.mark.parametrize("dtypes", [("bfloat16", "bfloat16"), ("bfloat16", "float32")], ids="-".join)
def test_parameters_of_16_bits_are_trained_as_float32_to_their_rounding(name, dtypes):
    made = {"momentum": optim.momentum(lr=0.1, momentum=0.5)}.get(name) or getattr(optim, name)(lr=0.1)
    ends = []
    for kinds in (dtypes, ("float32", "float32")):
        params = [jnp.asarray([1.0, -2.0], kind) for kind in kinds]
        state = made.init(params)
        step = jax.jit(made.transform.update)
        for _ in range(5):
            updates, after = step(params, state, params)  # the gradient of half the squared length
            assert jax.tree.map(jnp.result_type, after) == jax.tree.map(jnp.result_type, state)
            params, state = optax.apply_updates(params, updates), after
        ends.append(np.concatenate([np.asarray(leaf, np.float64) for leaf in params]))
    # each of five steps rounds to 2^-9 relative, of numbers up to 2; Adam's ratio of rounded moments twice
    assert ends[0] == pytest.approx(ends[1], abs=5 * 2 * 4 * 2**-9)
