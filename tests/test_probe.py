"""What the probes' options measure, against the dense Hessian."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvexp import preprocess, probe
from curvexp import problem as problems
from curvexp.curvature import Objective, hessian, scaled
from curvexp.errors import ConfigError
from curvexp.linalg.layout import LARGE

pytestmark = pytest.mark.usefixtures("x64")
KEY = jax.random.key(0)


@functools.cache
def network(**options):
    """A small network on the wine data, its parameters and its eigenvalues by jax.hessian and LAPACK."""
    problem = problems.mlp(
        preprocess=preprocess.normalized(), dtype=jnp.float64, data=problems.data.wine(), hidden=[16], **options
    )
    params = problem.init(KEY)
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    dense = jax.jit(jax.hessian(lambda x: problem.loss(unravel(x), problem.data)))(flat)
    return problem, params, np.linalg.eigvalsh(np.asarray(dense))


def read(measure, state=None, key=KEY):
    problem, params, exact = network()
    reading, state = measure.measure(Objective(jax.tree_util.Partial(problem.loss), problem.data), params, state, key)
    return reading, state, exact


@pytest.mark.parametrize("size", [3, 50, LARGE + 1], ids=["three", "small", "large"])
@pytest.mark.parametrize("largest", [2.0, -0.5], ids=["upwards", "downwards"])
def test_the_sharpness_is_the_largest_curvature_upwards_or_else_the_largest_of_all(size, largest):
    values = np.r_[np.linspace(-1, -0.6, size - 1), largest]
    op = scaled(hessian(lambda x: 0.5 * jnp.sum(values * x**2), jnp.zeros(size)), 3.0)
    wanted = 3 * (largest if largest > 0 else 1.0)
    assert probe.sharpness(op, tol=1e-2, key=KEY) == pytest.approx(wanted, rel=1e-2)  # its residual


@pytest.mark.slow
def test_chunks_give_the_same_eigenvalues():
    for whole, parts in (
        (probe.top(k=3, tol=1e-9), probe.top(k=3, tol=1e-9, chunk=50)),
        (probe.top(k=3, dense_below=1000), probe.top(k=3, dense_below=1000, chunk=50)),
    ):
        a, _, exact = read(whole)
        b, _, _ = read(parts)
        # eigenvalues move by no more than the residuals' squares over gaps; 1e-9 is the tolerance itself
        np.testing.assert_allclose(a.eigenvalues, b.eigenvalues, atol=1e-9 * exact.max())


def test_the_largest_alone_are_those_of_both_ends_in_fewer_products():
    both, _, exact = read(probe.top(k=3, tol=1e-6))
    largest, _, _ = read(probe.top(k=3, tol=1e-6, which="LA"))
    np.testing.assert_allclose(largest.eigenvalues, exact[-3:], atol=1e-6 * exact.max())
    assert largest.scalars["hvps"] < both.scalars["hvps"]
    assert "lambda_min" not in largest.scalars


@pytest.mark.slow
def test_k_grows_while_the_smallest_of_the_largest_stands_above():
    _, _, exact = network()
    level = (exact[-7] + exact[-8]) / 2  # seven stand above it
    reading, state, _ = read(probe.top(k=2, which="LA", above=float(level), tol=1e-8))
    np.testing.assert_allclose(reading.eigenvalues, exact[-8:], atol=1e-8 * exact.max())
    again, _, _ = read(probe.top(k=2, which="LA", above=float(level), tol=1e-8), state)
    assert len(again.eigenvalues) == 8


@pytest.mark.parametrize(
    "name, value, count", [("MOST_PAIRS", 9, 8), ("MOST_PAIRS", 20, 16), ("basis_bytes", lambda *_: math.inf, 2)]
)
def test_k_grows_no_further_than_there_are_pairs_and_memory_for(monkeypatch, name, value, count):
    monkeypatch.setattr(probe.solve, name, value)
    assert len(read(probe.top(k=2, which="LA", above=1e-9))[0].eigenvalues) == count


def test_a_samples_curvature_comes_with_an_error_that_covers_the_whole_datas():
    _, _, exact = network()
    inside = []
    for seed in range(30):
        reading, _, _ = read(probe.top(k=1, which="LA", samples=100), key=jax.random.key(seed))
        error = reading.scalars["lambda_max_sampling_error"]
        assert reading.extra["samples"] == 100
        assert reading.extra["population"] == len(network()[0].data[0])
        inside.append(abs(reading.scalars["lambda_max"] - exact[-1]) < 3 * error + 1e-3 * exact[-1])
    # three standard errors hold 99 %; the largest of a sample is biased upwards besides: 80 % leaves room for that
    assert np.mean(inside) > 0.8
    assert error > 0.001 * exact[-1]


def test_the_density_holds_what_the_ends_leave_and_its_moments_are_those_of_the_matrix():
    reading, state, exact = read(probe.density(k=3, tol=1e-8, vectors=30, depth=40))
    np.testing.assert_allclose(reading.eigenvalues, np.r_[exact[:3], exact[-3:]], atol=1e-8 * exact.max())
    curve = reading.extra["density"]
    n = len(exact)
    assert np.trapezoid(curve["density"], curve["x"]) == pytest.approx(
        (n - 6) / n, abs=1e-3
    )  # tails beyond four widths
    assert abs(reading.scalars["trace"] - exact.sum()) < 4 * reading.scalars["trace_stderr"]
    # v'Av on the sphere has the variance 2‖A − tr A/n‖²/(n(n + 2)); 30 vectors tell a deviation to 13 %, and three of these are 40 %
    rest, m = exact[3:-3], n - 6
    deviation = np.sqrt(2 * ((rest - rest.mean()) ** 2).sum() * m / (m + 2) / 30)
    assert reading.scalars["trace_stderr"] == pytest.approx(deviation, rel=0.4)
    share = (exact < 0).mean()
    # a share near a mass at zero is blurred by the Lanczos steps: 40 of them resolve 1/40 of the range
    assert abs(reading.scalars["negative_share"] - share) < 4 * reading.scalars["negative_share_stderr"] + 0.1
    assert reading.scalars["hvps"] > 30 * 40
    warm, _, _ = read(probe.density(k=3, tol=1e-8, vectors=30, depth=40), state)
    assert warm.scalars["hvps"] < reading.scalars["hvps"]


def test_the_check_of_the_last_reading_leaves_the_next_one_as_it_would_be():
    """So that a run to which steps are added goes on bit for bit."""
    watch = probe.top(k=2, which="LA")
    _, state, _ = read(watch)
    plain, after, _ = read(watch, state)
    last, after_last, _ = read(watch._replace(measure=watch.measure_last), state)
    assert plain.scalars["lambda_max_missed"] == 1
    assert plain.extra["unchecked"] == ["lambda_max", "eigenvalues"]
    assert last.scalars["lambda_max_missed"] <= 1e-3
    assert last.extra["unchecked"] == []
    np.testing.assert_array_equal(plain.eigenvalues, last.eigenvalues)
    for one, other in zip(jax.tree.leaves(after), jax.tree.leaves(after_last), strict=True):
        np.testing.assert_array_equal(one, other)


def test_what_is_not_finite_is_a_reading_without_values():
    problem, params, _ = network()
    loss = Objective(jax.tree_util.Partial(problem.loss), problem.data)
    broken = jax.tree.map(lambda leaf: leaf * jnp.nan, params)
    for made in (probe.top(k=2), probe.top(k=2, which="LA", above=1.0), probe.density(k=2), probe.exact()):
        reading, state = made.measure(loss, broken, None, KEY)
        assert np.isnan(reading.eigenvalues).all()
        assert math.isnan(reading.scalars["lambda_max"])
        assert state is None


@pytest.mark.parametrize(
    "make, key",
    [
        (lambda: probe.top(which="SA"), "probe.which=SA"),
        (lambda: probe.top(check_every=0), "probe.check_every=0"),
        (lambda: probe.density(check_every=1.5), "probe.check_every=1.5"),
        (lambda: probe.top(samples=10), "probe.samples=10"),
        (lambda: probe.top(chunk=0), "probe.chunk=0"),
        (lambda: probe.top(above=math.nan), "probe.above=nan"),
        (lambda: probe.top(above=-1.0), "probe.above=-1.0"),  # half of the spectrum stands above it
        (lambda: probe.density(vectors=1), "probe.vectors=1"),
        (lambda: probe.density(depth=0), "probe.depth=0"),
        (lambda: probe.density(k=200).check(350, network()[0]), "probe.k=200"),
        (lambda: probe.top(samples=10**6).check(350, network()[0]), "probe.samples=1000000"),
        (lambda: probe.exact(limit=10).check(350, network()[0]), "probe.limit=10"),
    ],
)
def test_bad_settings_are_refused_by_their_key(make, key):
    with pytest.raises(ConfigError, match=key):
        make()


@pytest.mark.parametrize("name", ["samples", "chunk"])
def test_parts_of_a_batch_that_batchnorm_couples_are_refused_unless_they_are_ghost_batches(name):
    def coupled(**options):
        normalized = preprocess.batchnorm(**options)
        return problems.mlp(preprocess=normalized, dtype=jnp.float64, data=problems.data.wine(), hidden=[4])

    with pytest.raises(ConfigError, match=rf"probe\.{name}=60: batch normalization .* couples"):
        probe.top(**{name: 60}).check(100, coupled())
    with pytest.raises(ConfigError, match="divisor"):
        probe.top(**{name: 60}).check(100, coupled(mode="ghost", ghost=50))
    probe.top(**{name: 60}).check(100, coupled(mode="ghost", ghost=20))
    quadratic = problems.quadratic(preprocess=preprocess.raw(), dtype=jnp.float64, dimension=4, condition_number=2.0)
    with pytest.raises(ConfigError, match="no examples"):
        probe.top(**{name: 60}).check(4, quadratic)


@pytest.mark.parametrize("name", ["samples", "chunk"])
def test_parts_of_a_batch_that_a_persons_loss_couples_are_refused_by_their_key(name):
    problem, _, _ = network()
    loss = problem.loss
    with pytest.raises(ConfigError, match=rf"probe\.{name}=60: .*coupled"):
        probe.top(**{name: 60}).check(350, problem._replace(loss=lambda params, data: jnp.sqrt(loss(params, data))))
    probe.top(**{name: 60}).check(350, problem)


@pytest.mark.slow  # a compiled program for each number of groups that is tried
def test_a_sample_of_ghost_batches_has_an_error_from_groups_that_keep_them_whole():
    normalized = preprocess.batchnorm(mode="ghost", ghost=10)
    problem = problems.mlp(preprocess=normalized, dtype=jnp.float64, data=problems.data.wine(), hidden=[4])
    params = problem.init(KEY)
    made = probe.top(k=1, which="LA", samples=60, dense_below=0)
    made.check(100, problem)
    loss = Objective(jax.tree_util.Partial(problem.loss), problem.data)
    reading, _ = made.measure(loss, params, None, KEY)
    assert 0 < reading.scalars["lambda_max_sampling_error"] < reading.scalars["lambda_max"]
