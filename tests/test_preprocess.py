"""Preprocessing against the identities that define it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from curvexp.errors import ConfigError, Unsupported
from curvexp.preprocess import BatchNorm, batchnorm, centered, normalized, raw, standardize, whitened

EPS = np.finfo(np.float64).eps


def sample(count: int = 200, width: int = 6, seed: int = 0) -> np.ndarray:
    """Correlated inputs on scales from 1e-3 to 1e3, off the origin; column 2 is constant."""
    random = np.random.default_rng(seed)
    inputs = (
        random.standard_normal((count, width)) @ random.standard_normal((width, width)) * np.geomspace(1e-3, 1e3, width)
        + 5
    )
    inputs[:, 2] = 0.1
    return inputs


def test_raw_changes_nothing() -> None:
    inputs = sample()
    assert raw().fit(inputs)(inputs) is inputs


@pytest.mark.parametrize("option", [centered, normalized, whitened], ids=lambda f: f.__name__)
def test_means_become_zero_and_constant_columns_exactly_zero(option) -> None:
    inputs = sample()
    prepared = option().fit(inputs)(inputs)
    scale = np.abs(prepared).max()
    # a mean of 200 numbers carries rounding of the size of the inputs' offset over their deviation, here below 1e4
    assert np.abs(prepared.mean(axis=0)).max() <= 1e4 * EPS * scale
    assert np.count_nonzero(option().fit(np.full((7, 2), 0.1))(np.full((7, 2), 0.1))) == 0


def test_normalized_has_unit_variance_and_leaves_constant_columns_zero() -> None:
    inputs = sample()
    prepared = normalized().fit(inputs)(inputs)
    varying = np.delete(prepared, 2, axis=1)
    assert np.allclose(varying.var(axis=0), 1, rtol=1e-12)  # rounding of 200 terms
    assert np.count_nonzero(prepared[:, 2]) == 0


def test_a_column_constant_in_training_stays_zero_on_test_inputs_that_vary() -> None:
    train, test = sample(seed=0), sample(seed=1)
    test[:, 2] = np.arange(len(test))
    assert np.count_nonzero(normalized().fit(train)(test)[:, 2]) == 0


@pytest.mark.parametrize("kind", ["zca", "pca"])
def test_whitened_covariance_is_the_identity_on_the_range_of_the_inputs(kind) -> None:
    inputs = np.concatenate([sample(), sample()[:, :1] - sample()[:, 1:2]], axis=1)  # 7 columns of rank 5
    prepared = whitened(kind=kind).fit(inputs)(inputs)
    covariance = prepared.T @ prepared / len(prepared)
    # a projector of rank 5; the correlation matrix has condition number below 1e8, and rounding is multiplied by its root
    assert np.allclose(covariance @ covariance, covariance, atol=1e-9)
    assert np.isclose(np.trace(covariance), 5, atol=1e-9)


def test_zca_is_the_symmetric_whitener_of_normalized_inputs() -> None:
    inputs = np.delete(sample(), 2, axis=1)
    z = normalized().fit(inputs)(inputs)
    cross = z.T @ whitened().fit(inputs)(inputs) / len(z)
    # Kessy et al. 2018, sec. 3: ZCA-cor is the whitener whose cross-correlation with the inputs is symmetric positive definite
    assert np.allclose(cross, cross.T, atol=1e-10)
    assert np.linalg.eigvalsh(cross).min() > 0


def test_fewer_examples_than_columns_whiten_to_their_rank() -> None:
    inputs = np.random.default_rng(0).standard_normal((5, 9))
    prepared = whitened().fit(inputs)(inputs)
    assert np.isclose(np.square(prepared).sum() / 5, 4, atol=1e-12)  # 5 points less their mean span 4 directions


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float64, (8, 3), elements=st.integers(-1000, 1000)),
    st.sampled_from([-4.0, 0.25, 2.0, 1024.0]),
    st.integers(-100, 100),
)
def test_normalized_forgets_scale_and_offset(inputs, scale, offset) -> None:
    # powers of two and integers: the affine map itself is exact
    once, moved = normalized().fit(inputs)(inputs), normalized().fit(scale * inputs + offset)(scale * inputs + offset)
    assert np.allclose(moved, np.sign(scale) * once, atol=1e-9)  # offset/deviation is at most 1e3·1e3/0.3, times eps


@pytest.mark.parametrize("option", [centered, normalized, whitened], ids=lambda f: f.__name__)
def test_a_fitted_transform_treats_each_example_alone(option) -> None:
    train, test = sample(seed=0), sample(seed=1)
    transform = option().fit(train)
    # one row at a time, BLAS may sum in another order
    assert np.allclose(np.concatenate([transform(row[None]) for row in test]), transform(test), rtol=1e-9, atol=1e-9)


def test_scaling_a_quadratic_gives_a_unit_diagonal_and_the_same_values() -> None:
    random = np.random.default_rng(0)
    factor = random.standard_normal((5, 5))
    matrix, vector, y = factor @ factor.T, random.standard_normal(5), random.standard_normal(5)
    prepare = normalized().quadratic
    assert prepare is not None
    scaled, scaled_vector = prepare(matrix, vector)
    x = y / np.sqrt(np.diagonal(matrix))
    assert np.allclose(np.diagonal(scaled), 1, rtol=4 * EPS)
    # the same function in other variables; a handful of roundings of numbers of order 10
    assert np.isclose(
        0.5 * y @ scaled @ y - scaled_vector @ y, 0.5 * x @ matrix @ x - vector @ x, rtol=1e-12, atol=1e-13
    )


def test_scaling_a_quadratic_needs_a_positive_diagonal() -> None:
    prepare = normalized().quadratic
    assert prepare is not None
    with pytest.raises(Unsupported, match=r"preprocess=normalized.*positive diagonal.*-1"):
        prepare(np.diag([1.0, -1.0]), np.zeros(2))


# ---- batch statistics -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec", [BatchNorm(), BatchNorm("frozen"), BatchNorm("ghost", 1e-5, 200), BatchNorm("ghost", 1e-5, 999)]
)
def test_whole_batch_statistics_without_epsilon_are_normalization(spec) -> None:
    inputs = sample()
    expected = normalized().fit(inputs)(inputs)
    assert np.allclose(
        standardize(inputs, spec._replace(epsilon=0.0)), expected, atol=1e-10
    )  # offset/deviation 1e4 times eps


@pytest.mark.usefixtures("x64")
def test_jax_and_numpy_agree() -> None:
    inputs = sample(count=23)
    for spec in (BatchNorm(), BatchNorm("frozen"), BatchNorm("ghost", 1e-5, 5)):
        assert np.allclose(standardize(jnp.asarray(inputs), spec), standardize(inputs, spec), atol=1e-10)


def test_ghost_groups_have_their_own_statistics_and_so_has_a_smaller_last_one() -> None:
    inputs = sample(count=23)
    found = standardize(inputs, BatchNorm("ghost", 1e-5, 5))
    for start in range(0, 23, 5):
        assert np.array_equal(found[start : start + 5], standardize(inputs[start : start + 5], BatchNorm()))


def test_statistics_from_the_first_rows_serve_all_rows() -> None:
    inputs = sample(count=50)
    for spec in (BatchNorm(), BatchNorm("ghost", 1e-5, 7)):
        found = standardize(inputs, spec, rows=40)
        mean, variance = inputs[:40].mean(axis=0), inputs[:40].var(axis=0)
        # a constant column is 0, not rounding over √ε
        expected = np.where(np.ptp(inputs, axis=0) == 0, 0, (inputs - mean) / np.sqrt(variance + 1e-5))
        assert np.allclose(found, expected, atol=1e-9)


def test_frozen_statistics_are_constants_under_differentiation() -> None:
    x = jnp.array([[1.0, 2.0], [3.0, -1.0], [0.0, 5.0]])
    frozen = jax.jacobian(lambda x: standardize(x, BatchNorm("frozen", 0.0)))(x)
    scale = 1 / np.asarray(x).std(axis=0)
    expected = np.einsum("ik,jl,j->ijkl", np.eye(3), np.eye(2), scale)
    assert np.allclose(frozen, expected, rtol=1e-5)  # float32
    through = jax.jacobian(lambda x: standardize(x, BatchNorm("batch", 0.0)))(x)
    # differentiated through: adding a constant to a column, or scaling it about 0, changes nothing
    assert np.abs(through.sum(axis=2)).max() < 1e-5
    assert np.abs(np.einsum("ijkl,kl->ijl", through, x)).max() < 1e-5


@pytest.mark.parametrize("epsilon", [0.0, 1e-5])
def test_a_dead_column_is_zero_with_a_finite_gradient(epsilon) -> None:
    x = jnp.full((100, 1), 0.1)  # its float32 mean is not exactly 0.1

    def loss(x):
        return jnp.sum(standardize(x, BatchNorm("batch", epsilon)) ** 3 + x)

    assert np.count_nonzero(standardize(x, BatchNorm("batch", epsilon))) == 0
    assert np.isfinite(jax.grad(loss)(x)).all()


@pytest.mark.parametrize("inputs", ["raw", "centered", "normalized", "whitened"])
def test_inputs_of_batchnorm_can_be_prepared_as_well(inputs) -> None:
    options = {"raw": raw, "centered": centered, "normalized": normalized, "whitened": whitened}
    x = sample()
    assert np.array_equal(batchnorm(inputs=inputs).fit(x)(x), options[inputs]().fit(x)(x))


def test_the_mode_reads_as_it_is_recorded() -> None:
    assert [str(batchnorm(**kw).hidden) for kw in ({}, {"mode": "frozen"}, {"mode": "ghost", "ghost": 20})] == [
        "batch",
        "frozen",
        "ghost(20)",
    ]


@pytest.mark.parametrize(
    "build, key",
    [
        (lambda: whitened(kind="chol"), "preprocess.kind"),
        (lambda: batchnorm(mode="running"), "preprocess.mode"),
        (lambda: batchnorm(mode="ghost"), "preprocess.ghost"),
        (lambda: batchnorm(ghost=5), "preprocess.ghost"),
        (lambda: batchnorm(mode="ghost", ghost=1), "preprocess.ghost"),
        (lambda: batchnorm(mode="ghost", ghost=2.5), "preprocess.ghost"),  # type: ignore[arg-type]
        (lambda: batchnorm(epsilon=-1), "preprocess.epsilon"),
        (lambda: batchnorm(epsilon=float("nan")), "preprocess.epsilon"),
        (lambda: batchnorm(inputs="squared"), "preprocess.inputs"),
    ],
)
def test_bad_options_name_their_key(build, key) -> None:
    with pytest.raises(ConfigError, match=key):
        build()
