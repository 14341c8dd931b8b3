"""eigsh against LAPACK in float64, over spectra that have broken other solvers."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given, settings
from hypothesis import strategies as st

from curvexp import programs
from curvexp.linalg import eigsh, eigsh_above, inertia, spectral_density

N = 60
SPECTRA = {
    "graded": np.logspace(-12, 0, N),
    "clustered": np.r_[np.linspace(0, 0.5, N - 6), 1 + 1e-6 * np.arange(6)],
    "degenerate": np.r_[np.linspace(0, 0.5, N - 6), np.ones(6)],
    "indefinite": np.linspace(-1, 1, N),
    "singular": np.r_[np.zeros(N // 2), np.linspace(0.1, 1, N // 2)],
    "rank_one": np.r_[np.zeros(N - 1), 3.0],
    "rank_three": np.r_[np.zeros(N - 3), 5.0, 7.0, 10.0],
    "zero": np.zeros(N),
    "identity": np.ones(N),
    "two_values": np.r_[np.ones(N // 2), 10 * np.ones(N // 2)],
    "negative": -np.linspace(1, 2, N),
    "wigner": None,
    "wishart_with_outliers": None,
    "tiny": 1e-12 * np.linspace(-1, 1, N),
    "huge": 1e15 * np.linspace(-1, 1, N),
}


def rotated(eigenvalues, seed=0):
    eigenvalues = np.asarray(eigenvalues, np.float64)
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(eigenvalues),) * 2))
    matrix = (q * eigenvalues) @ q.T
    return (matrix + matrix.T) / 2


def named(name):
    if name == "wigner":
        g = np.random.default_rng(1).standard_normal((N, N))
        return (g + g.T) / np.sqrt(2 * N)
    if name == "wishart_with_outliers":
        g = np.random.default_rng(2).standard_normal((2 * N, N))
        g[:, :3] *= [8, 6, 4]
        return g.T @ g / (2 * N)
    return rotated(SPECTRA[name])


def times(matrix, v):
    return matrix @ v


def nested(matrix, v):
    image = matrix @ jnp.concatenate([v["a"].ravel(), v["b"][0]])
    return {"a": image[:20].reshape(4, 5), "b": [image[20:]]}


def operator(matrix, dtype=np.float64, function=times):
    """A product whose matrix is an argument of jit: one compiled program for all spectra."""
    return jax.tree_util.Partial(function, jnp.asarray(matrix, dtype))


def wanted(exact, k, which):
    if which == "LM":
        return np.sort(np.abs(exact))[-k:]
    low = {"LA": 0, "SA": k, "BE": k // 2}[which]
    return np.r_[exact[:low], exact[len(exact) - (k - low) :]]


def certified(matrix, found, *, k, which, tol, dtype=np.float64):
    """The pairs are eigenpairs within their residuals, orthonormal, the k that were wanted, and the status says so."""
    matrix = np.asarray(matrix, dtype).astype(np.float64)
    exact = scipy.linalg.eigh(matrix, eigvals_only=True)
    norm, eps = np.abs(exact).max(), np.finfo(dtype).eps
    rounding = 30 * eps * norm  # of products with 60 terms and of the small eigenproblem
    values, vectors = np.asarray(found.eigenvalues, np.float64), np.asarray(found.eigenvectors, np.float64)
    residuals = np.asarray(found.residuals, np.float64)
    assert found.converged, found.message
    assert (np.diff(values) >= 0).all()
    assert np.abs(vectors @ vectors.T - np.eye(k)).max() < 100 * eps
    true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    assert (true <= residuals + rounding).all()
    assert (residuals <= max(tol, 10 * eps) * norm + rounding).all()
    assert (np.abs(exact[:, None] - values).min(axis=0) <= residuals + rounding).all()  # Parlett 1998, thm 4.5.1
    sizes = np.sort(np.abs(values)) if which == "LM" else values
    # none missed: the i-th found is the i-th wanted, to the tolerance
    assert np.abs(sizes - wanted(exact, k, which)).max() <= 2 * tol * norm + rounding


def holds_for_every_spectrum(which, k, dtype, function):
    """A program is compiled once for all the spectra."""
    like = {"a": jnp.zeros((4, 5), dtype), "b": [jnp.zeros(40, dtype)]} if function is nested else jnp.zeros(N, dtype)
    tol = 1e-8 if dtype == np.float64 else 1e-4
    for name in SPECTRA:
        matrix = named(name)
        found = eigsh(operator(matrix, dtype, function), like, k=k, which=which, tol=tol)
        if function is nested:
            a, b = found.eigenvectors["a"], found.eigenvectors["b"][0]
            found = found._replace(eigenvectors=jnp.concatenate([a.reshape(k, 20), b], axis=1))
        try:
            certified(matrix, found, k=k, which=which, tol=tol, dtype=dtype)
        except AssertionError as wrong:
            raise AssertionError(f"{name}: {wrong}") from wrong


@pytest.mark.parametrize(
    "which, k, dtype, function",
    [
        ("LA", 5, np.float64, times),
        ("SA", 5, np.float64, times),
        ("LM", 5, np.float64, times),
        ("BE", 5, np.float64, times),
        ("LA", 1, np.float32, nested),
        ("SA", 20, np.float32, times),
        ("LM", 2, np.float32, times),
        ("BE", 4, np.float32, nested),
        ("BE", N, np.float64, times),
    ],
)
def test_eigsh_is_lapack(which, k, dtype, function, x64):
    holds_for_every_spectrum(which, k, dtype, function)


@pytest.mark.slow
@pytest.mark.parametrize("function", [times, nested])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("k", [1, 2, 5, 20, N])
@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_eigsh_is_lapack_for_every_combination(which, k, dtype, function, x64):
    holds_for_every_spectrum(which, k, dtype, function)


@pytest.mark.parametrize("which", ["LA", "SA", "LM", "BE"])
def test_one_dimension(which):
    found = eigsh(lambda v: -3 * v, jnp.zeros(1), k=1, which=which)
    assert found.eigenvalues[0] == -3
    assert abs(found.eigenvectors[0, 0]) == 1
    assert int(found.matvecs) == 1
    assert found.missed == 0


def test_nested_pytree_gives_what_flat_gives(x64):
    matrix = named("indefinite")
    like = {"a": jnp.zeros((4, 5)), "b": [jnp.zeros(40)]}
    tree = eigsh(operator(matrix, function=nested), like, k=5, tol=1e-8)
    flat = eigsh(operator(matrix), jnp.zeros(N), k=5, tol=1e-8)
    np.testing.assert_array_equal(tree.eigenvalues, flat.eigenvalues)
    assert tree.eigenvectors["a"].shape == (5, 4, 5)
    np.testing.assert_array_equal(tree.eigenvectors["b"][0], flat.eigenvectors[:, 20:])


def test_a_small_basis_restarts_to_the_same_answer(x64):
    matrix = named("indefinite")
    found = eigsh(operator(matrix), jnp.zeros(N), k=3, which="BE", tol=1e-8, basis=10)
    certified(matrix, found, k=3, which="BE", tol=1e-8)


def test_copies_are_found_in_a_large_space_too(x64):
    values = np.r_[np.linspace(-1, 1, 2995), [5.0, 4.0, 4.0, 4.0, 3.0]]  # the check is short here: n > 2048
    found = eigsh(operator(values, function=lambda d, v: d * v), jnp.zeros(3000), k=5, tol=1e-6)
    np.testing.assert_allclose(found.eigenvalues, [3, 4, 4, 4, 5], atol=1e-5)
    assert found.missed < 1


def test_completeness_is_stated(x64):
    op = operator(named("wishart_with_outliers"))
    assert 0 <= eigsh(op, jnp.zeros(N), k=3).missed <= 1e-3
    unchecked = eigsh(op, jnp.zeros(N), k=3, check=0)
    assert np.isnan(unchecked.missed)
    assert "not checked" in unchecked.message


def test_warm_start_is_cheaper_and_sees_a_newcomer(x64):
    matrix = named("wishart_with_outliers")
    cold = eigsh(operator(matrix), jnp.zeros(N), k=3, tol=1e-4)
    warm = eigsh(operator(matrix), jnp.zeros(N), k=3, tol=1e-4, start=cold.eigenvectors)
    assert int(warm.matvecs) <= 8 < int(cold.matvecs)
    q = np.linalg.eigh(matrix)[1][:, 10]
    grown = matrix + 500 * np.outer(q, q)  # a new top, orthogonal to every start vector
    found = eigsh(operator(grown), jnp.zeros(N), k=3, tol=1e-4, start=cold.eigenvectors)
    certified(grown, found, k=3, which="LA", tol=1e-4)


def test_a_start_that_is_far_off_is_dropped(x64):
    """A block of many wrong vectors takes several times the products of one vector: it costs its first pass alone."""
    n, k = 400, 6
    values = np.r_[np.linspace(0, 1, n - k), 1.2 + 0.1 * np.arange(k)]
    matrix, other = rotated(values), rotated(values, seed=5)
    cold = eigsh(operator(matrix), jnp.zeros(n), k=k, check=0)
    near, far = (np.linalg.eigh(m)[1][:, -k:].T for m in (matrix, other))
    kept = eigsh(operator(matrix), jnp.zeros(n), k=k, start=jnp.asarray(near))
    assert int(kept.matvecs) == 2 * k + 1  # two passes of the block, and its random vector once
    assert np.isnan(kept.missed)
    for start in (far, near + 0.5 * far):
        found = eigsh(operator(matrix), jnp.zeros(n), k=k, start=jnp.asarray(start))
        certified(matrix, found, k=k, which="LA", tol=1e-3)
        # the first pass, another random vector's way, which may be a few products longer, and the check, an eighth
        assert int(found.matvecs) <= (k + 1) + 1.25 * int(cold.matvecs) + 6 + int(cold.matvecs) // 8
        assert 0 <= found.missed <= 1
    again = eigsh(operator(matrix), jnp.zeros(n), k=k, start=jnp.asarray(far), check=0)
    certified(matrix, again, k=k, which="LA", tol=1e-3)
    assert np.isnan(again.missed)


def test_a_dropped_start_does_not_cost_a_copy(x64):
    """Of a multiple eigenvalue the one random vector sees one copy: the check finds the other."""
    values = np.r_[np.linspace(0, 1, 200), 2.0, 2.0, 3.0]
    matrix = rotated(values)
    start = np.linalg.eigh(rotated(values, seed=5))[1][:, -3:].T
    found = eigsh(operator(matrix), jnp.zeros(len(values)), k=3, tol=1e-8, start=jnp.asarray(start), check=200)
    np.testing.assert_allclose(found.eigenvalues, [2, 2, 3], atol=1e-7)


def test_a_long_check_of_a_warm_start_keeps_the_pairs_and_their_symmetry():
    """A check that fills the basis goes on with its last vectors: the pairs stay, and rows now gone count no more."""
    values = np.sort(np.abs(np.random.default_rng(6).standard_normal(5000)) ** 3) * 0.01
    values[-12:] = np.linspace(5, 10, 12)
    op = operator(values, np.float32, function=lambda d, v: d * v)
    cold = eigsh(op, jnp.zeros(5000, jnp.float32), k=10, which="BE", check=0, key=jax.random.key(6))
    warm = eigsh(
        op, jnp.zeros(5000, jnp.float32), k=10, which="BE", start=cold.eigenvectors, check=100, key=jax.random.key(56)
    )
    assert int(warm.matvecs) <= int(cold.matvecs) + 10 + 100  # the start's passes and one check
    assert warm.asymmetry < 30 * np.finfo(np.float32).eps * 10  # rounding, of a norm of 10


def test_k_grows_until_all_above_a_threshold_are_found(x64):
    values = np.r_[np.linspace(-1, 0.4, N - 11), np.linspace(0.6, 3, 11)]
    matrix = rotated(values)
    programs.release()  # or the bound may release some of the others meanwhile
    op = operator(matrix)
    found = eigsh_above(op, 0.5, jnp.zeros(N), k=3, tol=1e-8)
    assert len(found.eigenvalues) == 12
    # four programs each for k = 3 and 12, one of them with the product; the first three fall by 0.24 each: more than 6 lie above 0.5
    assert programs.count() <= 2 * 4
    assert (np.asarray(found.eigenvalues) > 0.5).sum() == 11
    certified(matrix, found, k=12, which="LA", tol=1e-8)
    again = eigsh_above(operator(matrix), 0.5, jnp.zeros(N), k=3, tol=1e-8, start=found.eigenvectors)
    assert len(again.eigenvalues) == 12  # k stays as it grew
    assert int(again.matvecs) < int(found.matvecs)
    assert len(eigsh_above(operator(matrix), -2.0, jnp.zeros(N), k=3, most=6).eigenvalues) == 6
    with pytest.raises(ValueError, match="k=61"):
        eigsh_above(operator(matrix), 0.0, jnp.zeros(N), k=61)


def test_no_ghost_copies_of_the_top(x64):
    """Lanczos without reorthogonalization returns the converged top again and again."""
    values = np.r_[np.linspace(0, 1, 197), 50.0, 80.0, 100.0]
    found = eigsh(operator(rotated(values)), jnp.zeros(200), k=8, tol=1e-10)
    assert (np.asarray(found.eigenvalues) > 2).sum() == 3
    np.testing.assert_allclose(found.eigenvalues[-3:], [50, 80, 100], rtol=1e-9)
    density = spectral_density(operator(rotated(values)), jnp.zeros(200), probes=2, steps=80)
    assert ((np.asarray(density.nodes) > 2).sum(axis=1) == 3).all()


def test_a_krylov_space_that_ends_gives_no_made_up_values(x64):
    """A spectrum of two values ends the Krylov space after two products; going on by dividing by rounding invents values between."""
    values = np.r_[np.ones(30), 10 * np.ones(30)]
    found = eigsh(operator(rotated(values)), jnp.zeros(60), k=33, tol=1e-8)
    np.testing.assert_allclose(found.eigenvalues, np.r_[np.ones(3), 10 * np.ones(30)], atol=1e-7)
    density = spectral_density(operator(rotated(values)), jnp.zeros(60), probes=3, steps=40)
    kept = np.asarray(density.nodes)[np.asarray(density.weights) > 0]
    assert np.minimum(np.abs(kept - 1), np.abs(kept - 10)).max() < 1e-10


@pytest.mark.parametrize("seed", range(5))
def test_rank_three_is_found_from_any_start(seed, x64):
    matrix = named("rank_three")
    found = eigsh(operator(matrix), jnp.zeros(N), k=3, tol=1e-10, key=jax.random.key(seed))
    np.testing.assert_allclose(found.eigenvalues, [5, 7, 10], rtol=1e-10)


@pytest.mark.parametrize("start", [np.zeros(N), np.full(N, np.nan), np.ones(N), np.ones((7, N))])
def test_any_start_leads_there(start, x64):
    matrix = named("indefinite")
    found = eigsh(operator(matrix), jnp.zeros(N), k=5, tol=1e-8, start=jnp.asarray(start))
    certified(matrix, found, k=5, which="LA", tol=1e-8)


def test_out_of_products_says_so(x64):
    found = eigsh(operator(named("indefinite")), jnp.zeros(N), k=5, tol=1e-10, max_matvecs=9)
    assert not found.converged
    assert int(found.matvecs) == 9
    assert "out of products" in found.message
    assert (found.residuals > 1e-10).any()
    assert np.isnan(eigsh(operator(named("indefinite")), jnp.zeros(N), k=5, max_matvecs=2).eigenvalues).any()


@pytest.mark.parametrize("n", [1, 3, 5])
def test_eigsh_above_takes_small_spaces_without_being_told_of_k(n):
    diagonal = jnp.arange(1.0, n + 1)
    found = eigsh_above(lambda v: diagonal * v, 0.1, jnp.zeros(n))
    np.testing.assert_allclose(found.eigenvalues, diagonal, rtol=1e-5)  # float32, all of a small space
    with pytest.raises(ValueError, match=rf"^k={n + 1}: expected an integer from 1 to {n}"):
        eigsh_above(lambda v: diagonal * v, 0.1, jnp.zeros(n), k=n + 1)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_product_that_is_not_finite_says_so(bad):
    found = eigsh(lambda v: v * bad, jnp.zeros(8), k=2)
    assert int(found.matvecs) == 1
    assert "not finite" in found.message
    assert np.isnan(found.eigenvalues).all()


def test_a_tolerance_below_the_floor_says_so():
    found = eigsh(operator(named("wishart_with_outliers"), np.float32), jnp.zeros(N), k=4, tol=1e-12)
    assert "below floor" in found.message
    assert 0 < found.floor < 1e-3


def test_asymmetry_is_measured_and_warned_of(x64):
    matrix = named("indefinite")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert eigsh(operator(matrix), jnp.zeros(N), k=5, tol=1e-8).asymmetry < 1e-14
    matrix[0, 1:] += 1
    with pytest.warns(RuntimeWarning, match="not symmetric"):
        eigsh(operator(matrix), jnp.zeros(N), k=5, tol=1e-8)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": 0}, "k=0"),
        ({"k": 9}, "k=9: expected an integer from 1 to 8"),
        ({"k": True}, "k=True"),
        ({"tol": -1.0}, "tol=-1.0"),
        ({"tol": float("nan")}, "tol=nan"),
        ({"basis": 3}, "basis=3"),
        ({"max_matvecs": 0}, "max_matvecs=0"),
        ({"which": "XX"}, "which='XX'"),
        ({"start": jnp.zeros(5)}, "start has the shape"),
        ({"start": {"a": jnp.zeros(8)}}, "start has the structure"),
    ],
)
def test_bad_input_is_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        eigsh(lambda v: v, jnp.zeros(8), **{"k": 2, **change})


@pytest.mark.parametrize("like", [jnp.zeros(3, int), {"w": jnp.zeros(2, complex)}, None])
def test_a_domain_without_meaning_is_refused(like):
    with pytest.raises(TypeError, match=r"dtype int|'w'.*complex|like=None"):
        eigsh(lambda v: v, like, k=1)


def test_a_product_into_another_space_is_refused():
    with pytest.raises(TypeError, match="same structure and shapes"):
        eigsh(lambda v: v[:2], jnp.zeros(4), k=1)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from([-2.0, -1.0, 0.0, 0.5, 1.0, 1.0 + 1e-6, 3.0]), min_size=12, max_size=12),
    st.floats(-5, 5),
    st.sampled_from([1.0, -1.0, 1e-6, 1e6]),
    st.integers(0, 99),
)
def test_random_spectra_shifted_and_scaled(values, shift, scale, seed):
    with jax.enable_x64(True):
        matrix = scale * (rotated(values, seed) + shift * np.eye(12))
        found = eigsh(operator(matrix), jnp.zeros(12), k=3, tol=1e-9)
        certified(matrix, found, k=3, which="LA", tol=1e-9)


THOUSANDTHS = st.integers(-3000, 3000).map(lambda number: number / 1000)  # none near the floor of the counts


@settings(max_examples=20, deadline=None, derandomize=True)
@given(st.lists(THOUSANDTHS, min_size=12, max_size=12), st.integers(0, 10**6), st.integers(0, 10**6))
def test_turning_the_space_changes_nothing_and_sums_are_the_trace_and_the_squared_norm(values, one, other):
    with jax.enable_x64(True):
        first, second = rotated(values, one), rotated(values, other)
        found = [eigsh(operator(m), jnp.zeros(12), k=12, which="BE", tol=1e-10) for m in (first, second)]
        # rounding of a 12 x 12 problem with entries up to 3
        np.testing.assert_allclose(found[0].eigenvalues, found[1].eigenvalues, atol=1e-12)
        np.testing.assert_allclose(found[0].eigenvalues, np.sort(values), atol=1e-12)
        assert float(found[0].eigenvalues.sum()) == pytest.approx(np.trace(first), abs=1e-12)
        assert float((found[0].eigenvalues ** 2).sum()) == pytest.approx(np.linalg.norm(first) ** 2, abs=1e-11)
        counts = inertia(operator(first), jnp.zeros(12), floor=1e-9)
        assert counts.positive == (np.array(values) > 1e-9).sum()
        assert counts.negative == (np.array(values) < -1e-9).sum()


@pytest.mark.parametrize("scale", [1e-30, 1e-24, 1e30])
def test_eigenvalues_whose_squares_are_beyond_the_dtype(scale):
    """Norms neither underflow to a zero operator, which would be said to be complete, nor overflow."""
    spectrum = np.r_[np.linspace(0, 0.9, N - 3), 1.0, 1.5, -2.0].astype(np.float32)
    op = jax.tree_util.Partial(jnp.multiply, jnp.asarray(scale * spectrum, jnp.float32))
    like = jnp.zeros(N, jnp.float32)
    found = eigsh(op, like, k=3, which="LM", tol=1e-5)
    errors = np.abs(np.asarray(found.eigenvalues, np.float64) / scale - [-2, 1, 1.5])
    assert found.converged
    assert errors.max() < 1e-4  # 5 times tol·‖A‖
    assert (np.asarray(found.residuals) > 0).all()
    nodes = np.asarray(spectral_density(op, like, probes=2, steps=30).nodes, np.float64) / scale
    np.testing.assert_allclose([nodes.min(), nodes.max()], [-2, 1.5], atol=1e-4)  # outliers converge within 30 steps


def test_a_threshold_that_is_no_number_is_refused():
    with pytest.raises(ValueError, match="threshold=nan: expected a number"):
        eigsh_above(jax.tree_util.Partial(jnp.multiply, jnp.ones(3)), float("nan"), jnp.zeros(3), k=1)


def test_a_key_may_be_an_integer():
    op = jax.tree_util.Partial(jnp.multiply, jnp.arange(1.0, 9.0))
    one, other = (eigsh(op, jnp.zeros(8), k=1, key=key).eigenvectors for key in (3, jax.random.key(3)))
    np.testing.assert_array_equal(one, other)
    for key in (True, "a", 0.5):
        with pytest.raises(TypeError, match=r"expected a key of jax\.random\.key, or an integer"):
            eigsh(op, jnp.zeros(8), k=1, key=key)
