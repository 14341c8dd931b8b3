"""Planes of the loss against the closed form of a quadratic; densities and planes read back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from curvexp import landscape
from curvexp.curvature import Objective
from curvexp.errors import ConfigError
from curvexp.store import load_densities, load_planes

from .report.conftest import write_run

pytestmark = pytest.mark.usefixtures("x64")
VALUES = np.array([1.0, 10.0, 4.0, -2.0])


def half_square(params, values):
    flat = jnp.concatenate([params["kernel"].ravel(), params["bias"]])
    return 1.0 + 0.5 * jnp.sum(values * flat**2)


def flat_square(x, matrix):
    return 0.5 * x @ matrix @ x


def test_of_two_parameters_the_plane_is_the_loss_itself():
    turn = np.array([[0.8, -0.6], [0.6, 0.8]])
    matrix = turn @ np.diag([1.0, 9.0]) @ turn.T
    path = np.array([[2.0, 1.0], [1.0, 0.5], [0.3, 0.1]])
    objective = Objective(jax.tree_util.Partial(flat_square), jnp.asarray(matrix))
    found = landscape.parameter_plane(objective, jnp.zeros(2), path, [0, 10, 20], np.zeros(2))
    x, y = np.meshgrid(found["x"], found["y"])
    points = np.stack([x, y], axis=-1)
    np.testing.assert_allclose(found["loss"], 0.5 * np.einsum("yxi,ij,yxj->yx", points, matrix, points), rtol=1e-12)
    np.testing.assert_allclose(found["eigenvalues"], [1.0, 9.0], rtol=1e-12)
    np.testing.assert_allclose(np.abs(found["eigenvectors"]), np.abs(turn), rtol=1e-12)
    for axis, seen in enumerate((found["x"], found["y"])):  # the window shows all of the path, and the minimum
        assert seen[0] <= min(path[:, axis].min(), 0.0)
        assert seen[-1] >= max(path[:, axis].max(), 0.0)


@pytest.fixture
def around():
    params = {"kernel": jnp.array([[3.0], [0.5]]), "bias": jnp.array([1.0, 2.0])}
    objective = Objective(jax.tree_util.Partial(half_square), jnp.asarray(VALUES))
    return params, objective, landscape.around(objective, params, step=7, key=jax.random.key(0))


def test_along_the_leading_eigenvectors_the_plane_is_their_parabola(around):
    params, objective, (eigen, _) = around
    np.testing.assert_allclose(eigen["eigenvalues"], [10.0, 4.0], rtol=1e-4)  # the largest two
    x, y = np.meshgrid(eigen["x"], eigen["y"])
    middle = float(objective(params))
    # along v, θ'v = ±θ_i of the eigenvector's axis: the sign is the solver's
    slopes = [10.0 * 0.5, 4.0 * 1.0]
    for signs in np.array(np.meshgrid([-1, 1], [-1, 1])).reshape(2, -1).T:
        expected = middle + signs[0] * slopes[0] * x + signs[1] * slopes[1] * y + 5.0 * x**2 + 2.0 * y**2
        if np.abs(eigen["loss"] - expected).max() < 1e-2 * np.abs(expected).max():  # eigenvectors to the solver's 1e-2
            return
    raise AssertionError("no choice of signs gives the plane")


def test_a_random_direction_has_the_norm_of_every_filter(around):
    params, _, (_, random) = around
    drawn = landscape.filter_normalized(params, jax.random.key(3))
    np.testing.assert_allclose(jnp.linalg.norm(drawn["kernel"], axis=0), jnp.linalg.norm(params["kernel"], axis=0))
    assert not np.asarray(drawn["bias"]).any()
    assert (random["x"][0], random["x"][-1]) == (-1.0, 1.0)


def test_densities_and_planes_are_read_back(tmp_path):
    write_run(tmp_path / "dense", density=True, records=2)
    write_run(tmp_path / "plain")
    plane = {"name": "parameters", "axes": ["a", "b"], "x": [0, 1, 2], "y": [0, 1], "loss": [[0, 1, 4], [1, 2, 5]]}
    plane |= {"path": [[0, 1]], "path_steps": [3], "eigenvalues": [1, 2], "eigenvectors": [[1, 0], [0, 1]]}
    (tmp_path / "dense" / "landscape.json").write_text(json.dumps({"planes": [plane]}))
    (tmp_path / "plain" / "landscape.json").write_text(json.dumps({"planes": [{**plane, "loss": [[0, 1]]}]}))
    found = load_densities(tmp_path)
    assert list(found.columns) == ["run", "step", "x", "density", "stderr", "operator"]
    assert (set(found["run"]), set(found["step"]), len(found)) == ({"dense"}, {0, 10}, 100)
    assert np.trapezoid(found["density"][:50], found["x"][:50]) == pytest.approx(1, abs=1e-12)
    (read,) = load_planes(tmp_path)  # that whose grid does not fit its axes is none
    assert (read["run"], read["name"], read["loss"].tolist()) == ("dense", "parameters", [[0, 1, 4], [1, 2, 5]])
    for load in (load_densities, load_planes):
        with pytest.raises(ConfigError, match="no such folder"):
            load(tmp_path / "none")


def test_a_landscape_that_is_damaged_is_passed_over(tmp_path):
    for name, text in {"torn": "{", "list": "[]", "deep": "[" * 100_000}.items():
        write_run(tmp_path / name)
        (tmp_path / name / "landscape.json").write_text(text)
    assert load_planes(tmp_path) == []
