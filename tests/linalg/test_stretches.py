"""eigsh as it goes on an accelerator: stretches of known length, decided on the host. The same on a CPU, where every test can have it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from curvexp.linalg import eigenpairs, eigsh, krylov
from curvexp.linalg.krylov_decision import first_state
from curvexp.linalg.krylov_state import Limits, Wanted
from curvexp.linalg.krylov_stretch import stretch
from curvexp.linalg.layout import Layout

N, STRETCH = 120, 8


@pytest.fixture(autouse=True)
def on_accelerator(monkeypatch):
    """The path of an accelerator."""
    monkeypatch.setattr(eigenpairs, "waits_for_host", lambda tree: True)


def times(matrix, v):
    return matrix @ v


def rotated(values, seed=0):
    q, _ = np.linalg.qr(np.random.default_rng(seed).standard_normal((len(values),) * 2))
    matrix = (q * np.asarray(values)) @ q.T
    return (matrix + matrix.T) / 2


SPECTRA = {
    "indefinite": np.linspace(-1, 1, N),
    "degenerate": np.r_[np.linspace(0, 0.5, N - 6), np.ones(6)],
    "rank_three": np.r_[np.zeros(N - 3), 5.0, 7.0, 10.0],
    "two_values": np.r_[np.ones(N // 2), 10 * np.ones(N // 2)],
    "zero": np.zeros(N),
    "outliers": np.r_[np.linspace(0, 1, N - 5), 2.0, 3.0, 4.0, 5.0, 6.0],
    "tiny": 1e-12 * np.linspace(-1, 1, N),
}


@pytest.mark.parametrize("which", ["LA", "BE"])
def test_all_kinds_of_spectra_have_their_certificate(which):
    k, tol, eps = 4, 1e-4, np.finfo(np.float32).eps
    for name, values in SPECTRA.items():
        matrix = rotated(values).astype(np.float32)
        exact = scipy.linalg.eigh(matrix.astype(np.float64), eigvals_only=True)
        found = eigsh(jax.tree_util.Partial(times, jnp.asarray(matrix)), jnp.zeros(N), k=k, which=which, tol=tol)
        norm = np.abs(exact).max()
        low = k // 2 if which == "BE" else 0
        assert found.converged, (name, found.message)
        assert found.missed < 2e-3, name
        wanted = np.r_[exact[:low], exact[len(exact) - (k - low) :]]
        np.testing.assert_allclose(found.eigenvalues, wanted, atol=2 * tol * norm + 1e-30, err_msg=name)
        vectors = np.asarray(found.eigenvectors, np.float64)
        assert np.abs(vectors @ vectors.T - np.eye(k)).max() < 100 * eps, name
        true = np.linalg.norm(vectors @ matrix - np.asarray(found.eigenvalues)[:, None] * vectors, axis=1)
        assert (true <= found.residuals + 30 * eps * norm).all(), name  # rounding of products with 120 terms


def test_a_solution_takes_few_looks_and_few_products_more(monkeypatch):
    """The host reads one array a look; what is made beyond the look that ends it is a stretch at most."""
    looks = []

    def decide(*args):
        looks.append(args)
        return decided(*args)

    decided = krylov.decide
    monkeypatch.setattr(krylov, "decide", decide)
    op, like = jax.tree_util.Partial(times, jnp.asarray(rotated(SPECTRA["outliers"]), jnp.float32)), jnp.zeros(N)
    found = eigsh(op, like, k=5, check=0)
    assert 1 <= len(looks) <= 2
    looks.clear()
    warm = eigsh(op, like, k=5, start=found)
    assert len(looks) == 1
    assert int(warm.matvecs) == 2 * 5 + 1  # two passes of the block, and its random vector once
    monkeypatch.setattr(eigenpairs, "waits_for_host", lambda tree: False)
    fewest = eigsh(op, like, k=5, check=0)
    first = 2 * 5 + 8  # products before the first look
    assert int(fewest.matvecs) <= int(found.matvecs) <= max(int(fewest.matvecs), first) + STRETCH
    np.testing.assert_allclose(found.eigenvalues, fewest.eigenvalues, rtol=1e-4)


def test_bounds_are_kept():
    op, like = jax.tree_util.Partial(times, jnp.asarray(rotated(SPECTRA["indefinite"]), jnp.float32)), jnp.zeros(N)
    found = eigsh(op, like, k=5, tol=1e-6, max_matvecs=9)
    assert int(found.matvecs) == 9
    assert "out of products" in found.message
    checked = eigsh(op, like, k=2, check=5)
    unchecked = eigsh(op, like, k=2, check=0)
    assert int(checked.matvecs) <= int(unchecked.matvecs) + 5
    nothing = eigsh(lambda v: v * np.nan, jnp.zeros(8), k=2)
    assert int(nothing.matvecs) == 1
    assert "not finite" in nothing.message


def test_what_cannot_be_linearized_is_multiplied_as_it_is():
    values = np.linspace(1, 3, 50, dtype=np.float32)

    def product(v):
        shape = jax.ShapeDtypeStruct((50,), np.float32)
        return jax.pure_callback(lambda x: np.asarray(x) * values, shape, v, vmap_method="sequential")

    found = eigsh(product, jnp.zeros(50), k=2)
    np.testing.assert_allclose(found.eigenvalues, values[-2:], rtol=1e-3)


def test_a_stretch_has_no_branch_and_no_loop_of_unknown_length():
    """For either an accelerator waits for the host."""
    k, size = 3, 20
    wanted = Wanted(k, "LA", size, STRETCH, Layout(N), known=True)
    limits = Limits(*np.float32([1e-3]), *np.int32([500, 0, 0]))
    tally = first_state(0, limits, wanted, np.float32, np).tally
    program = jax.jit(functools.partial(stretch, lambda v: 2 * v, wanted)).lower(
        jnp.zeros((size, N)), tally, np.int32(8)
    )
    text = program.compile().as_text()
    loops = re.findall(r"= .* while\(.*", text)
    assert loops
    assert all("known_trip_count" in loop for loop in loops), loops
    assert " conditional(" not in text
    unknown = jax.jit(functools.partial(stretch, lambda v: 2 * v, wanted._replace(known=False)))
    other = unknown.lower(jnp.zeros((size, N)), tally, np.int32(8)).compile().as_text()
    assert any(
        "known_trip_count" not in loop for loop in re.findall(r"= .* while\(.*", other)
    )  # the text tells them apart
