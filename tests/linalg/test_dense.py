"""Dense eigenpairs against LAPACK, and what is not computed twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import curvexp
from curvexp import optim, preprocess, probe
from curvexp.linalg import dense
from curvexp.problem import quadratic


@pytest.fixture
def counted(monkeypatch):
    """The sizes of the matrices that LAPACK was given; nothing is kept from before."""
    sizes, lapack = [], np.linalg.eigh
    monkeypatch.setattr(dense, "_kept", dense._Kept())
    monkeypatch.setattr(np.linalg, "eigh", lambda matrix: sizes.append(len(matrix)) or lapack(matrix))
    return sizes


def symmetric(n, seed=0):
    matrix = np.random.default_rng(seed).standard_normal((n, n))
    return matrix + matrix.T


def test_a_matrix_of_the_same_bits_is_decomposed_once_and_exactly(counted):
    matrix = symmetric(30)
    first, again = dense.dense_eigh(matrix), dense.dense_eigh(matrix.copy())
    assert counted == [30]
    for values, basis, residuals in (first, again):
        eps = 30 * np.finfo(float).eps * np.abs(values).max()  # n·eps·‖A‖, of LAPACK's backward error
        np.testing.assert_allclose(basis @ np.diag(values) @ basis.T, matrix, atol=eps)
        np.testing.assert_allclose(residuals, 0, atol=eps)
    with pytest.raises(ValueError, match="read-only"):
        first.values[0] = 0


def test_one_bit_or_another_precision_is_another_matrix(counted):
    matrix = symmetric(5)
    other = matrix.copy()
    other[2, 2] = np.nextafter(other[2, 2], np.inf)
    for given in (matrix, other, matrix.astype(np.float32), np.zeros((5, 5)), np.zeros((5, 5), np.float32)):
        values = dense.dense_eigh(given).values
        np.testing.assert_allclose(values, np.linalg.eigvalsh(given.astype(float)), atol=1e-14)  # some n·eps·‖A‖
    assert counted == [5] * 5


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(counted, monkeypatch):
    monkeypatch.setattr(dense, "KEPT", 3 * 8 * 10**2)
    for seed in (0, 1, 2, 3, 0):
        dense.dense_eigh(symmetric(10, seed))
        assert dense._kept.bytes() <= dense.KEPT
    assert len(counted) == 5
    dense.dense_eigh(symmetric(10, 3))
    assert len(counted) == 5
    dense.dense_eigh(symmetric(20))  # too large to be kept, and nothing is beside it
    dense.dense_eigh(symmetric(20))
    assert len(counted) == 7


@pytest.mark.parametrize("rule", [probe.exact(every=2), probe.top(k=2, every=2)], ids=["exact", "top"])
def test_the_constant_hessian_of_a_quadratic_is_decomposed_once_whatever_the_run(counted, rule):
    problem = quadratic(preprocess=preprocess.raw(), dtype=jnp.float32, dimension=20, condition_number=50.0)
    for seed, lr in ((0, 0.01), (1, 0.02)):
        records = list(curvexp.run(problem, optim.sgd(lr=lr), rule, steps=10, key=jax.random.key(seed)))
        assert sum(record.reading is not None for record in records) == 6
    assert counted == [20]
