"""Runs as rows of one program, against the same runs alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvexp
from curvexp import Run, optim, preprocess, probe, run, run_many, training
from curvexp import problem as problems
from curvexp.training.account import Account
from curvexp.training.rows import Parts, side_by_side


def quadratic(**options):
    options = {"dimension": 12, "condition_number": 50.0, **options}
    return problems.quadratic(preprocess=preprocess.raw(), dtype=jnp.zeros(0).dtype, **options)


@functools.cache
def network(width=6):
    data = problems.data.gaussian(samples=60, features=5, classes=3)
    return problems.mlp(preprocess=preprocess.normalized(), dtype=jnp.float32, data=data, hidden=[width])


def by_row(rows):
    found = {}
    for records in rows:
        for record in records:
            found.setdefault(record.row, []).append(record)
    return found


def alone(one, **settings):
    return list(
        run(
            one.problem,
            one.optimizer,
            one.probe,
            key=one.key,
            target=one.target,
            diverge_at=one.diverge_at,
            resume=one.resume,
            **settings,
        )
    )


def close(found, wanted, *, rtol):
    """Records of one run: the same steps and ends, numbers to rounding."""
    assert [record.step for record in found] == [record.step for record in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert one.scalars.keys() == other.scalars.keys()
        assert one.scalars["loss"] == pytest.approx(other.scalars["loss"], rel=rtol)
        assert (one.reading is None) == (other.reading is None)
        if one.reading is not None:
            np.testing.assert_allclose(one.reading.eigenvalues, other.reading.eigenvalues, rtol=1e3 * rtol, atol=1e-6)
        for a, b in zip(jax.tree.leaves(one.state.params), jax.tree.leaves(other.state.params), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e3 * rtol, atol=1e-6)
    for name in ("status", "steps", "steps_to_target"):
        assert getattr(found[-1].outcome, name) == getattr(wanted[-1].outcome, name)


GRID = [(0.005, 0), (0.018, 1), (0.03, 2), (10.0, 3), (0.01, 4)]  # 2/λmax is 0.04


@pytest.mark.usefixtures("x64")
def test_each_run_gets_its_own_row_and_one_that_diverged_harms_no_other():
    runs = [Run(quadratic(), optim.momentum(lr=lr, momentum=0.5), jax.random.key(seed)) for lr, seed in GRID]
    settings = {"steps": 40, "record_every": 7}
    found = by_row(run_many(runs, **settings))
    assert found[3][-1].outcome.status == "diverged"
    assert found[3][-1].step < 14  # and no record after it
    for row, one in enumerate(runs):
        close(found[row], alone(one, **settings), rtol=1e-12)  # float64, sums of 12 terms over 40 steps


@pytest.mark.parametrize("batch_size", [pytest.param(None, marks=pytest.mark.slow), 16])
def test_networks_with_readings_are_what_they_are_alone(batch_size):
    """Also rows that stop at their target, within a block, while the others go on."""
    watch = probe.top(k=1, every=10, dense_below=0)
    targets = ["auto", 0.9, "auto", 0.5]
    runs = [
        Run(network(), optim.sgd(lr=0.05 * (1 + row)), jax.random.key(row), watch, target)
        for row, target in enumerate(targets)
    ]
    settings = {"steps": 30, "record_every": 4, "batch_size": batch_size}
    found = by_row(run_many(runs, **settings))
    for row, one in enumerate(runs):
        close(found[row], alone(one, **settings), rtol=1e-4)  # float32 sums in another order, over 30 steps


@pytest.mark.usefixtures("x64")
def test_data_that_differ_are_stacked_and_equal_ones_are_held_once():
    matrices = [quadratic(condition_number=kappa) for kappa in (10.0, 20.0, 30.0)]
    vector = [one.data.vector for one in matrices]
    assert vector[0] is not vector[1]
    runs = [Run(one, optim.sgd(lr=0.01), jax.random.key(0)) for one in matrices]
    settings = {"steps": 20}
    for row, records in by_row(run_many(runs, **settings)).items():
        close(records, alone(runs[row], **settings), rtol=1e-12)
    assert parts(runs).parts[0].axes.data == (0, None)  # matrices, and the vector b = 0
    assert parts([runs[0]._replace(key=jax.random.key(seed)) for seed in range(3)]).parts[0].axes.data == (None, None)


def parts(runs, *, memory=np.inf, length=10):
    """As `run_many` parts them."""
    accounts = [
        Account(row, one, steps=20, batch_size=None, matmul_precision="highest", clock=None)
        for row, one in enumerate(runs)
    ]
    for account in accounts:
        account.start()
    settings = {"records": 1, "length": length, "pool": None, "memory": memory, "begun": 0}
    return Parts([a.begun for a in accounts], accounts[0].kind, **settings)


def test_runs_that_do_not_fit_the_memory_go_in_parts():
    runs = [Run(quadratic(dimension=100), optim.sgd(lr=0.01), jax.random.key(seed)) for seed in range(5)]
    assert len(parts(runs).parts) == side_by_side(5, ())
    matrix = 100 * 100 * 4
    assert [len(part.numbers) for part in parts(runs, memory=1.5 * matrix).parts] == [5]  # it is shared
    assert [len(part.numbers) for part in parts(runs, memory=matrix).parts] == [1] * 5
    settings = {"steps": 20}
    whole, few = (by_row(run_many(runs, memory=memory, **settings)) for memory in (None, 1.05 * matrix))
    for row in range(5):
        close(few[row], whole[row], rtol=1e-5)  # float32


def test_rows_that_the_cores_share_are_what_they_are_alone(monkeypatch):
    """Uneven parts: of 13 rows on 3 cores the last has rows that are nobody's."""
    monkeypatch.setattr("curvexp.training.rows.cores", lambda: 3)
    runs = [Run(quadratic(), optim.sgd(lr=0.002 * (1 + row)), jax.random.key(row)) for row in range(13)]
    if jax.default_backend() == "cpu":
        assert [len(part.numbers) for part in parts(runs).parts] == [5, 5, 3]
    found = by_row(run_many(runs, steps=20))
    assert list(found) == list(range(13))
    for row in (0, 4, 5, 12):
        close(found[row], alone(runs[row], steps=20), rtol=1e-5)  # float32


def test_what_vmap_has_no_rule_for_goes_run_by_run_and_is_told():
    def loss(params, data):
        kind = jax.ShapeDtypeStruct((3,), np.float32)
        ones = jax.pure_callback(np.ones_like, kind, jax.lax.stop_gradient(params))
        return data * jnp.vdot(params * ones, params)

    problem = problems.Problem("untold", lambda key: jnp.ones(3), loss, jnp.float32(0.5))
    runs = [Run(problem, optim.sgd(lr=lr), jax.random.key(0)) for lr in (0.1, 0.2)]
    rows = run_many(runs, steps=5, record_every=5)
    found = by_row(rows)
    assert "NotImplementedError" in rows.alone
    for row, lr in enumerate((0.1, 0.2)):
        assert found[row][-1].scalars["loss"] == pytest.approx(1.5 * (1 - lr) ** 10, rel=1e-5)


def failing(at, every=5):
    """A probe that is no program of JAX, and whose function of the run `at` raises."""

    def measure(loss, params, state, key):
        value = float(np.asarray(params).sum())
        if at == 1 and state:
            raise ZeroDivisionError("mine")
        empty = np.zeros(0)
        return curvexp.Reading(empty, empty, None, complete=False, scalars={"sum": value}, extra={}), True

    return curvexp.Probe("mine", measure, every)


def test_what_a_run_raises_ends_it_alone_where_that_is_wished():
    runs = [Run(quadratic(), optim.sgd(lr=0.01), jax.random.key(row), failing(row)) for row in range(3)]
    raised = []
    found = by_row(run_many(runs, steps=10, failed=lambda row, error: raised.append((row, type(error)))))
    assert raised == [(1, ZeroDivisionError)]
    assert [record.step for record in found[1]] == [0]
    for row in (0, 2):
        assert [record.step for record in found[row]] == [0, 5, 10]
        assert found[row][-1].scalars["sum"] == pytest.approx(float(np.sum(found[row][-1].state.params)))
    with pytest.raises(ZeroDivisionError, match="mine"):
        list(run_many(runs, steps=10))


def test_a_row_that_is_stopped_yields_no_more():
    runs = [Run(quadratic(), optim.sgd(lr=0.01), jax.random.key(row)) for row in range(3)]
    rows, seen = run_many(runs, steps=40), []
    for records in rows:
        seen += [(record.row, record.step) for record in records]
        if records[0].step == 10:
            rows.stop(1)
    assert max(step for row, step in seen if row == 1) == 10
    assert max(step for row, step in seen if row == 2) == 40


def test_runs_of_unequal_structure_are_refused_and_can_be_grouped():
    small, large = quadratic(), quadratic(dimension=13)
    key = jax.random.key(0)
    runs = [Run(one, optim.sgd(lr=0.01), key) for one in (small, large, small)]
    with pytest.raises(ValueError, match=r"runs\[1\] has another shape of the parameters than runs\[0\]"):
        run_many(runs, steps=5)
    other = [Run(small, optim.sgd(lr=0.01), key), Run(small, optim.momentum(lr=0.01, momentum=0.9), key)]
    with pytest.raises(ValueError, match=r"runs\[1\] has another optimizer"):
        run_many(other, steps=5)
    assert training.by_structure([*runs, *other]) == [[0, 2, 3], [1], [4]]
    assert list(run_many([], steps=5)) == []


@pytest.mark.parametrize("batch_size", [None, 16])
def test_rows_go_on_from_their_snapshots_as_if_they_had_never_stopped(batch_size):
    watch = probe.top(k=1, every=6, dense_below=0)
    runs = [Run(network(), optim.adam(lr=0.01 * (1 + row)), jax.random.key(row), watch) for row in range(3)]
    settings = {"steps": 20, "record_every": 4, "batch_size": batch_size}
    whole = by_row(run_many(runs, **settings))
    taken_up = [one._replace(resume=whole[row][3].snapshot) for row, one in enumerate(runs)]  # step 8
    rest = by_row(run_many(taken_up, **settings))
    for row in range(3):
        assert [record.step for record in rest[row]] == [12, 16, 18, 20]
        for one, other in zip(rest[row], whole[row][-4:], strict=True):
            assert repr(one.scalars) == repr(other.scalars)  # bit for bit: the same program of the same rows
    assert training.by_structure([runs[0], *taken_up]) == [[0], [1, 2, 3]]


def test_settings_of_the_caller_hold_in_the_threads_that_share_the_work():
    with jax.enable_x64(True):
        one = quadratic()
        runs = [Run(one, optim.sgd(lr=0.01), jax.random.key(row), probe.exact(every=5)) for row in range(9)]
        found = by_row(run_many(runs, steps=10))
        for row in range(9):
            assert found[row][-1].state.params.dtype == np.float64
            np.testing.assert_allclose(found[row][-1].reading.eigenvalues, one.known.eigenvalues, rtol=1e-12)
