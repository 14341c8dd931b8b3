"""Density, trace, diagonal and norm against the dense matrix, and their stated errors against their true ones."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from helpers import waits

from curvexp.linalg import density, diagonal, eigsh, frobenius_norm, spectral_density, trace
from curvexp.linalg.lanczos import lanczos
from curvexp.linalg.layout import Layout

pytestmark = pytest.mark.usefixtures("x64")
N = 80


@pytest.fixture(scope="module")
def matrix():
    random = np.random.default_rng(0)
    q, _ = np.linalg.qr(random.standard_normal((N, N)))
    matrix = (q * np.r_[np.linspace(-1, 1, N - 3), 4.0, 6.0, 9.0]) @ q.T
    return (matrix + matrix.T) / 2


def operator(matrix):
    return jax.tree_util.Partial(times, jnp.asarray(matrix))


def times(matrix, v):
    return matrix @ v


@pytest.mark.parametrize("estimate, exact", [(trace, np.trace), (frobenius_norm, np.linalg.norm), (diagonal, np.diag)])
def test_stated_errors_cover_the_truth_as_often_as_they_state(matrix, estimate, exact):
    op, truth, within = operator(matrix), exact(matrix), []
    for seed in range(100):
        found = estimate(op, jnp.zeros(N), samples=40, key=jax.random.key(seed))
        within.append(np.mean(np.abs(np.asarray(found.mean) - truth) <= 2 * np.asarray(found.stderr)))
    # two standard errors of 40 samples hold 95 %; five deviations of a count of 100 below that is 84 %
    assert 0.84 <= np.mean(within) <= 1


def test_trace_is_exact_where_the_sketch_spans_the_range(matrix):
    w, v = np.linalg.eigh(matrix)
    low_rank = (v[:, -3:] * w[-3:]) @ v[:, -3:].T
    found = trace(operator(low_rank), jnp.zeros(N), samples=2, rank=5)
    assert found.mean == pytest.approx(19.0, abs=1e-10)
    assert found.matvecs == 12
    assert trace(operator(matrix), jnp.zeros(N), rank=10).stderr < trace(operator(matrix), jnp.zeros(N)).stderr


@pytest.mark.parametrize("estimate, exact", [(trace, np.trace), (frobenius_norm, np.linalg.norm), (diagonal, np.diag)])
def test_a_relative_error_that_is_asked_for_is_reached_and_no_more(matrix, estimate, exact):
    op, truth = operator(matrix), exact(matrix)
    found = estimate(op, jnp.zeros(N), samples=10, rtol=0.05)
    assert np.linalg.norm(found.stderr) <= 0.0501 * np.linalg.norm(found.mean)
    assert np.linalg.norm(np.asarray(found.mean) - truth) <= 4 * 0.05 * np.linalg.norm(truth)  # four standard errors
    fewer = estimate(op, jnp.zeros(N), samples=int(found.matvecs) - 1)
    assert np.linalg.norm(fewer.stderr) > 0.0499 * np.linalg.norm(fewer.mean)
    with pytest.warns(RuntimeWarning, match="rtol=0.0001 was not reached in 20 products"):
        estimate(op, jnp.zeros(N), samples=10, rtol=1e-4, max_samples=20)


@pytest.mark.slow
def test_spikes_are_shown_one_by_one_and_out_of_the_noise(matrix):
    op, exact = operator(matrix), np.linalg.eigvalsh(matrix)
    spikes = eigsh(op, jnp.zeros(N), k=3, tol=1e-8)
    found = spectral_density(op, jnp.zeros(N), probes=20, steps=30, spikes=spikes)
    np.testing.assert_allclose(found.spikes, [4, 6, 9], atol=1e-7)
    assert np.nanmax(np.where(found.weights > 1e-12, found.nodes, np.nan)) < 1.01  # the rest ends at 1
    np.testing.assert_allclose(found.weights.sum(axis=1), (N - 3) / N, atol=1e-12)
    assert np.trapezoid(found.density, found.x) == pytest.approx((N - 3) / N, abs=1e-3)  # tails beyond four widths
    plain = spectral_density(op, jnp.zeros(N), probes=20, steps=30)
    assert found.square_stderr < 0.5 * plain.square_stderr
    assert abs(found.mean - exact.mean()) < 4 * found.mean_stderr
    with pytest.raises(ValueError, match="leave nothing"):
        spectral_density(lambda v: v, jnp.zeros(3), spikes=eigsh(lambda v: v, jnp.zeros(3), k=3))


def test_density_covers_the_smoothed_spectrum_as_often_as_it_states(matrix):
    op, exact, within = operator(matrix), np.linalg.eigvalsh(matrix), []
    for seed in range(100):
        found = spectral_density(op, jnp.zeros(N), probes=20, steps=40, width=0.5, points=64, key=jax.random.key(seed))
        x = np.asarray(found.x)[:, None]
        truth = np.exp(-0.5 * ((x - exact) / 0.5) ** 2).mean(axis=1) / (0.5 * np.sqrt(2 * np.pi))
        seen = truth > 1e-3  # elsewhere there is nothing to cover
        within.append(np.mean(np.abs(found.density - truth)[seen] <= 2 * np.asarray(found.stderr)[seen]))
    # two standard errors of 20 probes hold 94 % (Student's t); points of one estimate go together, so 100 keys tell it to about 2 %
    assert 0.88 <= np.mean(within) <= 0.99


def test_moments_of_the_density_are_traces(matrix):
    found = spectral_density(operator(matrix), jnp.zeros(N), probes=60, steps=20, key=jax.random.key(1))
    for mean, stderr, truth in (
        (found.mean, found.mean_stderr, np.trace(matrix) / N),
        (found.square, found.square_stderr, np.linalg.norm(matrix) ** 2 / N),
        (found.negative, found.negative_stderr, (np.linalg.eigvalsh(matrix) < 0).mean()),
    ):
        # four standard errors, and for the step function what 20 Lanczos steps blur
        assert abs(mean - truth) < 4 * stderr + 0.01
    assert np.trapezoid(found.density, found.x) == pytest.approx(1, abs=1e-3)  # tails beyond four widths
    np.testing.assert_allclose(found.weights.sum(axis=1), 1, atol=1e-12)


def test_density_comes_nearer_to_the_spectrum_with_more_probes_and_steps(matrix):
    exact = np.linalg.eigvalsh(matrix)

    def distance(probes, steps):
        found = spectral_density(operator(matrix), jnp.zeros(N), probes=probes, steps=steps)
        weights = np.ravel(found.weights) / probes
        return scipy.stats.wasserstein_distance(np.ravel(found.nodes), exact, weights, np.ones(N))

    assert distance(100, 40) < 0.5 * distance(4, 5)
    assert distance(100, 40) < 0.1


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("always", [False, True])
def test_the_krylov_bases_stay_semiorthogonal(dtype, always):
    """Outliers converge within ten steps, and without mending their directions come back: 60 steps, no overlap above √eps; where every
    vector is orthogonalised, none above rounding. A spike stays out."""
    values = jnp.asarray(np.r_[np.linspace(-0.1, 0.3, 490), np.geomspace(1, 100, 10)], dtype)
    keys, known = jax.random.split(jax.random.key(0), 2), jnp.eye(500, dtype=dtype)[-1:]
    run = functools.partial(lanczos, lambda v: values * v, layout=Layout(500), steps=60, always=always)
    basis = np.asarray(jax.jit(run)(known, keys).basis, np.float64)[:, :60]
    overlap = np.abs(basis @ basis.transpose(0, 2, 1) - np.eye(60)).max()
    eps = jnp.finfo(dtype).eps
    assert overlap <= (
        100 * eps if always else np.sqrt(eps)
    )  # 500 terms of a few eps, divided by the smallest beta, 0.1
    assert np.abs(basis @ np.asarray(known[0])).max() <= 100 * eps


def test_density_does_not_depend_on_the_batch_and_counts_its_products(matrix):
    one = spectral_density(operator(matrix), jnp.zeros(N), probes=5, steps=10)
    four = spectral_density(operator(matrix), jnp.zeros(N), probes=5, steps=10, batch=4)
    np.testing.assert_allclose(one.density, four.density, rtol=1e-8, atol=1e-12)
    assert one.matvecs == 50


@pytest.mark.parametrize("batch", [1, 2])
def test_on_a_gpu_a_density_waits_for_nothing(matrix, batch, monkeypatch):
    def program():
        return jax.jit(lambda op: spectral_density(op, jnp.zeros(N), probes=4, steps=10, batch=batch)).lower(
            operator(matrix)
        )

    assert any("conditional" in line for line in waits(program().compile()))  # of a CPU
    monkeypatch.setattr(density, "waits_for_host", lambda tree: True)
    assert waits(program().compile()) == []


@pytest.mark.parametrize("value", [0.0, 2.0])
def test_density_of_a_multiple_of_the_identity_is_one_spike(value):
    found = spectral_density(operator(value * np.eye(N)), jnp.zeros(N), probes=3, steps=10)
    assert found.mean == pytest.approx(value, abs=1e-12)
    assert found.matvecs == 3  # every Krylov space ends after one product
    assert np.isfinite(found.density).all()
    assert found.negative == 0


@pytest.mark.parametrize("call", [trace, diagonal, frobenius_norm])
def test_one_sample_has_no_error_and_is_refused(call):
    with pytest.raises(ValueError, match="samples=1"):
        call(lambda v: v, jnp.zeros(3), samples=1)


@pytest.mark.parametrize("change", [{"probes": 1}, {"steps": 0}, {"points": 1}, {"batch": 0}, {"width": -1.0}])
def test_density_refuses_what_has_no_meaning(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        spectral_density(lambda v: v, jnp.zeros(3), **change)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1e18])
def test_estimates_whose_squares_are_beyond_the_dtype(scale):
    matrix = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 1.0]])
    op = jax.tree_util.Partial(lambda a, v: a @ v, jnp.asarray(scale * matrix, jnp.float32))
    like = jax.ShapeDtypeStruct((3,), jnp.float32)
    key = jax.random.key(0)
    for found, exact in (
        (trace(op, like, samples=400, key=key), np.trace(matrix)),
        (frobenius_norm(op, like, samples=400, key=key), np.linalg.norm(matrix)),
        (diagonal(op, like, samples=400, key=key), np.diag(matrix)),
    ):
        mean, stderr = (np.asarray(part, np.float64) / scale for part in (found.mean, found.stderr))
        assert (np.abs(mean - exact) <= 5 * stderr).all()  # five standard errors, missed once in a million
        assert (stderr > 0).all()
