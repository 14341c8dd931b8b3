"""Inertia against LAPACK, exact and estimated."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvexp.linalg import inertia

pytestmark = pytest.mark.usefixtures("x64")


def diagonal(values):
    return jax.tree_util.Partial(jnp.multiply, jnp.asarray(values, float))


@pytest.mark.parametrize(
    "values, counts",
    [
        ([-2.0, -1.0, 0.0, 1e-20, 3.0], (1, 2, 2)),
        ([0.0, 0.0, 0.0], (0, 0, 3)),
        ([1.0, 1e-12], (2, 0, 0)),
        ([-4.0], (0, 1, 0)),
    ],
)
def test_counts_of_a_dense_matrix_are_exact(values, counts):
    found = inertia(diagonal(values), jnp.zeros(len(values)))
    assert (found.positive, found.negative, found.zero) == counts
    assert found.exact
    assert found.matvecs == len(values)


def test_estimated_counts_cover_the_truth_as_often_as_they_state():
    values = np.r_[-np.linspace(0.5, 1, 30), np.zeros(100), np.linspace(0.5, 3, 70)]
    within = []
    for seed in range(60):
        key = jax.random.key(seed)
        found = inertia(diagonal(values), jnp.zeros(200), floor=0.2, dense_below=0, probes=10, steps=30, key=key)
        assert not found.exact
        assert found.positive + found.negative + found.zero == pytest.approx(200, abs=1e-9)
        within.append(abs(found.negative - 30) <= 2 * found.stderr + found.blur)
    # two standard errors of ten probes hold 92 % (Student's t, 9 degrees); five deviations of a count of 60 below that is 75 %
    assert np.mean(within) >= 0.75
    # ±0.2 lie in gaps, where no measure of 60 common moments can have mass to speak of
    assert found.blur < 1e-3
    # the zeros' node stands within 1e-4 of zero, not within rounding: the blur says so
    assert inertia(diagonal(values), jnp.zeros(200), dense_below=0, steps=30).blur > 50


def test_too_few_steps_are_told_by_the_blur():
    values = np.linspace(-1, 1, 200)
    found = inertia(diagonal(values), jnp.zeros(200), dense_below=0, probes=4, steps=5)
    assert found.blur > 20  # five nodes: nearly a fifth of the mass can stand at zero
    assert abs(found.negative - 100) <= 3 * found.stderr + found.blur


def test_what_has_no_inertia_is_refused():
    with pytest.raises(ValueError, match="not finite"):
        inertia(diagonal([1.0, np.nan]), jnp.zeros(2))
    with pytest.raises(ValueError, match="dense_below=-1"):
        inertia(diagonal([1.0]), jnp.zeros(1), dense_below=-1)
    with pytest.raises(ValueError, match="floor=-1"):
        inertia(diagonal([1.0]), jnp.zeros(1), floor=-1.0)
