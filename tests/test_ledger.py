"""The ledger against closed forms on quadratics and against plain numpy over all minibatches."""

import itertools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from curvexp import optim, preprocess, probe, training
from curvexp import problem as problems
from curvexp.curvature import Objective
from curvexp.probe import ledger

DIMENSION = 12
COLUMNS = ("residuals", "gradient_share", "loss_along", "loss_share", "contraction", "contraction_theory")


def quadratic(**options):
    options = {"dimension": DIMENSION, "condition_number": 30.0, **options}
    return problems.quadratic(preprocess=preprocess.raw(), dtype=jnp.zeros(0).dtype, **options)


def train(problem, optimizer, measure, *, seed=0, **options):
    options = {"steps": 40, "record_every": 5, "target": None, **options}
    return list(training.run(problem, optimizer, measure, key=jax.random.key(seed), **options))


def read(records):
    """The probed records but the first, which has nothing before it."""
    found = [record for record in records if record.reading]
    assert found[0].step == 0
    return found[1:]


def agrees(found, exact):
    """Whether the contractions that were seen are these, to the rounding of their components: eps·‖g‖ over |⟨v,g⟩|."""
    seen = np.isfinite(found["contraction"])
    assert seen.any()  # what rounding hides is nan
    slack = 1e-9 + 1e-15 / np.sqrt(found["gradient_share"][seen])
    return (np.abs(found["contraction"][seen] / exact[seen] - 1) <= slack).all()


def radius(method, curvature, lr, beta):
    """Of one step on (gradient, momentum), by LAPACK: x ← x − αm or x ← x − α(g + βm), then g ← λx."""
    if method == "sgd":
        return abs(1 - lr * curvature)
    g, m = np.array([1.0, 0.0]), np.array([0.0, 1.0])
    grown = beta * m + g
    step = lr * (grown if method == "momentum" else g + beta * grown)
    return np.abs(np.linalg.eigvals(np.stack([g - curvature * step, grown]))).max()


def test_at_a_minimum_nothing_is_said_of_the_gradient_outside_the_tracked_directions():
    problem = quadratic(start=[0.0] * DIMENSION)
    records = train(problem, optim.sgd(lr=0.01), probe.top(k=3, dense_below=0), steps=5)
    assert [record.scalars["grad_norm"] for record in records] == [0, 0]
    assert all("rest_curvature" not in record.scalars for record in records)
    assert records[-1].scalars["sharpness"] == pytest.approx(30, rel=1e-4)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("measure", [probe.exact(every=10), probe.top(k=3, every=10, tol=1e-12, dense_below=0)])
@pytest.mark.parametrize("method, lr", [("sgd", 0.02), ("sgd", 0.07), ("momentum", 0.02), ("nesterov", 0.02)])
def test_measured_contraction_is_theorys_on_a_quadratic(method, lr, measure):
    """Real and complex roots, and (sgd, lr 0.07) growth past the threshold 2/30."""
    options = {} if method == "sgd" else {"momentum": 0.8}
    problem = quadratic()
    for record in read(train(problem, getattr(optim, method)(lr=lr, **options), measure)):
        found = record.reading.extra["ledger"]
        exact = np.array([radius(method, value, lr, 0.8) for value in found["eigenvalues"]])
        assert found["contraction_theory"] == pytest.approx(exact, rel=1e-7)  # eigvals near a double root
        assert agrees(found, found["contraction_theory"])
        assert found["since"] == record.step - 5
        assert found["operator"] == "hessian"
        # with momentum the radius is no function of a mean curvature: beside 0.994 measured it gave √β₁ = 0.9487
        spoken = record.scalars.get("rest_contraction_theory") is not None
        assert spoken == (method == "sgd" and record.scalars.get("rest_gradient_share", 0) > 0)


@pytest.mark.usefixtures("x64")
def test_all_directions_are_seen_early_and_a_hidden_one_is_none_rather_than_noise():
    problem = quadratic(eigenvalues=[1.0, 2.0, 16.0, 30.0], dimension=None)
    early, *_, late = read(train(problem, optim.sgd(lr=0.05), probe.exact(every=10), steps=60))
    assert np.isfinite(early.reading.extra["ledger"]["contraction"]).all()
    assert np.isnan(late.reading.extra["ledger"]["contraction"]).tolist() == [
        False,
        False,
        True,
        True,
    ]  # 0.2^60, 0.5^60


@pytest.mark.usefixtures("x64")
def test_heavy_ball_at_its_optimum_contracts_by_the_double_root():
    problem = quadratic()
    root = math.sqrt(30)
    for record in read(train(problem, optim.momentum(), probe.exact(every=10))):
        found = record.reading.extra["ledger"]["contraction"]
        assert found[np.isfinite(found)] == pytest.approx((root - 1) / (root + 1), rel=1e-6)


@pytest.mark.usefixtures("x64")
def test_shares_are_those_of_the_known_minimum():
    problem = quadratic(b=list(np.arange(DIMENSION) - 3.0))
    for record in read(train(problem, optim.momentum(lr=0.02, momentum=0.5), probe.exact(every=10))):
        matrix, vector = np.asarray(problem.data.matrix), np.asarray(problem.data.vector)
        values, vectors = np.linalg.eigh(matrix)
        x = np.asarray(record.state.params)
        along = 0.5 * values * (vectors.T @ (x - np.linalg.solve(matrix, vector))) ** 2
        g = matrix @ x - vector
        found = record.reading.extra["ledger"]
        assert found["loss_from"] == "optimum"
        assert found["loss_along"] == pytest.approx(along, rel=1e-6, abs=1e-13)
        assert found["loss_share"].sum() == pytest.approx(1, rel=1e-6)
        assert found["gradient_share"] == pytest.approx((vectors.T @ g) ** 2 / (g @ g), rel=1e-6, abs=1e-13)
        assert record.scalars["gradient_share_tracked"] == pytest.approx(1, rel=1e-12)
        most = along.argmax()
        assert record.scalars["bottleneck_eigenvalue"] == pytest.approx(values[most], rel=1e-9)
        assert record.scalars["bottleneck_loss_share"] == pytest.approx(along[most] / along.sum(), rel=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_local_model_is_the_loss_where_the_loss_is_quadratic():
    problem = quadratic()
    blind = problem._replace(known=problems.Known(), lower_bound=0.0)
    for seen, unseen in zip(
        *(read(train(p, optim.sgd(lr=0.02), probe.exact(every=10))) for p in (problem, blind)), strict=True
    ):
        one, other = seen.reading.extra["ledger"], unseen.reading.extra["ledger"]
        assert (one["loss_from"], other["loss_from"]) == ("optimum", "model")
        for name in ("loss_along", "loss_share"):
            assert other[name] == pytest.approx(one[name], rel=1e-6, abs=1e-13)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", ["sgd", "momentum"])
def test_threshold_margin_and_contraction_follow_the_schedule(name):
    steps, lr = 40, 0.06
    options = {} if name == "sgd" else {"momentum": 0.0}
    optimizer = getattr(optim, name)(lr=lr, schedule=optax.cosine_decay_schedule(1.0, steps), **options)
    values = np.asarray(quadratic().known.eigenvalues)

    def at(step):
        return lr * (1 + math.cos(math.pi * step / steps)) / 2

    records = train(quadratic(), optimizer, probe.exact(every=10), steps=steps)
    for record in read(records):
        found, scalars = record.reading.extra["ledger"], record.scalars
        used = np.array([at(step) for step in range(found["since"], record.step)])
        exact = np.exp(np.log(np.abs(1 - used[:, None] * values)).mean(axis=0))
        assert found["contraction_theory"] == pytest.approx(exact, rel=1e-9)
        assert agrees(found, exact)
        assert scalars["stability_margin"] == pytest.approx(values[-1] * at(record.step) / 2, rel=1e-9, abs=1e-15)
    assert (records[-1].scalars["threshold"], records[-1].scalars["stability_margin"]) == (math.inf, 0)


@pytest.mark.usefixtures("x64")
def test_adagrads_directions_contract_as_theory_says_once_its_preconditioner_stands_still():
    values = np.linspace(
        1, 1.5, DIMENSION
    )  # near each other: what P still moves would leak from slow to fast directions
    problem, lr = quadratic(eigenvalues=list(values), dimension=None), 0.3
    (last,) = read(train(problem, optim.adagrad(lr=lr), probe.exact(every=300), steps=300))
    found = last.reading.extra["ledger"]
    stepped = optim.adagrad(lr=lr).transform.update(last.state.gradient, last.state.opt_state, last.state.params)[1]
    p = np.asarray(optim.preconditioner(stepped))
    assert p.max() / p.min() > 1.5
    exact = np.linalg.eigvalsh(np.asarray(problem.data.matrix) / np.sqrt(np.outer(p, p)))
    assert found["operator"] == "preconditioned"
    assert found["eigenvalues"] == pytest.approx(exact, rel=1e-10)
    seen = np.isfinite(found["contraction"])
    assert seen.sum() > 3
    assert found["contraction"][seen] == pytest.approx(np.abs(1 - lr * exact[seen]), rel=1e-5)
    assert found["contraction_theory"] == pytest.approx(np.abs(1 - lr * exact), rel=1e-9)
    assert last.scalars["sharpness"] == pytest.approx(exact[-1], rel=1e-10)
    assert last.scalars["stability_margin"] == pytest.approx(exact[-1] * lr / 2, rel=1e-10)
    assert last.scalars["effective_condition_number"] == pytest.approx(exact[-1] / exact[0], rel=1e-9)
    assert last.scalars["condition_number"] == pytest.approx(1.5, rel=1e-9)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("measure", [probe.exact(every=20), probe.top(k=3, every=20, tol=1e-12, dense_below=0)])
def test_adams_ratios_are_those_of_the_preconditioned_coordinates(measure):
    lr, b1 = 0.01, 0.9
    problem, optimizer = quadratic(), optim.adam(lr=0.01)
    records = train(problem, optimizer, measure)
    for record in read(records):
        before = next(r for r in records if r.step == record.step - 5).state
        now, matrix = record.state, np.asarray(problem.data.matrix)
        p = np.asarray(optim.preconditioner(optimizer.transform.update(now.gradient, now.opt_state, now.params)[1]))
        roots, x = np.sqrt(p), np.asarray(now.params)
        values, vectors = np.linalg.eigh(matrix / np.outer(roots, roots))
        found = record.reading.extra["ledger"]
        rows = np.abs(values[:, None] - found["eigenvalues"]).argmin(axis=0)
        values, vectors = values[rows], vectors[:, rows]
        assert found["eigenvalues"] == pytest.approx(values, rel=1e-9)
        g = vectors.T @ (matrix @ x / roots)
        assert found["gradient_share"] == pytest.approx(g**2 / np.sum((matrix @ x / roots) ** 2), rel=1e-6, abs=1e-12)
        assert found["loss_along"] == pytest.approx(0.5 * values * (vectors.T @ (roots * x)) ** 2, rel=1e-6, abs=1e-10)
        for row, value in enumerate(values):
            one = np.array([[1 - lr * (1 - b1) * value, -lr * b1 * value], [1 - b1, b1]])
            roots_of, left = np.linalg.eig(one.T)
            top = np.abs(roots_of).argmax()
            assert found["contraction_theory"][row] == pytest.approx(abs(roots_of[top]), rel=1e-7)
            sizes = []
            for state in (before, now):
                m = np.asarray(optim.momentum_of(state.opt_state))
                pair = [vectors[:, row] @ (np.asarray(part) / roots) for part in (state.gradient, m)]
                sizes.append(abs(left[:, top] @ pair))
            assert found["contraction"][row] == pytest.approx((sizes[1] / sizes[0]) ** (1 / 5), rel=1e-6)


@pytest.mark.usefixtures("x64")
def test_the_best_step_is_the_minimum_along_the_step():
    problem = quadratic()
    for record in read(train(problem, optim.momentum(lr=0.02, momentum=0.9), probe.exact(every=10))):
        state = record.state
        step = optim.momentum(lr=0.02, momentum=0.9).transform.update(state.gradient, state.opt_state, state.params)[0]
        best = record.scalars["best_step"]
        losses = [float(problem.loss(state.params + e * step, problem.data)) for e in (0, best / 2, best, 2 * best)]
        assert losses[2] == min(losses)
        assert losses[3] == pytest.approx(losses[0], rel=1e-9)  # at twice the best step the parabola is level again
        assert losses[1] - losses[2] == pytest.approx((losses[0] - losses[2]) / 4, rel=1e-6)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("optimizer", [optim.sgd(lr=0.02), optim.rmsprop(lr=1e-3)])
def test_what_is_not_tracked_has_its_share_curvature_and_shrinking(optimizer):
    problem = quadratic()
    records = train(problem, optimizer, probe.top(k=2, every=10, tol=1e-12, dense_below=0))
    for record in read(records):
        now, before = record.state, next(r for r in records if r.step == record.step - 5).state
        p = np.ones(DIMENSION)
        if optimizer.preconditioner:
            stepped = optimizer.transform.update(now.gradient, now.opt_state, now.params)[1]
            p = np.asarray(optimizer.preconditioner(stepped))
        matrix = np.asarray(problem.data.matrix) / np.sqrt(np.outer(p, p))
        bulk = np.linalg.eigh(matrix)[1][:, 2:-2]
        g, old = (bulk.T @ (np.asarray(state.gradient) / np.sqrt(p)) for state in (now, before))
        scalars, curvature = record.scalars, g @ bulk.T @ matrix @ bulk @ g / (g @ g)
        assert scalars["rest_gradient_share"] == pytest.approx(
            g @ g / np.sum(np.asarray(now.gradient) ** 2 / p), rel=1e-6
        )
        assert scalars["rest_curvature"] == pytest.approx(curvature, rel=1e-6)
        assert scalars["rest_contraction"] == pytest.approx((g @ g / (old @ old)) ** 0.1, rel=1e-6)
        assert scalars["rest_contraction_theory"] == pytest.approx(abs(1 - optimizer.hyper["lr"] * curvature), rel=1e-6)
    assert scalars["hvps"] >= 4


@pytest.mark.usefixtures("x64")
def test_with_the_largest_eigenvalues_alone_nothing_is_said_of_the_smallest():
    problem, optimizer = quadratic(), optim.rmsprop(lr=1e-3)
    measure = probe.top(k=2, which="LA", every=20, tol=1e-12, dense_below=0)
    for record in read(train(problem, optimizer, measure)):
        state = record.state
        stepped = optimizer.transform.update(state.gradient, state.opt_state, state.params)[1]
        p = np.asarray(optimizer.preconditioner(stepped))
        exact = np.linalg.eigvalsh(np.asarray(problem.data.matrix) / np.sqrt(np.outer(p, p)))
        assert record.reading.extra["ledger"]["eigenvalues"] == pytest.approx(exact[-2:], rel=1e-9)
        assert record.scalars["top_contraction_theory"] == pytest.approx(abs(1 - 1e-3 * exact[-1]), rel=1e-9)
        assert not [name for name in record.scalars if name.startswith("bottom_")]
        assert record.scalars["index_low"] == 0


@pytest.mark.usefixtures("x64")
def test_index_and_rank_bracket_the_truth():
    values = [-3.0, -1.0, 0.0, 0.0, *np.linspace(0.5, 20, 16)]
    problem = quadratic(eigenvalues=values, dimension=None)
    whole = training.over_all_data(problem)
    params = problem.init(jax.random.key(0))
    exact = probe.exact().measure(whole, params, None, jax.random.key(1))[0].scalars
    assert (exact["index"], exact["rank"], exact["below_floor"]) == (2, 18, 2)
    found = probe.top(k=5, tol=1e-10, dense_below=0).measure(whole, params, None, jax.random.key(1))[0].scalars
    assert (found["index_low"], found["index_high"], found["rank_low"]) == (2, 4, 8)


@pytest.mark.parametrize("k, high", [(1, 19), (2, 18), (3, 17), (4, 16), (5, 4), (7, 4)])
def test_inertia_bounds_hold_the_truth(k, high):
    """Until the lower end reaches a surely positive value the index is bounded by the positive ones alone."""
    values = np.array([-3.0, -1.0, 0.0, 0.0, *np.linspace(0.5, 20, 16)])
    ends = np.concatenate([values[:k], values[-k:]])
    found = probe.inertia_bounds(ends, np.full(2 * k, 1e-9), size=20, eps=2e-16)
    assert found == {"index_low": min(k, 2), "index_high": high, "rank_low": k + min(k, 2) + max(k - 4, 0)}
    assert found["index_low"] <= 2 <= found["index_high"]
    vague = probe.inertia_bounds(ends, np.full(2 * k, 5.0), size=20, eps=2e-16)  # no residual is small enough
    assert vague["index_high"] == 20 - k - max(k - 4, 0)
    assert probe.inertia_bounds([np.nan, 1.0], [0.0, 0.0], size=20, eps=2e-16) == {}


class Data(NamedTuple):
    inputs: jax.Array
    targets: jax.Array


def squares(params, data):
    return 0.5 * jnp.mean((data.inputs @ params - data.targets) ** 2)


def examples(count):
    rng = np.random.default_rng(3)
    return Data(jnp.asarray(rng.standard_normal((count, 3)) * [1, 2, 0.5]), jnp.asarray(rng.standard_normal(count)))


def brute_force(params, data, batches):
    """E[g_B'H_B g_B/‖g_B‖²] and E[(g_B − g)'H(g_B − g)], one minibatch after the other."""
    x, y = np.asarray(data.inputs), np.asarray(data.targets)
    full = x.T @ (x @ params - y) / len(x)
    sharp, traces = [], []
    for batch in map(list, batches):
        part = x[batch]
        g = part.T @ (part @ params - y[batch]) / len(batch)
        sharp.append(g @ (part.T @ part) @ g / len(batch) / (g @ g))
        traces.append((g - full) @ (x.T @ x / len(x)) @ (g - full))
    return np.mean(sharp), np.mean(traces)


@pytest.mark.usefixtures("x64")
def test_minibatch_figures_of_a_run_are_those_of_all_minibatches():
    data = examples(6)
    problem = problems.Problem("squares", lambda key: jnp.ones(3), squares, data, examples=6, lower_bound=0.0)
    records = train(problem, optim.sgd(lr=0.01), probe.exact(every=20), batch_size=2, steps=40)
    for record in records:
        if record.reading:
            sharp, trace = brute_force(np.asarray(record.state.params), data, itertools.combinations(range(6), 2))
            assert record.scalars["batch_sharpness"] == pytest.approx(sharp, rel=1e-10)
            assert record.scalars["trace_noise"] == pytest.approx(trace, rel=1e-10)
            assert record.scalars["batch_sharpness_stderr"] == record.scalars["trace_noise_stderr"] == 0
            assert record.scalars["lambda_max"] <= record.scalars["batch_sharpness"] * 3  # beside it
            assert record.scalars["hvps"] == 3 + 2 + 15 * (1 + 2 / 6)
    assert read(records)[0].reading.extra["ledger"]["since"] == 0  # from reading to reading: gradients over all data


@pytest.mark.usefixtures("x64")
def test_trace_noise_is_that_of_the_examples_scaled_to_the_batch():
    count, size = 9, 4
    data, params = examples(count), np.array([0.3, -1.0, 2.0])
    loss = Objective(jax.tree_util.Partial(squares), data)
    everything = list(itertools.combinations(range(count), size))
    sharp, traces = ledger.noise(loss, jnp.asarray(params), everything)
    assert (sharp.mean(), traces.mean()) == pytest.approx(brute_force(params, data, everything), rel=1e-10)
    single = brute_force(params, data, [[i] for i in range(count)])[1]  # tr(HΣ₁)
    assert traces.mean() == pytest.approx(single * (count - size) / (size * (count - 1)), rel=1e-10)


def test_a_batch_of_all_examples_is_the_one_minibatch_and_huge_ones_are_not_counted():
    loss = Objective(jax.tree_util.Partial(squares), Data(np.zeros((200_000, 1)), np.zeros(200_000)))
    whole = ledger.draw_batches(loss, 200_000, jax.random.key(0))
    assert np.array_equal(np.asarray(whole), [np.arange(200_000)])
    assert ledger.draw_batches(loss, 100_000, jax.random.key(0)).shape == (ledger.FEWEST_BATCHES, 100_000)


@pytest.mark.usefixtures("x64")
def test_drawn_minibatches_estimate_all_of_them_within_their_error():
    data, params = examples(40), np.array([0.3, -1.0, 2.0])
    loss = Objective(jax.tree_util.Partial(squares), data)
    single = brute_force(params, data, [[i] for i in range(40)])[1]
    misses = []
    for seed in range(20):
        batches = ledger.draw_batches(loss, 5, jax.random.key(seed))
        assert batches.shape == (ledger.BATCHES, 5)
        assert all(len(set(batch)) == 5 for batch in np.asarray(batches).tolist())
        _, traces = ledger.noise(loss, jnp.asarray(params), batches)
        stderr = traces.std(ddof=1) / math.sqrt(len(traces))
        misses.append((traces.mean() - single * 35 / (5 * 39)) / stderr)
    assert abs(np.mean(misses)) < 3 / math.sqrt(20) * 1.3  # the mean of 20 t-values; skewed, so a little wider
    assert np.max(np.abs(misses)) < 5


@pytest.mark.parametrize("optimizer", [optim.momentum(lr=30.0, momentum=0.9), optim.adam(lr=1e12)])
@pytest.mark.parametrize("measure", [probe.exact(every=1), probe.top(k=2, every=1, dense_below=0)])
def test_a_run_that_blows_up_is_accounted_for_to_its_end(optimizer, measure):
    """float32, up to overflow: neither a warning nor an exception, and JSON's own numbers or None in every scalar."""
    problem = problems.rosenbrock(preprocess=preprocess.raw(), dtype=jnp.float32)
    records = train(problem, optimizer, measure, steps=30, record_every=1, diverge_at=1e300)
    assert records[-1].outcome.status == "diverged"
    first = records[0].scalars
    assert first["stability_margin"] == pytest.approx(first["sharpness"] / first["threshold"], rel=1e-6)
    for record in records:
        assert all(value is None or isinstance(value, int | float) for value in record.scalars.values())


@pytest.mark.usefixtures("x64")
def test_past_the_threshold_the_sharpest_direction_grows_as_theory_says():
    problem = quadratic()
    last = train(problem, optim.sgd(lr=1.3 * 2 / 30), probe.exact(every=10), steps=2000)[-1].scalars
    assert last["stability_margin"] == pytest.approx(1.3, rel=1e-9)
    assert last["top_contraction"] == pytest.approx(1.6, rel=1e-6)
    assert last["top_contraction_theory"] == pytest.approx(1.6, rel=1e-9)


def test_what_a_reading_cost_is_recorded_and_without_a_probe_the_clock_is_not_read():
    ticks = itertools.count()
    clock = lambda: float(next(ticks))  # noqa: E731
    records = train(quadratic(), optim.sgd(lr=0.02), probe.exact(every=20), clock=clock)
    costs = [(r.scalars["hvps"], r.scalars["probe_seconds"]) for r in records if r.reading]
    assert costs == [(DIMENSION + 2, 1.0)] * 3
    assert all(record.reading is None or record.reading.eigenvectors is None for record in records)
    before = next(ticks)
    off = train(quadratic(), optim.sgd(lr=0.02), probe.off(), clock=clock)
    assert next(ticks) == before + 1
    assert set(off[-1].scalars) == {"loss", "grad_norm", "lr", "threshold"}


@pytest.mark.usefixtures("x64")
def test_every_column_has_a_value_for_every_direction():
    for record in train(quadratic(), optim.nesterov(), probe.top(k=3, every=20, dense_below=0)):
        if record.reading:
            found = record.reading.extra["ledger"]
            assert all(found[name].shape == found["eigenvalues"].shape == (6,) for name in COLUMNS)
