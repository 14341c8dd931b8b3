"""The training loop against plain Python loops and closed forms."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import curvexp
from curvexp import optim, preprocess, probe, programs, training
from curvexp import problem as problems
from curvexp.errors import ConfigError
from curvexp.linalg import krylov


def quadratic(**options):
    options = {"dimension": 20, "condition_number": 50.0, **options}
    return problems.quadratic(preprocess=preprocess.raw(), dtype=jnp.zeros(0).dtype, **options)


def network(**options):
    data = problems.data.wine()
    return problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float32, data=data, hidden=[8], **options)


def network_x64():
    data = problems.data.wine()
    return problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float64, data=data, hidden=[5])


def dense_hessian(problem, params):
    """By jax.hessian, independent of curvexp's operators."""
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = np.asarray(jax.jit(jax.hessian(lambda x: problem.loss(unravel(x), problem.data)))(flat))
    return (dense + dense.T) / 2


def train(problem, optimizer, measure=None, *, seed=0, **options):
    return list(training.run(problem, optimizer, measure, key=jax.random.key(seed), **{"steps": 60, **options}))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("builder", [optim.sgd, optim.momentum, optim.nesterov, optim.adam, optim.rmsprop])
def test_losses_are_those_of_a_plain_loop_over_optax(builder):
    problem, optimizer = quadratic(), builder(lr=0.01)
    records = train(problem, optimizer, steps=37, record_every=5)
    x = records[0].state.params
    optimizer, _ = optim.resolve(optimizer)
    state, losses = optimizer.init(x), []
    for _ in range(38):
        loss, gradient = jax.value_and_grad(problem.loss)(x, problem.data)
        losses.append(float(loss))
        updates, state = optimizer.transform.update(gradient, state, x)
        x = optax.apply_updates(x, updates)
    assert [record.step for record in records] == [*range(0, 36, 5), 37]
    for record in records:  # the same operations, fused otherwise: rounding of sums of 20 terms
        assert record.scalars["loss"] == pytest.approx(losses[record.step], rel=1e-11)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("method, tolerance", [("sgd", 0.02), ("momentum", 0.05), ("nesterov", 0.05)])
@pytest.mark.parametrize("condition_number", [10.0, 1e4])
def test_measured_rate_is_theorys_at_the_best_step(method, tolerance, condition_number):
    problem = quadratic(dimension=100, condition_number=condition_number)
    outcome = train(problem, getattr(optim, method)(), steps=1000)[-1].outcome
    assert -np.log(outcome.rate) == pytest.approx(-np.log(outcome.rate_theory), rel=tolerance)
    root = {"sgd": condition_number, "momentum": condition_number**0.5}
    if method in root:
        assert outcome.rate_theory == pytest.approx(
            (root[method] - 1) / (root[method] + 1), abs=1e-7
        )  # √eps: a double root


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    "builder",
    [optim.sgd, functools.partial(optim.momentum, momentum=0.9), functools.partial(optim.nesterov, momentum=0.9)],
)
def test_the_threshold_parts_convergence_from_divergence(builder):
    problem = quadratic()
    limit = float(builder(lr=1.0).threshold(builder(lr=1.0).hyper)) / problem.known.eigenvalues[-1]
    inside = train(problem, builder(lr=0.99 * limit), steps=3000)[-1].outcome
    outside = train(problem, builder(lr=1.01 * limit), steps=3000)[-1].outcome
    assert inside.status == "completed"
    assert inside.loss < 1e-6 * inside.loss_start
    assert outside.status == "diverged"
    assert "diverge_at" in outside.reason
    assert outside.steps < 3000


def test_target_stops_at_the_first_step_that_reaches_it_and_auto_only_measures():
    problem = quadratic()
    measured = train(problem, optim.sgd(), steps=400)
    first = measured[-1].outcome.steps_to_target
    assert measured[-1].step == 400
    losses = {r.step: r.scalars["loss"] for r in train(problem, optim.sgd(), steps=400, record_every=1)}
    goal = 1e-3 * losses[0]  # the minimum is 0
    assert first == min(step for step, loss in losses.items() if loss <= goal)
    stopped = train(problem, optim.sgd(), steps=400, target=1e-3)
    assert stopped[-1].step == first
    assert stopped[-1].outcome.status == "completed"
    assert "target" in stopped[-1].outcome.reason


@pytest.mark.parametrize("name", ["dome", "saddle", "monkey_saddle"])
def test_an_unbounded_problem_diverges_and_says_so(name):
    problem = getattr(problems, name)(preprocess=preprocess.raw(), dtype=jnp.float32)
    outcome = train(problem, optim.sgd(lr=0.1), steps=2000)[-1].outcome
    assert outcome.status == "diverged"
    assert "unbounded below" in outcome.reason or "not finite" in outcome.reason or "inf" in outcome.reason


def test_a_diverged_run_keeps_its_last_curvature():
    problem = quadratic()
    records = train(problem, optim.sgd(lr=1.0), probe.exact(every=10), steps=200)
    assert records[-1].outcome.status == "diverged"
    read = [record for record in records if record.reading]
    assert np.allclose(read[-1].reading.eigenvalues, problem.known.eigenvalues, rtol=1e-4)  # float32


@pytest.mark.usefixtures("x64")
def test_exact_probe_is_lapack_on_the_dense_hessian():
    problem = network_x64()
    records = train(problem, optim.sgd(), probe.exact(every=25), steps=50)
    assert [record.step for record in records if record.reading] == [0, 25, 50]
    for record in records:
        if record.reading:
            exact = np.linalg.eigvalsh(dense_hessian(problem, record.state.params))
            assert np.abs(record.reading.eigenvalues - exact).max() <= 1e-10 * np.abs(exact).max()
            assert record.reading.gradient_overlaps.sum() == pytest.approx(1, rel=1e-9)  # a complete basis


@pytest.mark.usefixtures("x64")
def test_top_probe_lies_within_its_residuals_and_misses_none():
    problem = network_x64()
    records = train(problem, optim.sgd(), probe.top(k=3, every=25, dense_below=0), steps=50)
    for record in records:
        if record.reading:
            exact = np.linalg.eigvalsh(dense_hessian(problem, record.state.params))
            wanted = np.concatenate([exact[:3], exact[-3:]])
            slack = record.reading.residuals + 1e-10 * np.abs(exact).max()
            assert (np.abs(record.reading.eigenvalues - wanted) <= slack).all()
            assert (record.reading.residuals <= 1e-3 * np.abs(exact).max() * 1.01).all()


@pytest.mark.usefixtures("x64")
def test_taylor_prediction_is_exact_on_a_quadratic_and_third_order_on_a_network():
    records = train(quadratic(), optim.momentum(), probe.top(every=10), steps=40)
    for record in records:
        if record.reading:
            predicted, actual = record.scalars["change_predicted"], record.scalars["change_actual"]
            assert predicted == pytest.approx(actual, rel=1e-8, abs=1e-13)  # a difference of two losses
    errors = []
    for lr in (0.004, 0.002):
        scalars = train(network_x64(), optim.sgd(lr=lr), probe.top(every=10), steps=1)[0].scalars
        errors.append(abs(scalars["change_predicted"] - scalars["change_actual"]))
    assert errors[0] / errors[1] == pytest.approx(8, rel=0.1)  # ε³; the ε⁴ term made 12 % at ε = 0.02, so 2 % here


@pytest.mark.usefixtures("x64")
def test_gradient_curvature_is_the_rayleigh_quotient_of_a():
    problem = quadratic()
    record = train(problem, optim.sgd(), probe.top(every=10), steps=1)[0]
    a = np.asarray(problem.data.matrix)
    g = a @ np.asarray(record.state.params)
    assert record.scalars["gradient_curvature"] == pytest.approx(g @ a @ g / (g @ g), rel=1e-12)
    assert record.scalars["best_lr_gradient"] == pytest.approx(g @ g / (g @ a @ g), rel=1e-12)


@pytest.mark.usefixtures("x64")
def test_sharpness_of_adam_is_that_of_the_preconditioned_hessian():
    problem, optimizer = network_x64(), optim.adam(lr=0.01)
    records = train(problem, optimizer, probe.top(k=2, every=20, tol=1e-6, dense_below=0), steps=20)
    state = records[-1].state
    _, stepped = optimizer.transform.update(state.gradient, state.opt_state, state.params)
    p = np.asarray(jax.flatten_util.ravel_pytree(optimizer.preconditioner(stepped))[0])
    exact = np.linalg.eigvalsh(dense_hessian(problem, state.params) / np.sqrt(np.outer(p, p)))
    found = records[-1].scalars
    assert abs(found["sharpness"] - exact[-1]) <= found["sharpness_residual"] + 1e-9 * np.abs(exact).max()
    assert found["threshold"] == pytest.approx(38 / 0.01, rel=1e-12)


def test_minibatches_visit_every_example_once_an_epoch():
    """The gradient of a linear loss sums what was seen: after whole epochs each example counts equally."""
    examples, batch = 12, 4

    def init(key):
        return jnp.zeros(examples)

    def loss(params, data):
        return (data @ params).mean()

    problem = problems.Problem("linear", init, loss, jnp.eye(examples), examples=examples)
    records = train(
        problem, optim.sgd(lr=1.0), steps=2 * examples // batch, batch_size=batch, record_every=3, target=None
    )
    assert np.allclose(records[1].state.params, -1 / batch)
    assert np.allclose(records[2].state.params, -2 / batch)
    assert not np.array_equal(records[0].state.order, records[1].state.order)


def test_seed_decides_everything_and_nothing_else_does():
    problem = network()
    one, same, other = (train(problem, optim.sgd(lr=0.1), batch_size=16, seed=seed, steps=30) for seed in (0, 0, 1))
    assert [r.scalars for r in one] == [r.scalars for r in same]
    assert one[-1].scalars["loss"] != other[-1].scalars["loss"]


def test_jobs_that_differ_in_numbers_alone_compile_once():
    programs.release()  # or the bound may release some of the others meanwhile
    made = []
    for seed, lr, condition in ((0, 0.01, 50.0), (1, 0.02, 50.0), (2, 0.005, 300.0)):
        train(quadratic(condition_number=condition), optim.momentum(lr=lr), seed=seed, steps=53)
        made.append(programs.count())
    assert made[0] == made[1] == made[2]


def test_record_every_and_probe_every_interleave():
    records = train(quadratic(), optim.sgd(), probe.top(every=7), steps=20, record_every=5)
    assert [record.step for record in records] == [0, 5, 7, 10, 14, 15, 20]
    assert [record.step for record in records if record.reading] == [0, 7, 14, 20]


def test_probing_does_not_change_the_training():
    problem = network()
    off, on = (train(problem, optim.adam(), measure, steps=40) for measure in (None, probe.top(every=10)))
    assert [r.scalars["loss"] for r in off] == [r.scalars["loss"] for r in on]


@pytest.mark.parametrize(
    "key, value",
    [
        ("steps", 0),
        ("steps", -5),
        ("steps", 1.5),
        ("steps", True),
        ("record_every", 0),
        ("batch_size", 0),
        ("batch_size", 10**6),
        ("target", -1.0),
        ("target", float("nan")),
        ("diverge_at", 1.0),
    ],
)
def test_bad_settings_are_refused_by_their_key(key, value):
    with pytest.raises(ConfigError, match=rf"^{key}="):
        train(network(), optim.sgd(lr=0.1), **{key: value})


@pytest.mark.parametrize(
    "loss, words",
    [
        (lambda p, data: (jnp.sum(p**2), {"largest": jnp.max(p)}), r"\(float32\[\].*without auxiliary values"),
        (
            lambda p, data: curvexp.WeightedMean(jnp.sum(p**2), jnp.float32(2)),
            "a WeightedMean.*Return its sum / weight",
        ),
        (lambda p, data: p**2, r"float32\[3\], expected one real number"),
        (lambda p, data: jnp.sum(p > 0), r"int32\[\], expected one real number"),
    ],
)
def test_a_loss_that_is_no_real_number_is_refused(loss, words):
    own = problems.Problem("own", lambda key: jnp.ones(3), loss, ())
    with pytest.raises(ConfigError, match=f"^problem.loss returned {words}"):
        next(training.run(own, optim.sgd(lr=0.1), steps=1, key=0))


@pytest.mark.parametrize("key", [2**32, 2**40, -1, np.int64(2**40)])
def test_integers_that_are_the_key_of_another_one_are_refused(key):
    """JAX would take the last 32 bits: a run of 2^40 would be that of 0."""
    like, words = jnp.zeros(3), rf"^key={int(key)}: expected an integer from 0 to 2\^32 - 1"
    with pytest.raises(ConfigError, match=words):
        next(training.run(quadratic(), optim.sgd(lr=0.1), steps=1, key=key))
    draws = [curvexp.trace, curvexp.spectral_density, curvexp.linalg.diagonal, functools.partial(curvexp.eigsh, k=1)]
    for draw in draws:
        with pytest.raises(ValueError, match=words):
            draw(lambda v: 2 * v, like, key=key)
    assert curvexp.trace(lambda v: 2 * v, like, key=2**32 - 1, samples=2).mean == 6


def test_settings_that_a_problem_cannot_serve_are_refused():
    with pytest.raises(ConfigError, match=r"^batch_size=4.*no examples"):
        train(quadratic(), optim.sgd(), batch_size=4)
    with pytest.raises(ConfigError, match=r"^probe.k=21: expected 1 <= k <= 20"):
        train(quadratic(), optim.sgd(), probe.top(k=21))
    with pytest.raises(ConfigError, match=r"^probe.limit=10.*probe=top"):
        train(quadratic(), optim.sgd(), probe.exact(limit=10))


def test_auto_on_a_network_stands_at_the_stated_fraction_of_the_threshold():
    record = train(network(), optim.sgd(fraction=0.5), probe.exact(every=100), steps=1)[0]
    assert record.scalars["sharpness"] / record.scalars["threshold"] == pytest.approx(0.5, rel=0.02)  # measured to 1 %
    assert "threshold" in record.note


def test_auto_and_the_first_reading_share_a_compiled_program():
    problem = network()
    krylov._stretched_anew.clear_cache()
    records = train(problem, optim.sgd(fraction=0.5), probe.top(dense_below=0), steps=1)
    assert records[0].scalars["hvps"] > 0
    assert krylov._stretched_anew._cache_size() == 1


def test_auto_does_not_depend_on_the_probe():
    rules = (probe.off(), probe.exact(), probe.top(), probe.top(k=2, which="LA"))
    found = [train(network(), optim.momentum(), rule, steps=1)[-1].scalars for rule in rules]
    for name in ("lr", "loss"):
        assert len({scalars[name] for scalars in found}) == 1  # bit for bit


def test_a_users_probe_is_one_function():
    def laplacian(every=5):
        def measure(loss, params, state, key):
            trace = float(np.trace(curvexp.hessian(loss, params).dense()))
            empty = np.zeros(0)
            return curvexp.Reading(empty, empty, None, complete=False, scalars={"laplacian": trace}, extra={}), (
                state or 0
            ) + 1

        return curvexp.Probe("laplacian", measure, every)

    problem = quadratic()
    records = train(problem, optim.sgd(), laplacian(), steps=10)
    assert records[0].scalars["laplacian"] == pytest.approx(problem.known.eigenvalues.sum(), rel=1e-5)  # float32


def test_auto_on_a_maximum_takes_its_scale_from_the_downward_curvature(x64):
    problem = problems.himmelblau(preprocess=preprocess.raw(), dtype=jnp.float64, start=[-0.270845, -0.923039])
    values = np.linalg.eigvalsh(jax.hessian(lambda x: problem.loss(x, problem.data))(problem.init(None)))
    assert values.max() < 0  # Himmelblau's local maximum
    tuned, _ = training.tune(problem, optim.sgd(), problem.init(None), key=jax.random.key(0))
    assert tuned.hyper["lr"] == pytest.approx(0.5 * 2 / -values.min(), rel=1e-2)  # eigsh at 1e-2
