"""A warm start states the probability that it missed a newcomer, and the statement is true; where it has none it says so."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.stats
from rich.console import Console

import curvexp
from curvexp import optim, probe
from curvexp.problem import Problem
from curvexp.record import SURE
from curvexp.report import terminal
from curvexp.report.tables import aggregate

N = 3000  # above 2048: there a check may not go on to the end
KINDS = [("LA", 1), ("LA", 2), ("LA", 5), ("BE", 2), ("BE", 4)]
SIZES = (1.03, 1.2, 3.0)  # of the newcomer; the old top is 1, the bulk ends at 0.9


def times(diagonal, v):
    return diagonal * v


def newcomer(which, k, size):
    """Eigenvalues with a newcomer in the midst of the bulk, and the rows of the old pairs: at the bottom with BE, else at the top."""
    low, high = (k // 2, k - k // 2) if which == "BE" else (0, k)
    values = np.linspace(-0.9 if low else 0, 0.9, N)
    values[N - high :] = np.linspace(1, 0.96, high)[::-1]
    values[:low] = np.linspace(-1, -0.96, low)
    values[N // 2] = -size if low else size
    return values, np.r_[np.arange(low), np.arange(N - high, N)], low, high


def solved(which, k, size, seed, check):
    """The solution from the old pairs, which know nothing of the newcomer; the k eigenvalues that are right."""
    values, old, low, high = newcomer(which, k, size)
    op = jax.tree_util.Partial(times, jnp.asarray(values, jnp.float32))
    start = jnp.zeros((k, N), jnp.float32).at[jnp.arange(k), old].set(1)
    found = curvexp.eigsh(
        op, jnp.zeros(N, jnp.float32), k=k, which=which, start=start, check=check, key=jax.random.key(seed)
    )
    ordered = np.sort(values)
    return found, np.r_[ordered[:low], ordered[N - high :]]


def holds(statements):
    """Of all statements of a probability of at most p no more are wrong than chance allows in one test of a million."""
    stated, wrong = np.array(statements).T
    for p in (SURE, 0.01, 0.1, 0.5):
        bold = stated <= p * (1 + 1e-6)  # float32
        assert wrong[bold].sum() <= scipy.stats.binom.ppf(1 - 1e-6, bold.sum(), p)
    return wrong[stated <= SURE * (1 + 1e-6)].sum()


def statements(kinds, sizes, checks, keys):
    """(stated, wrong) of all k pairs, and of the outer ends alone; every k-th value may be off by the residual and by the margin."""
    inner, outer = [], []
    for which, k in kinds:
        for size in sizes:
            for seed in range(keys):
                for check in checks:
                    found, true = solved(which, k, size, seed, check)
                    assert found.converged, found.message
                    off = (
                        np.abs(np.asarray(found.eigenvalues) - true) > 2e-3 * size
                    )  # tol and as much again: the level of the check
                    inner.append((float(found.missed), off.any()))
                    below, above = np.asarray(found.missed_ends)
                    outer.append((float(above), off[-1]))
                    assert np.isnan(below) == (which == "LA")
                    if which == "BE":
                        outer.append((float(below), off[0]))
    return inner, outer


def test_the_probability_of_a_miss_is_true():
    inner, outer = statements([("LA", 1), ("BE", 2)], SIZES, (4, "full"), keys=6)
    assert holds(inner) == holds(outer) == 0
    assert any(wrong for _, wrong in inner)  # four products are too few: the statement is then put to the test


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_probability_of_a_miss_is_true_of_200_keys(kind):
    inner, outer = statements([kind], SIZES, (6, "full"), keys=200)
    holds(inner)
    holds(outer)
    assert sum(wrong for _, wrong in inner) >= 20  # the statement was put to the test


def test_without_a_check_no_probability_is_stated():
    found, _ = solved("LA", 1, 1.2, 0, None)
    assert float(found.eigenvalues[-1]) == pytest.approx(1.0)  # the newcomer at 1.2 is missed
    assert np.isnan(found.missed)
    assert np.isnan(found.missed_ends).all()
    assert "not checked" in found.message
    with pytest.raises(ValueError, match="check=-1"):
        solved("LA", 1, 1.2, 0, -1)


@pytest.mark.parametrize("size", [1.2, 3.0])
def test_the_scout_brings_a_newcomer_up_within_some_solutions(size):
    values, old, *_ = newcomer("LA", 1, size)
    op = jax.tree_util.Partial(times, jnp.asarray(values, jnp.float32))
    found = jnp.zeros((1, N), jnp.float32).at[0, old].set(1)
    made = []
    for _ in range(20):  # of one product of the scout each: at 1.2 the component of 1/√N grows threefold by each
        found = curvexp.eigsh(op, jnp.zeros(N, jnp.float32), k=1, start=found, key=jax.random.key(1))
        made.append(int(found.matvecs))
    assert float(found.eigenvalues[-1]) == pytest.approx(size, rel=1e-3)
    assert made[0] == made[-1] == 3  # what a tracked reading of the top costs


def crossing(c, size=N):
    """A quadratic with five values from 0.96 to 1, and a direction whose curvature grows past them to c while the run goes on."""
    values = np.linspace(0, 0.9, size - 1)
    values[-5:] = np.linspace(0.96, 1, 5)

    def init(key):
        return {"x": 0.01 * jax.random.normal(key, (size - 1,)), "z": jnp.float32(2.0)}

    return Problem(
        "crossing", init, functools.partial(crossing_loss, c), jnp.asarray(values, jnp.float32), lower_bound=0.0
    )


def crossing_loss(c, params, values):
    return 0.5 * jnp.sum(values * params["x"] ** 2) + c * (1 - jnp.exp(-(params["z"] ** 2) / 2))


def readings(c, watch, *, seed, steps):
    """(reading, scalars, λmax in closed form) of each record."""
    records = list(curvexp.run(crossing(c), optim.sgd(lr=0.2), watch, steps=steps, key=jax.random.key(seed)))
    found = []
    for record in records:
        z = float(record.state.params["z"])
        found.append((record.reading, record.scalars, max(1.0, c * (1 - z * z) * np.exp(-z * z / 2))))
    return [one for one in found if one[0] is not None]


def wrong_and_sure(c, watch, *, seeds, steps):
    """How many readings are wrong, and how many of these are not marked; of readings past the crossing."""
    wrong = sure = 0
    for seed in range(seeds):
        for reading, scalars, true in readings(c, watch, seed=seed, steps=steps):
            marked = "lambda_max" in reading.extra["unchecked"]
            assert marked == (scalars["lambda_max_missed"] > SURE) == (scalars["sharpness_missed"] > SURE)
            off = abs(scalars["lambda_max"] - true) > 2e-3 * true  # tol, and as much again: the level of the check
            wrong, sure = wrong + off, sure + (off and not marked)
    return wrong, sure


def test_a_reading_that_may_have_missed_a_newcomer_is_marked():
    for c in (1.5, 1.03):
        wrong, sure = wrong_and_sure(c, probe.top(k=1, which="LA", every=5), seeds=1, steps=110)
        assert sure == 0
    assert wrong > 0


@pytest.mark.slow
@pytest.mark.parametrize("c", [1.5, 1.03])
@pytest.mark.parametrize("which, k", [("LA", 1), ("BE", 1), ("LA", 5)])
def test_no_reading_is_wrong_and_unmarked(c, which, k):
    for check_every in (10, 1):
        _, sure = wrong_and_sure(c, probe.top(k=k, which=which, every=5, check_every=check_every), seeds=10, steps=150)
        assert sure <= scipy.stats.binom.ppf(1 - 1e-6, 310, SURE)


def test_the_first_the_last_and_every_so_many_readings_are_checked():
    found = readings(1.5, probe.top(k=1, which="LA", every=5, check_every=4), seed=0, steps=50)
    checked = ["lambda_max" not in reading.extra["unchecked"] for reading, *_ in found]
    assert [index for index, one in enumerate(checked) if one] == [0, 4, 8, 10]
    assert all((scalars["lambda_max_missed"] == 1) != one for (_, scalars, _), one in zip(found, checked, strict=True))


def test_the_sharpness_of_a_preconditioned_hessian_is_checked_alike():
    records = curvexp.run(
        crossing(1.5, 300), optim.adam(lr=1e-3), probe.top(k=1, which="LA", every=2, check_every=3, dense_below=0), steps=10,
        key=jax.random.key(0), record_every=2,
    )  # fmt: skip
    stated = [record.scalars["sharpness_missed"] for record in records]
    assert [index for index, one in enumerate(stated) if one <= SURE] == [0, 3, 5]
    assert [one for one in stated if one > SURE] == [1, 1, 1]


def test_tables_mark_what_is_unchecked():
    about = {"run": "0", "problem": "p", "preprocess": "raw", "optim": "sgd", "status": "completed", "steps": 9}
    values = {"lambda_max_start": 2.0, "lambda_max": 3.0, "sharpness": 3.0, "threshold": 4.0}
    missed = {"lambda_max_missed_start": SURE, "lambda_max_missed": 1.0, "sharpness_missed": 1.0}
    for probabilities, shown in (({}, False), (dict.fromkeys(missed, SURE), False), (missed, True)):
        text = io.StringIO()
        table = aggregate(pd.DataFrame([{**about, **values, **probabilities}]))
        terminal.render(table, Console(file=text, width=120))
        assert ("2 → 3?" in text.getvalue()) == ("0.75?" in text.getvalue()) == shown
        assert ("? unchecked" in text.getvalue()) == shown
