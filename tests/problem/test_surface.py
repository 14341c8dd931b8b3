"""Surfaces: their critical points are critical, of the kind they are said to be, and all there are."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from curvexp.errors import ConfigError, Unsupported
from curvexp.preprocess import normalized, raw
from curvexp.problem import himmelblau, monkey_saddle, rosenbrock
from curvexp.problem.surface import critical_points

pytestmark = pytest.mark.usefixtures("x64")
SURFACES = [rosenbrock, himmelblau, monkey_saddle]


def build(builder, **options):
    return builder(preprocess=raw(), dtype=jnp.float64, **options)


@pytest.mark.parametrize("builder", SURFACES, ids=lambda f: f.__name__)
def test_critical_points_have_no_gradient_and_the_curvature_of_their_kind(builder) -> None:
    problem = build(builder)
    signs = {"minimum": [1, 1], "saddle": [-1, 1], "maximum": [-1, -1], "degenerate": [0, 0]}
    for kind, points in critical_points(problem.name).items():
        for point in jnp.asarray(points):
            hessian = jax.hessian(problem.loss)(point, ())
            # Newton's last error is eps relative in the point, so eps·‖H‖·‖x‖ in the gradient, ‖H‖ up to 1000 here
            assert np.abs(jax.grad(problem.loss)(point, ())).max() < 1e-12
            assert np.sign(np.linalg.eigvalsh(hessian)).tolist() == signs[kind]


def test_himmelblau_has_no_other_critical_points() -> None:
    problem = build(himmelblau)
    known = np.concatenate(list(critical_points("himmelblau").values()))
    gradient, hessian = jax.jit(jax.grad(problem.loss)), jax.jit(jax.hessian(problem.loss))
    found = 0
    for start in np.random.default_rng(0).uniform(-6, 6, (60, 2)):
        root = scipy.optimize.root(
            lambda x: np.asarray(gradient(x, ())), start, jac=lambda x: np.asarray(hessian(x, ())), tol=1e-12
        )
        if root.success:
            found += 1
            assert np.linalg.norm(known - root.x, axis=1).min() < 1e-6
    assert found > 30
    assert len(known) == 9


@pytest.mark.parametrize("builder", [rosenbrock, himmelblau], ids=lambda f: f.__name__)
def test_known_minima_are_where_scipy_arrives(builder) -> None:
    problem = build(builder)
    value, gradient = jax.jit(problem.loss), jax.jit(jax.grad(problem.loss))
    start = np.asarray(problem.init(jax.random.key(0)))
    found = scipy.optimize.minimize(
        lambda x: float(value(x, ())),
        start,
        jac=lambda x: np.asarray(gradient(x, ())),
        method="BFGS",
        options={"gtol": 1e-10},
    )
    assert abs(found.fun - problem.known.minimum) < 1e-12  # gtol²/λmin
    distance = np.linalg.norm(critical_points(problem.name)["minimum"] - found.x, axis=1).min()
    assert distance < 1e-6


def test_monkey_saddle_falls_without_bound_along_each_of_three_directions() -> None:
    problem = build(monkey_saddle)
    assert problem.known.minimum == -math.inf
    for angle in (np.pi / 3, np.pi, 5 * np.pi / 3):
        direction = jnp.array([np.cos(angle), np.sin(angle)])
        assert np.isclose(problem.loss(10 * direction, ()), -1000, rtol=1e-12)  # r³cos 3φ


def test_rosenbrock_is_as_ill_conditioned_at_its_minimum_as_its_docstring_says() -> None:
    eigenvalues = np.linalg.eigvalsh(jax.hessian(build(rosenbrock).loss)(jnp.ones(2), ()))
    assert round(eigenvalues[1] / eigenvalues[0]) == 2508


def test_start_can_be_given_or_random_and_nothing_else() -> None:
    assert np.array_equal(build(rosenbrock, start=[3, 4]).init(jax.random.key(0)), [3.0, 4.0])
    assert build(himmelblau, start="random").init(jax.random.key(0)).shape == (2,)
    with pytest.raises(ConfigError, match=r"problem\.start"):
        build(rosenbrock, start=[1.0, 2.0, 3.0])


@pytest.mark.parametrize("builder", SURFACES, ids=lambda f: f.__name__)
def test_preprocessing_has_no_meaning(builder) -> None:
    with pytest.raises(Unsupported, match=f"preprocess=normalized.*{builder.__name__}"):
        builder(preprocess=normalized())
