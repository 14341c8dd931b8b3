"""How many vectors a product takes at once: the choice, with times that are given here."""

import jax
import jax.numpy as jnp
import pytest

from curvexp.linalg import batches
from curvexp.linalg.layout import Layout
from curvexp.linalg.vectors import domain


@pytest.fixture
def chosen(monkeypatch):
    """Batch for 10 vectors of 80 steps in n dimensions, where `seconds` says how long a vector takes at a size; and what was timed."""
    monkeypatch.setattr(batches, "_chosen", {})

    def choice(n, seconds, *, vectors=10, timed=None):
        timed = [] if timed is None else timed

        def measured(op, space, size):
            timed.append(size)
            return seconds[size]

        monkeypatch.setattr(batches, "_seconds", measured)
        op, space = domain(jax.tree_util.Partial(jnp.multiply, jnp.ones(n)), jnp.zeros(n))
        return batches.vectors_at_once(op, space, vectors=vectors, steps=80, layout=Layout(n))

    return choice


def test_the_quickest_size_is_taken_where_products_are_long(chosen):
    timed = []
    assert (
        chosen(30_000, {1: 1.0, 2: 0.6, 5: 0.3, 10: 0.29}, timed=timed) == 5
    )  # a tenth less, or it is not worth the memory
    assert timed == [1, 2, 5, 10]
    assert chosen(30_000, {}) == 5  # for the whole process
    assert chosen(30_001, {1: 1.0, 2: 0.99}) == 1
    assert chosen(30_002, {1: 1.0, 2: 0.5}, vectors=2) == 2


def test_short_work_and_small_spaces_are_not_measured(chosen):
    assert chosen(30_000, {1: 1e-5}) == 5  # by the rule: 9.6 MB a vector
    assert chosen(250_000, {1: 1e-5}) == 1  # 80 MB
    assert chosen(100, {}) == 5
    assert chosen(100, {}, vectors=3) == 3


def test_under_a_trace_the_rule_holds(chosen):
    found = []

    @jax.jit
    def traced(v):
        op, space = domain(jax.tree_util.Partial(jnp.multiply, v), jnp.zeros(len(v)))
        found.append(batches.vectors_at_once(op, space, vectors=10, steps=80, layout=Layout(len(v))))
        return v

    traced(jnp.ones(30_000))
    assert found == [5]
    assert chosen(30_000, {1: 1.0, 2: 0.99}) == 1  # what a trace was told does not hold outside of it
