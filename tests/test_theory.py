"""Closed forms against the iterations they describe, run in float64."""

import numpy as np
import pytest
import scipy.optimize
from hypothesis import given
from hypothesis import strategies as st

from curvexp import theory

lrs = st.floats(1e-3, 10)
momenta = st.floats(0, 0.999)
curvatures = st.floats(1e-6, 100)


def companion_radius(trace: float, determinant: float) -> float:
    return np.abs(np.linalg.eigvals([[trace, -determinant], [1, 0]])).max()


def iterate(method: str, curvature: float, lr: float, momentum: float) -> np.ndarray:
    """The 2x2 matrix of one step on (x, m), as optax's sgd makes it."""
    look = momentum if method == "nesterov" else None
    a, b, h = lr, momentum, curvature
    if look is None:
        return np.array([[1 - a * h, -a * b], [h, b]])
    return np.array([[1 - a * h - a * b * h, -a * b * b], [h, b]])


@given(curvatures, lrs, momenta)
def test_contractions_are_the_spectral_radii_of_the_iterations(curvature, lr, momentum):
    for method, function in (("heavy_ball", theory.heavy_ball_contraction), ("nesterov", theory.nesterov_contraction)):
        exact = np.abs(np.linalg.eigvals(iterate(method, curvature, lr, momentum))).max()
        # near a double root eigvals itself is exact only to √eps of the scale
        assert function(curvature, lr=lr, momentum=momentum) == pytest.approx(exact, rel=1e-6, abs=1e-6)


@given(curvatures, lrs)
def test_without_momentum_all_methods_are_gradient_descent(curvature, lr):
    plain = theory.gradient_descent_contraction(curvature, lr=lr)
    for function in (theory.heavy_ball_contraction, theory.nesterov_contraction):
        assert function(curvature, lr=lr, momentum=0.0) == pytest.approx(plain, rel=1e-7, abs=1e-7)


@given(lrs, st.floats(0, 0.99))
def test_thresholds_are_where_the_contraction_passes_one(lr, momentum):
    cases = (
        (theory.gradient_descent_threshold(lr=lr), lambda h: theory.gradient_descent_contraction(h, lr=lr)),
        (
            theory.heavy_ball_threshold(lr=lr, momentum=momentum),
            lambda h: theory.heavy_ball_contraction(h, lr=lr, momentum=momentum),
        ),
        (
            theory.nesterov_threshold(lr=lr, momentum=momentum),
            lambda h: theory.nesterov_contraction(h, lr=lr, momentum=momentum),
        ),
    )
    for threshold, contraction in cases:
        assert contraction(0.999 * threshold) < 1 < contraction(1.001 * threshold)


def test_adam_threshold_is_38_over_lr_at_its_default():
    assert theory.adam_threshold(lr=1.0, b1=0.9) == pytest.approx(38, rel=1e-14)  # Cohen et al. 2022, sec. 3


@pytest.mark.parametrize("condition", [1.5, 10.0, 1e4, 1e12])
def test_optima_reach_their_stated_rate_at_both_ends(condition):
    ends = np.array([3.0, 3.0 * condition])
    gradient = theory.gradient_descent_optimum(*ends)
    heavy, nesterov = theory.heavy_ball_optimum(*ends), theory.nesterov_optimum(*ends)
    # both ends contract alike at the optimum; the tolerance on the heavy ball is √eps, for its double root moves so much by rounding
    assert theory.gradient_descent_contraction(ends, lr=gradient.lr) == pytest.approx(gradient.rate, rel=1e-12)
    found = theory.heavy_ball_contraction(ends, lr=heavy.lr, momentum=heavy.momentum)
    assert found == pytest.approx(heavy.rate, abs=1e-7)
    found = theory.nesterov_contraction(ends, lr=nesterov.lr, momentum=nesterov.momentum)
    assert found.max() == pytest.approx(nesterov.rate, abs=1e-7)
    assert gradient.rate == pytest.approx((condition - 1) / (condition + 1), rel=1e-12)
    assert heavy.rate == pytest.approx((condition**0.5 - 1) / (condition**0.5 + 1), rel=1e-12)


@pytest.mark.parametrize(
    "contraction, optimum",
    [
        (theory.heavy_ball_contraction, theory.heavy_ball_optimum),
        (theory.nesterov_contraction, theory.nesterov_optimum),
    ],
)
def test_no_search_beats_the_stated_optimum(contraction, optimum):
    ends = np.array([1.0, 50.0])

    def worst(x):
        return contraction(np.linspace(*ends, 200), lr=x[0], momentum=x[1]).max()

    found = scipy.optimize.differential_evolution(worst, [(1e-3, 0.2), (0, 0.99)], seed=0, tol=1e-10, maxiter=300)
    assert found.fun >= optimum(*ends).rate - 1e-9
    assert found.fun == pytest.approx(optimum(*ends).rate, abs=2e-3)  # what a global search resolves of a kink


def test_taylor_model_is_exact_on_a_quadratic():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(6, 6))
    a = a + a.T
    b, x, s = rng.normal(size=(3, 6))

    def f(x):
        return x @ a @ x / 2 - b @ x

    g = a @ x - b
    assert theory.taylor_change(g @ s, s @ a @ s) == pytest.approx(f(x + s) - f(x), rel=1e-12)


def test_best_step_along_gradient_minimises_the_model_and_is_infinite_downhill():
    a = np.diag([1.0, 4.0, 9.0])
    g = np.array([1.0, -2.0, 0.5])
    best = theory.best_step_along_gradient(g @ g, g @ a @ g)
    found = scipy.optimize.minimize_scalar(lambda e: theory.taylor_change(-e * (g @ g), e * e * (g @ a @ g)))
    assert best == pytest.approx(found.x, rel=1e-6)  # a minimum's place is found to √eps
    assert theory.best_step_along_gradient([1.0, 1.0], [0.0, -3.0]).tolist() == [np.inf, np.inf]


def steps_of(method: str, lr: float, beta: float) -> np.ndarray:
    """One step's matrix on (g, m) at λ = 3, from running the method on the two unit vectors."""
    columns = []
    for g, m in ((1.0, 0.0), (0.0, 1.0)):
        grown = beta * m + ((1 - beta) * g if method == "adam" else g)
        step = lr * (g + beta * grown if method == "nesterov" else grown)
        columns.append([g - 3 * step, grown])
    return np.array(columns).T


@given(lrs, momenta)
def test_iterations_are_the_methods_own_steps(lr, beta):
    made = {
        "heavy_ball": theory.heavy_ball_iteration(3.0, lr=lr, momentum=beta),
        "nesterov": theory.nesterov_iteration(3.0, lr=lr, momentum=beta),
        "adam": theory.adam_iteration(3.0, lr=lr, b1=beta),
    }
    for method, matrix in made.items():
        assert matrix == pytest.approx(steps_of(method, lr, beta), rel=1e-12, abs=1e-12)
    assert theory.gradient_descent_iteration([3.0], lr=lr) == pytest.approx(np.array([[[1 - 3 * lr]]]))
    assert theory.iteration_contraction(made["heavy_ball"]) == pytest.approx(
        theory.heavy_ball_contraction(3.0, lr=lr, momentum=beta), rel=1e-6
    )
    assert theory.iteration_contraction(made["adam"]) == pytest.approx(
        theory.heavy_ball_contraction(3.0, lr=lr * (1 - beta), momentum=beta), rel=1e-6
    )


@given(curvatures, lrs, momenta, st.floats(-1, 1), st.floats(-1, 1))
def test_the_dominant_mode_shrinks_by_the_spectral_radius_in_every_step(curvature, lr, momentum, g, m):
    for matrix in (
        theory.heavy_ball_iteration(curvature, lr=lr, momentum=momentum),
        theory.nesterov_iteration(curvature, lr=lr, momentum=momentum),
    ):
        state = np.array([g, m])
        before, after = theory.dominant_mode(matrix, state), theory.dominant_mode(matrix, matrix @ state)
        scale = np.abs(matrix).max() ** 2 * (
            1 + np.abs(matrix).max()
        )  # of the terms that cancel; √eps at a double root
        assert after == pytest.approx(theory.iteration_contraction(matrix) * before, rel=1e-6, abs=1e-6 * scale)


def test_adams_threshold_is_where_its_iteration_begins_to_grow():
    top = theory.adam_threshold(lr=0.01, b1=0.9)
    inside, outside = theory.iteration_contraction(
        theory.adam_iteration(np.array([0.999, 1.001]) * top, lr=0.01, b1=0.9)
    )
    assert inside < 1 < outside


@pytest.mark.parametrize(
    "slope, curvature, best",
    [(-2.0, 4.0, 0.5), (2.0, 4.0, -0.5), (-1.0, -1.0, np.inf), (1.0, 0.0, -np.inf), (-1.0, 0.0, np.inf)],
)
def test_best_step_length_minimises_the_taylor_model(slope, curvature, best):
    found = theory.best_step_length(slope, curvature)
    assert found == best
    if np.isfinite(best):
        grid = np.linspace(-2, 2, 4001)
        assert grid[theory.taylor_change(slope * grid, curvature * grid**2).argmin()] == pytest.approx(best, abs=1e-3)
    assert np.isnan(theory.best_step_length(0.0, 0.0))
