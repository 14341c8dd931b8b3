"""NaN and infinity in loss, gradient, Hessian or data, from some step on: recorded, and never a hang."""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvexp import memory, optim, probe, training
from curvexp.problem import Known, Problem

WALL = 0.5  # beyond it, from about the tenth step on, something is not a number


def _above(x):
    return jnp.all(x > WALL)


def bad_loss(value):
    return lambda x: jnp.where(_above(x), 0.5 * jnp.vdot(x, x), value)


def bad_gradient(value):
    @jax.custom_jvp
    def f(x):
        return 0.5 * jnp.vdot(x, x)

    @f.defjvp
    def jvp(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), jnp.vdot(jnp.where(_above(x), x, value), t)

    return f


def bad_hessian(value):
    @jax.custom_jvp
    def identity(x):
        return x

    @identity.defjvp
    def slope(primals, tangents):
        (x,), (t,) = primals, tangents
        return x, jnp.where(_above(x), t, value * t)

    @jax.custom_jvp
    def f(x):
        return 0.5 * jnp.vdot(x, x)

    @f.defjvp
    def jvp(primals, tangents):
        (x,), (t,) = primals, tangents
        return f(x), jnp.vdot(identity(x), t)

    return f


KINDS = {"loss": bad_loss, "gradient": bad_gradient, "hessian": bad_hessian}


def problem(kind, value):
    inner = KINDS[kind](value)
    return Problem(name="wall", init=lambda key: jnp.ones(6), loss=lambda x, batch: inner(x), data=(), known=Known())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dense", [True, False])
def test_what_is_not_finite_is_recorded_and_the_run_ends(kind, value, dense):
    watch = probe.top(k=1, every=5, dense_below=200 if dense else 0)
    records = list(
        training.run(problem(kind, value), optim.sgd(lr=0.07), watch, steps=30, key=jax.random.key(0), record_every=5)
    )
    outcome = records[-1].outcome
    assert outcome is not None
    broken = next(step for step in range(31) if 0.93**step <= WALL)  # x shrinks by 0.93 a step
    before = [record for record in records if record.step < broken]
    assert all(math.isfinite(record.scalars["loss"]) for record in before)
    assert all(record.reading is None or np.isfinite(record.reading.eigenvalues).all() for record in before)
    if kind == "hessian":
        assert outcome.status == "completed"
        after = [record for record in records if record.step >= broken and record.reading is not None]
        assert after
        for record in after:  # the loss goes on, and no curvature is made up
            assert math.isfinite(record.scalars["loss"])
            assert not np.isfinite(record.reading.eigenvalues).any()
    elif value == -math.inf and kind == "loss":
        assert outcome.status == "diverged"
    else:
        assert outcome.status == "diverged"
        assert outcome.steps <= broken + 1
    json.dumps(outcome._asdict())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_data_that_are_not_finite_end_the_run_at_its_start(value):
    data = jnp.ones(6).at[3].set(value)
    made = Problem(
        name="data",
        init=lambda key: jnp.ones(6),
        loss=lambda x, batch: 0.5 * jnp.vdot(x * batch, x),
        data=data,
        known=Known(),
    )
    records = list(training.run(made, optim.sgd(lr=0.1), probe.top(k=1, every=5), steps=20, key=jax.random.key(0)))
    assert records[0].reading is None
    assert records[-1].outcome.status == "diverged"
    assert records[-1].step <= 1


@pytest.mark.parametrize("key", ["probe.k=1", "probe.limit=100000"])
def test_memory_that_is_not_there_is_refused_before_any_compute(monkeypatch, key):
    monkeypatch.setattr(memory, "device", lambda: 2.0**20)
    watch = probe.top(k=1, which="LA") if key == "probe.k=1" else probe.exact(limit=100_000)
    from curvexp.errors import ConfigError

    with pytest.raises(ConfigError, match=rf"{key}: .* GiB, and 0\.000977 GiB are free"):
        watch.check(50_000, problem("loss", 0.0))
