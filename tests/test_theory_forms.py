"""Closed forms of quadratics, trajectories, thresholds and random matrices, against iteration, LAPACK, quadrature and enumeration."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from curvexp import theory

EPS = np.finfo(np.float64).eps


def symmetric(eigenvalues, seed=0):
    random = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(random.standard_normal((len(eigenvalues), len(eigenvalues))))
    return basis @ np.diag(eigenvalues) @ basis.T


def quadratic(matrix, vector, x):
    return x @ matrix @ x / 2 - vector @ x


def test_the_calculus_of_a_quadratic():
    random = np.random.default_rng(1)
    matrix, vector, x, d = symmetric([-3.0, 0.5, 2.0]), *random.standard_normal((3, 3))
    step = 1e-3  # a central difference of a quadratic is exact but for rounding, eps/step = 2e-13
    slope = (quadratic(matrix, vector, x + step * d) - quadratic(matrix, vector, x - step * d)) / (2 * step)
    assert_allclose(theory.quadratic_gradient(matrix, vector, x) @ d, slope, rtol=1e-10)
    skewed = matrix + np.array([[0, 1, 0], [-1, 0, 0], [0, 0, 0.0]])  # x'Ax sees the symmetric part alone
    assert_allclose(theory.quadratic_hessian(skewed), matrix, atol=4 * EPS)
    least, value = theory.quadratic_minimum(matrix, vector)
    assert_allclose(theory.quadratic_gradient(matrix, vector, least), 0, atol=1e-14)
    assert_allclose(quadratic(matrix, vector, least), value, rtol=1e-13)
    with pytest.raises(np.linalg.LinAlgError):
        theory.quadratic_minimum(np.zeros((2, 2)), np.ones(2))


def test_curvature_along_a_direction_is_the_rayleigh_quotient():
    values = np.array([-1.0, 2.0, 7.0])
    matrix = symmetric(values, seed=2)
    found, vectors = np.linalg.eigh(matrix)
    d = np.random.default_rng(3).standard_normal((5, 3))
    quotient = np.einsum("di,ij,dj->d", d, matrix, d) / (d**2).sum(axis=1)
    assert_allclose(theory.directional_curvature(found, d @ vectors), quotient, rtol=1e-12)


def test_the_ends_of_the_axes_lie_on_the_level_set():
    values = np.array([0.5, 2.0, 8.0])
    axes = theory.level_set_axes(values, level=3.0)
    assert_allclose(values * axes**2 / 2, 3.0, rtol=4 * EPS)


LR, BETA = 0.1, 0.6
CURVATURES = [
    -2.0,  # grows
    0.0,
    0.3,  # real roots
    *((1 + sign * math.sqrt(BETA)) ** 2 / LR for sign in (-1, 1)),  # heavy ball's double roots
    10.0,  # complex roots
    19.0,
    40.0,  # grows, changing sign
]


@pytest.mark.parametrize("curvature", CURVATURES)
def test_trajectories_are_those_of_the_iteration(curvature):
    x, steps = {name: (1.0, 0.0) for name in ("plain", "heavy", "nesterov")}, 60
    path = {name: [1.0] for name in x}
    for _ in range(steps):
        (plain, _), (heavy, buffer), (point, velocity) = x.values()
        x["plain"] = (plain - LR * curvature * plain, 0.0)
        buffer = BETA * buffer + curvature * heavy
        x["heavy"] = (heavy - LR * buffer, buffer)
        gradient = curvature * point
        velocity = BETA * velocity + gradient
        x["nesterov"] = (point - LR * (gradient + BETA * velocity), velocity)
        for name, (value, _) in x.items():
            path[name].append(value)
    k = np.arange(steps + 1)
    found = {
        "plain": theory.gradient_descent_trajectory(curvature, lr=LR, steps=k),
        "heavy": theory.heavy_ball_trajectory(curvature, lr=LR, momentum=BETA, steps=k),
        "nesterov": theory.nesterov_trajectory(curvature, lr=LR, momentum=BETA, steps=k),
    }
    for name, values in found.items():
        size = np.maximum.accumulate(
            np.abs(path[name])
        )  # rounding of the iteration grows with its largest value so far
        # near a double root the closed form is a difference quotient: √eps there is told apart, k²·eps is left
        assert np.abs(values - path[name]).max() <= 1e-10 * size.max(), name
    assert_allclose(found["plain"], np.array(path["plain"]), rtol=1e-12, atol=1e-300)


@pytest.mark.parametrize("curvature", [0.1, 0.5, 5.0, 10.0, 25.0, 30.0, 35.0])
def test_the_angle_is_that_of_lapacks_roots(curvature):
    roots = np.linalg.eigvals([[1 + BETA - LR * curvature, -BETA], [1, 0]])
    angle = abs(np.angle(roots[np.abs(roots).argmax()]))
    assert_allclose(theory.heavy_ball_angle(curvature, lr=LR, momentum=BETA), angle, atol=1e-7)  # √eps at a double root


def radius(*, lr, b1, decay, curvature):
    """LAPACK's spectral radius of AdamW's step with P frozen at 1, on (x, m): m ← b1·m + (1−b1)λx, x ← (1−αw)x − αm."""
    step = np.array(
        [[1 - lr * decay - lr * (1 - b1) * curvature, -lr * b1], [(1 - b1) * curvature, b1]],
    )
    return np.abs(np.linalg.eigvals(step)).max()


@pytest.mark.parametrize("lr, b1, decay", [(0.1, 0.9, 0.0), (0.1, 0.9, 0.5), (0.01, 0.5, 3.0), (0.3, 0.0, 0.2)])
def test_adamw_is_stable_up_to_its_threshold(lr, b1, decay):
    edge = float(theory.adamw_threshold(lr=lr, b1=b1, weight_decay=decay))
    assert radius(lr=lr, b1=b1, decay=decay, curvature=edge) == pytest.approx(1, abs=1e-7)
    assert radius(lr=lr, b1=b1, decay=decay, curvature=1.01 * edge) > 1
    assert radius(lr=lr, b1=b1, decay=decay, curvature=0.99 * edge) < 1
    assert edge == pytest.approx(float(theory.adam_threshold(lr=lr, b1=b1)), rel=1e-14) or decay > 0


NUMBERS = {"lr": st.floats(1e-6, 1e3), "beta": st.floats(0, 0.9999), "decay": st.floats(0, 1)}


@given(**NUMBERS)
def test_the_threshold_of_an_iteration_is_the_closed_form(lr, beta, decay):
    decay = decay / lr  # αw up to 1
    ours, adamw = {"lr": lr, "momentum": beta}, {"lr": lr, "b1": beta, "weight_decay": decay}
    for name, numbers in (
        ("gradient_descent", {"lr": lr}),
        ("heavy_ball", ours),
        ("nesterov", ours),
        ("adam", {"lr": lr, "b1": beta}),
        ("adamw", adamw),
    ):
        iteration, closed = (getattr(theory, f"{name}_{what}") for what in ("iteration", "threshold"))
        found = theory.iteration_threshold(lambda h, f=iteration, n=numbers: f(h, **n), lr=lr)
        # three values of the matrix, each to some eps, over the slope that the threshold is the root of: up to 2/(1 − β₁) eps
        assert float(found) == pytest.approx(
            float(closed(**numbers)), rel=20 * EPS / (1 - beta) if "adam" in name else 20 * EPS
        )


@given(st.lists(st.floats(-2, 2), min_size=8, max_size=8))
def test_the_threshold_of_any_linear_iteration_is_where_its_radius_passes_one(entries):
    """Also where the determinant moves, and where stability is lost through complex roots."""
    at, slope = np.reshape(entries, (2, 2, 2))
    at = 0.2 * at  # its norm is under 1: stable at λ = 0
    found = float(theory.iteration_threshold(lambda h: at + h * slope, lr=1.0))
    grid = np.linspace(0, min(found, 5.0), 200)[:-1]
    radius = np.abs(np.linalg.eigvals(at + grid[:, None, None] * slope)).max(axis=1)
    assert (radius <= 1 + 1e-6).all()  # eigvals of a nearly defective matrix: √eps
    if np.isfinite(found):
        past = np.abs(np.linalg.eigvals(at + found * (1 + 1e-6) * slope)).max()
        assert past > 1 - 1e-6


def test_a_step_that_a_schedule_makes_zero_or_infinite_has_a_threshold():
    for lr, expected in ((0.0, np.inf), (np.inf, 0.0)):
        found = theory.iteration_threshold(lambda h, lr=lr: theory.heavy_ball_iteration(h, lr=lr, momentum=0.9), lr=lr)
        assert found == expected


def test_rmsprop_is_gradient_descent_and_a_penalty_shifts_the_threshold():
    assert float(theory.rmsprop_threshold(lr=0.1)) == 20.0
    limit = theory.decayed_threshold(theory.gradient_descent_threshold(lr=0.1), weight_decay=0.5)
    assert abs(1 - 0.1 * (float(limit) + 0.5)) == pytest.approx(1, abs=4 * EPS)


@given(st.floats(0.01, 0.999), st.floats(1e-8, 0.9))
def test_steps_to_a_target_are_the_first_that_reach_it(rate, target):
    k = float(theory.steps_to_target(rate, target=target))
    assert k == int(k)
    assert rate**k <= target * (1 + 1e-9)
    assert rate ** (k - 1) > target * (1 - 1e-9)


def test_steps_to_a_target_without_contraction():
    assert_allclose(theory.steps_to_target([1.0, 1.5, 0.0], target=0.1), [np.inf, np.inf, 1])


def test_along_the_gradient_the_model_is_level_again_at_twice_the_best_step():
    matrix = symmetric([0.5, 4.0, 9.0], seed=5)
    g = np.random.default_rng(6).standard_normal(3)
    best = float(theory.best_step_along_gradient(g @ g, g @ matrix @ g))
    level = float(theory.uphill_step_along_gradient(g @ g, g @ matrix @ g))

    def change(length):
        return -length * g @ g + length**2 * (g @ matrix @ g) / 2

    assert change(best) < min(change(0.99 * best), change(1.01 * best))
    assert change(level) == pytest.approx(0, abs=1e-14)
    assert np.isinf(theory.uphill_step_along_gradient(1.0, -2.0))


@pytest.mark.parametrize(
    "eigenvalues, options, found",
    [
        ([1.0, 2.0], {}, "minimum"),
        ([-1.0, -2.0], {}, "maximum"),
        ([-1.0, 2.0], {}, "saddle"),
        ([-1.0, 0.0, 2.0], {}, "saddle"),
        ([0.0, 2.0], {}, "inconclusive"),
        ([0.0, 0.0], {}, "inconclusive"),
        ([1e-20, 1.0], {}, "inconclusive"),  # zero beside rounding of the largest
        ([-1e-17, 1.0], {}, "inconclusive"),
        ([1e-3, 1.0], {"eps": 1e-2}, "inconclusive"),
        ([1e-9, 2e-9], {"tolerance": 1e-8}, "inconclusive"),
        ([1.0, 2.0], {"gradient": 0.1, "tolerance": 1e-3}, "not critical"),
        ([1.0, 2.0], {"gradient": np.nan}, "not critical"),
    ],
)
def test_the_second_derivative_test(eigenvalues, options, found):
    assert theory.second_derivative_test(eigenvalues, **options) == found


@given(st.integers(1, 8), st.integers(0, 10**6), st.floats(0, 100))
def test_the_secular_equation_gives_lapacks_largest_eigenvalue(size, seed, scale):
    random = np.random.default_rng(seed)
    root = random.standard_normal((size, size))
    covariance, mean = root @ root.T, scale * random.standard_normal(size) * random.integers(0, 2, size)
    truth = np.linalg.eigvalsh(covariance + np.outer(mean, mean))[-1]
    assert theory.top_of_second_moment(covariance, mean) == pytest.approx(truth, rel=1e-12 * size, abs=1e-300)


def test_input_conditions_are_those_of_the_inputs():
    random = np.random.default_rng(7)
    inputs = random.standard_normal((500, 4)) @ np.diag([1.0, 3.0, 10.0, 0.2]) + np.array([5.0, 0.0, -2.0, 1.0])
    found = theory.input_conditions(np.cov(inputs.T, bias=True), inputs.mean(axis=0))
    centred = inputs - inputs.mean(axis=0)
    for prepared, condition in (
        (inputs, found.raw),
        (centred, found.centered),
        (centred / centred.std(axis=0), found.normalized),
    ):
        assert condition == pytest.approx(
            np.linalg.cond(prepared) ** 2, rel=1e-9
        )  # squared singular values, no product formed


@pytest.mark.parametrize("ratio, variance", [(0.05, 1.0), (0.3, 2.0), (0.9, 0.5)])
def test_the_marchenko_pastur_density_between_the_edges_has_mass_one_and_mean_v(ratio, variance):
    low, high = theory.marchenko_pastur_edges(ratio, variance=variance)

    def density(x):
        return math.sqrt(max((high - x) * (x - low), 0)) / (2 * math.pi * ratio * variance * x)

    assert scipy.integrate.quad(density, low, high)[0] == pytest.approx(1, abs=1e-6)
    assert scipy.integrate.quad(lambda x: x * density(x), low, high)[0] == pytest.approx(variance, rel=1e-6)


def test_a_spike_leaves_the_bulk_at_the_threshold_without_a_jump():
    ratio = 0.25
    threshold = float(theory.outlier_threshold(ratio))
    edge = float(theory.marchenko_pastur_edges(ratio)[1])
    assert threshold == 0.5
    assert_allclose(theory.spiked_top_eigenvalue([0.0, threshold, threshold + 1e-9], ratio=ratio), edge, rtol=1e-9)
    assert float(theory.spiked_top_eigenvalue(0.6, ratio=ratio)) > edge


def test_a_spike_of_a_large_sample_is_where_the_law_has_it():
    random = np.random.default_rng(8)
    features, samples, mean = 200, 2000, 0.2
    inputs = random.standard_normal((samples, features)) + mean
    top = np.linalg.eigvalsh(inputs.T @ inputs / samples)[-1]
    law = float(theory.spiked_top_eigenvalue(features * mean**2, ratio=features / samples))
    assert top == pytest.approx(law, rel=3 * math.sqrt(2 / samples))  # three standard deviations of a spiked eigenvalue
    # N = 100, P = 1000, m = 0.5: θ² = 25, γ = 0.1
    assert float(theory.spiked_top_eigenvalue(25.0, ratio=0.1)) == pytest.approx(26 * 1.004)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 5])
def test_the_second_moment_of_a_step_is_the_mean_over_all_batches(batch_size):
    curvatures, lr = np.array([0.1, 1.0, 2.5, 0.7, 4.0]), 0.3
    batches = np.array([np.mean(b) for b in itertools.combinations(curvatures, batch_size)])
    numbers = {"mean": curvatures.mean(), "variance": curvatures.var(), "examples": 5, "batch_size": batch_size}
    assert theory.sgd_second_moment_factor(lr=lr, **numbers) == pytest.approx(
        ((1 - lr * batches) ** 2).mean(), rel=1e-13
    )
    assert theory.sgd_second_moment_factor(lr=theory.sgd_largest_lr(**numbers), **numbers) == pytest.approx(
        1, rel=1e-13
    )


def test_between_the_ends_of_the_catapult_range_the_curvature_falls():
    """λ' = λ + ηf²(ηλ − 4)/n while the loss grows, f' = f(1 − ηλ + η²f²/n): Lewkowycz et al. 2020, eq. 4 and 5."""
    low, high = (float(end) for end in theory.catapult_range(5.0))
    for lr, grows, falls in (
        (0.9 * low, False, True),
        (1.1 * low, True, True),
        (0.9 * high, True, True),
        (1.1 * high, True, False),
    ):
        assert (abs(1 - lr * 5.0) > 1) == grows
        assert (lr * 5.0 - 4 < 0) == falls
