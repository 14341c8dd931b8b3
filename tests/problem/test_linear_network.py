"""The two-layer linear network: its Hessian's closed form, and the catapult that it is made for."""

import jax
import numpy as np
import pytest

import curvexp
from curvexp import optim, preprocess, training
from curvexp.errors import ConfigError, Unsupported
from curvexp.problem import two_layers
from curvexp.problem.linear_network import two_layers_curvature, two_layers_eigenvalues
from curvexp.testing import check_problem


@pytest.mark.usefixtures("x64")
def test_it_keeps_the_contract_of_a_problem():
    check_problem(two_layers(dtype="float64", width=5))


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("seed", range(3))
def test_the_eigenvalues_are_those_of_the_dense_hessian(seed):
    problem = two_layers(dtype="float64", width=6)
    params = problem.init(jax.random.key(seed))
    dense = np.asarray(curvexp.hessian(problem.loss, params, problem.data).dense())
    exact = np.linalg.eigvalsh(dense)
    assert two_layers_eigenvalues(params) == pytest.approx(exact, abs=1e-13 * exact[-1])  # LAPACK's n·eps·λmax


@pytest.mark.usefixtures("x64")
def test_where_f_is_zero_the_curvature_is_the_largest_eigenvalue():
    params = {"u": np.array([1.0, 2.0]), "v": np.array([2.0, -1.0])}
    assert two_layers_curvature(params) == 5.0
    assert two_layers_eigenvalues(params).tolist() == [0.0, 0.0, 0.0, 5.0]


def test_between_two_and_four_it_climbs_and_comes_to_rest_where_it_is_flatter():
    problem, read = two_layers(width=200), curvexp.probe.top(k=1, which="LA", every=400)
    given = {"steps": 400, "record_every": 1, "diverge_at": float("inf")}
    records = list(training.run(problem, optim.sgd(fraction=1.5), read, key=0, **given))  # lr·λ = 3 at the start
    losses = [record.scalars["loss"] for record in records]
    first, last = records[0].scalars, records[-1].scalars
    assert first["lr"] * first["sharpness"] == pytest.approx(3, rel=0.02)  # λ to 1 %, as lr=auto measures it
    assert max(losses) > 10 * losses[0]
    assert losses[-1] < 1e-6 * losses[0]
    assert last["lr"] * last["sharpness"] < 2


@pytest.mark.parametrize("width", [1, 2.5, "wide"])
def test_a_wrong_width_is_refused(width):
    with pytest.raises(ConfigError, match=r"problem\.width"):
        two_layers(width=width)


def test_a_preprocessing_is_refused():
    with pytest.raises(Unsupported, match="preprocess=normalized"):
        two_layers(preprocess=preprocess.normalized())
