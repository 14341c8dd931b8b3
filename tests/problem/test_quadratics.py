"""Quadratics against numpy in float64, and against the laws they are drawn from."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
from hypothesis import given, settings
from hypothesis import strategies as st

from curvexp.errors import ConfigError, Unsupported
from curvexp.preprocess import batchnorm as batchnorm_preprocess
from curvexp.preprocess import centered, normalized, raw, whitened
from curvexp.problem import bowl, dome, quadratic, saddle, valley
from curvexp.problem.quadratics import LAWS, law_eigenvalues, quadratic_loss

EPS = np.finfo(np.float64).eps
pytestmark = pytest.mark.usefixtures("x64")


def build(builder=quadratic, preprocess=None, **options):
    return builder(preprocess=preprocess or raw(), dtype=jnp.float64, **options)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("condition_number", [1.0, 3.0, 1e5])
@pytest.mark.parametrize("dimension", [2, 3, 50])
def test_laws_reach_from_smallest_to_largest_exactly(law, condition_number, dimension) -> None:
    found = law_eigenvalues(law, dimension=dimension, condition_number=condition_number, smallest=0.5)
    assert len(found) == dimension
    assert found[0] == 0.5
    assert found[-1] == 0.5 * condition_number
    assert (np.diff(found) >= 0).all()


@pytest.mark.parametrize("law", LAWS)
def test_known_eigenvalues_are_those_of_the_dense_hessian(law) -> None:
    problem = build(law=law, dimension=60, condition_number=1e4)
    params = problem.init(jax.random.key(0))
    hessian = jax.hessian(problem.loss)(params, problem.data)
    # Weyl: rounding in Q diag(λ) Q' and LAPACK's own error are each a few n·eps·λmax
    assert np.abs(np.linalg.eigvalsh(hessian) - problem.known.eigenvalues).max() <= 60 * EPS * 1e4
    assert np.array_equal(problem.known.eigenvalues, law_eigenvalues(law, dimension=60, condition_number=1e4))


def test_linear_and_geometric_are_evenly_spaced_and_two_clusters_are_far_apart() -> None:
    linear, geometric, clusters = (
        law_eigenvalues(law, dimension=40, condition_number=1e4) for law in ("linear", "geometric", "two_clusters")
    )
    assert np.allclose(np.diff(linear), np.diff(linear)[0], rtol=1e-10)
    assert np.allclose(geometric[1:] / geometric[:-1], geometric[1] / geometric[0], rtol=1e-10)
    assert (clusters[:20] <= 1e4**0.05 * (1 + 1e-12)).all()
    assert (clusters[20:] >= 1e4**0.95 * (1 - 1e-12)).all()


@pytest.mark.parametrize("condition_number", [1.5, 100.0, 1e5])
def test_marchenko_pastur_quantiles_hold_equal_mass(condition_number) -> None:
    found = law_eigenvalues("marchenko_pastur", dimension=12, condition_number=condition_number)

    def density(x: float) -> float:
        return math.sqrt(max((condition_number - x) * (x - 1), 0)) / x

    masses = np.array([scipy.integrate.quad(density, a, b, limit=500)[0] for a, b in itertools.pairwise(found)])
    # quad's default relative tolerance is 1.5e-8; the square roots at the ends cost it a little more
    assert np.allclose(masses / masses.sum(), 1 / 11, rtol=1e-6)


def test_the_basis_is_orthonormal_and_follows_its_seed() -> None:
    first, again, other = (np.asarray(build(basis_seed=s).data.matrix) for s in (0, 0, 1))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)
    assert np.count_nonzero(np.asarray(build(basis_seed=None, dimension=5).data.matrix)) == 5


def test_minimum_and_optimum_are_those_of_a_linear_solve() -> None:
    b = np.random.default_rng(0).standard_normal(10)
    problem = build(eigenvalues=list(range(1, 11)), b=b.tolist())
    matrix = np.asarray(problem.data.matrix)
    exact = np.linalg.solve(matrix, b)
    assert np.allclose(problem.known.optimum, exact, rtol=0, atol=1e3 * EPS)  # condition number 10 times a few eps
    assert np.isclose(problem.known.minimum, -0.5 * b @ exact, rtol=1e-13)
    assert np.abs(jax.grad(problem.loss)(jnp.asarray(problem.known.optimum), problem.data)).max() < 1e3 * EPS


def test_with_b_zero_the_loss_keeps_relative_accuracy_down_to_underflow() -> None:
    problem = build(condition_number=1e4)
    params = problem.init(jax.random.key(0))
    tiny = problem.loss(params * 2.0**-400, problem.data) * 2.0**400 * 2.0**400
    assert tiny == problem.loss(params, problem.data)  # powers of two scale without rounding
    assert problem.known.minimum == 0.0


@pytest.mark.parametrize(
    "builder, b, minimum",
    [
        (bowl, None, 0.0),
        (valley, None, 0.0),
        (dome, None, -math.inf),
        (saddle, None, -math.inf),
        (valley, [1.0, 0.0], -math.inf),  # a generic b has a part along the flat direction
    ],
)
def test_the_four_forms_know_whether_they_are_bounded(builder, b, minimum) -> None:
    problem = build(builder, b=b)
    assert problem.name == builder.__name__
    assert problem.known.minimum == minimum
    assert (problem.known.optimum is None) == (minimum == -math.inf)


def test_a_singular_quadratic_with_b_in_range_has_the_shortest_optimum() -> None:
    vectors = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))[0]
    matrix = (vectors * [0, 0, 1, 2, 3, 4]) @ vectors.T
    matrix = (matrix + matrix.T) / 2
    b = matrix @ np.arange(6.0)
    problem = build(matrix=matrix.tolist(), b=b.tolist())
    expected = np.linalg.pinv(matrix, hermitian=True, rcond=1e-12) @ b
    assert np.allclose(problem.known.optimum, expected, atol=1e-12)  # condition number 4 on the range
    assert np.isclose(problem.known.minimum, -0.5 * b @ expected, rtol=1e-12)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.integers(0, 100))
def test_no_point_lies_below_the_known_minimum(eigenvalues, seed) -> None:
    problem = build(eigenvalues=eigenvalues, basis_seed=seed)
    points = np.random.default_rng(seed).standard_normal((50, len(eigenvalues)))
    values = jax.vmap(lambda x: quadratic_loss(x, problem.data))(points)
    # rounding of ½x'Ax with |x|² up to 50 and |λ| up to 10
    assert (np.asarray(values) >= problem.known.minimum - 1e4 * EPS).all()
    assert (problem.known.minimum == -math.inf) == (
        min(eigenvalues) < -len(eigenvalues) * EPS * np.abs(eigenvalues).max()
    )


def test_normalized_scales_the_diagonal_to_one_and_knows_the_new_spectrum() -> None:
    problem = build(preprocess=normalized(), law="geometric", dimension=20, condition_number=1e3)
    matrix = np.asarray(problem.data.matrix)
    original = np.asarray(build(law="geometric", dimension=20, condition_number=1e3).data.matrix)
    scale = 1 / np.sqrt(np.diagonal(original))
    assert np.allclose(matrix, scale[:, None] * original * scale, rtol=1e-14)
    assert np.allclose(np.diagonal(matrix), 1, rtol=4 * EPS)
    assert np.allclose(problem.known.eigenvalues, np.linalg.eigvalsh(matrix), atol=20 * EPS * 20)
    on_axes = build(preprocess=normalized(), basis_seed=None, condition_number=1e4)
    assert np.allclose(on_axes.known.eigenvalues, 1, rtol=8 * EPS)  # a diagonal quadratic is cured for good


def test_normalized_is_refused_where_the_diagonal_is_not_positive() -> None:
    with pytest.raises(Unsupported, match="positive diagonal"):
        build(dome, preprocess=normalized())


@pytest.mark.parametrize("option", [centered, whitened, batchnorm_preprocess])
def test_preprocessing_of_inputs_has_no_meaning_for_a_quadratic(option) -> None:
    with pytest.raises(Unsupported, match=rf"preprocess={option().name}.*problem=saddle"):
        build(saddle, preprocess=option())


def test_start_is_the_given_point_or_drawn_by_the_key() -> None:
    given = build(dimension=3, start=[1, 2, 3])
    assert np.array_equal(given.init(jax.random.key(5)), [1.0, 2.0, 3.0])
    drawn = build(dimension=3)
    assert not np.array_equal(drawn.init(jax.random.key(0)), drawn.init(jax.random.key(1)))


def test_problems_of_one_size_share_their_functions() -> None:
    one, two = build(condition_number=10.0), build(condition_number=1e4, basis_seed=3, law="geometric")
    assert one.loss is two.loss
    assert one.init is two.init


def test_float32_casts_and_float64_without_x64_is_refused() -> None:
    problem = quadratic(preprocess=raw(), dtype=jnp.float32)
    assert problem.data.matrix.dtype == problem.init(jax.random.key(0)).dtype == jnp.float32
    jax.config.update("jax_enable_x64", False)
    with pytest.raises(ConfigError, match="precision=float64"):
        build()


@pytest.mark.parametrize(
    "options, key",
    [
        ({"dimension": 0}, "problem.dimension"),
        ({"dimension": 2.5}, "problem.dimension"),
        ({"dimension": True}, "problem.dimension"),
        ({"dimension": 1}, "problem.condition_number"),
        ({"eigenvalues": []}, "problem.eigenvalues"),
        ({"eigenvalues": "1,2"}, "problem.eigenvalues"),
        ({"eigenvalues": [1.0, math.nan]}, r"problem.eigenvalues\[1\]"),
        ({"eigenvalues": [1.0, None]}, r"problem.eigenvalues\[1\]"),
        ({"eigenvalues": [1.0, 2.0], "dimension": 3}, "problem.eigenvalues"),
        ({"law": "geometrical"}, r"problem.law.*Did you mean geometric\?"),
        ({"condition_number": 0.5}, "problem.condition_number"),
        ({"condition_number": math.inf}, "problem.condition_number"),
        ({"smallest": 0}, "problem.smallest"),
        ({"smallest": -1.0}, "problem.smallest"),
        ({"basis_seed": -1}, "problem.basis_seed"),
        ({"b": [1.0]}, "problem.b"),
        ({"start": [1.0]}, "problem.start"),
        ({"start": "origin"}, "problem.start"),
        ({"matrix": [[1.0, 2.0], [3.0, 1.0]]}, r"problem.matrix: entry \[0\]\[1\] is 2"),
        ({"matrix": [[1.0, math.inf], [math.inf, 1.0]]}, "problem.matrix"),
        ({"matrix": [[1.0, 2.0]]}, "problem.matrix"),
        ({"matrix": [1.0, 2.0]}, "problem.matrix"),
        ({"matrix": [[1.0]], "eigenvalues": [1.0]}, "problem.matrix"),
        ({"matrix": [[1.0]], "dimension": 2}, "problem.dimension"),
    ],
)
def test_bad_options_name_their_key(options, key) -> None:
    with pytest.raises(ConfigError, match=key):
        build(**options)
