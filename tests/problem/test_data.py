"""Data: sizes and splits as they are documented, chosen statistics met, and bad data refused by name."""

import math
import socket
import urllib.error

import numpy as np
import pandas as pd
import pytest

from curvexp.errors import ConfigError
from curvexp.problem.data import Dataset, breast_cancer, checked, diabetes, digits, gaussian, openml, split, wine


@pytest.mark.parametrize(
    "builder, total, features, classes",
    [(digits, 1797, 64, 10), (breast_cancer, 569, 30, 2), (wine, 178, 13, 3), (diabetes, 442, 10, None)],
)
def test_data_sets_have_their_sizes_and_a_seeded_split(builder, total, features, classes) -> None:
    data = builder(test_fraction=0.25, seed=0)
    assert data.name == builder.__name__
    assert data.inputs.shape[1] == features
    assert len(data.inputs) + len(data.test_inputs) == total
    assert len(data.test_inputs) == math.ceil(0.25 * total)
    assert data.classes == classes
    assert data.inputs.dtype == np.float64
    assert np.array_equal(builder(test_fraction=0.25, seed=0).inputs, data.inputs)
    assert not np.array_equal(builder(test_fraction=0.25, seed=1).inputs, data.inputs)
    if classes:
        share = np.bincount(data.targets) / len(data.targets), np.bincount(data.test_targets) / len(data.test_targets)
        assert np.abs(share[0] - share[1]).max() < 2 / len(data.test_targets)  # stratified, to one example
    assert builder(test_fraction=0).test_inputs is None


@pytest.mark.parametrize("builder", [digits, breast_cancer, wine, diabetes])
def test_data_sets_are_scikit_learns(builder) -> None:
    import sklearn.datasets

    loader = getattr(sklearn.datasets, f"load_{builder.__name__}")
    truth = loader(**({"scaled": False} if builder is diabetes else {}))
    data = builder(test_fraction=0)
    assert np.array_equal(data.inputs, truth.data)
    assert np.array_equal(data.targets.ravel(), truth.target)


def test_the_parts_of_a_split_make_up_the_whole() -> None:
    inputs = np.arange(50.0)[:, None]
    parts = split("mine", inputs, inputs[:, 0] % 7, test_fraction=0.3, seed=5)
    assert sorted([*parts.inputs[:, 0], *parts.test_inputs[:, 0]]) == list(range(50))
    assert np.array_equal(parts.targets, parts.inputs % 7)
    assert np.array_equal(parts.test_targets, parts.test_inputs % 7)


def test_diabetes_is_in_its_own_units() -> None:
    assert diabetes().inputs[:, 0].max() > 50  # years, not unit vectors


def test_gaussian_has_the_mean_and_covariance_that_were_chosen() -> None:
    data = gaussian(samples=200_000, features=4, mean=3.0, condition_number=1e4, variance=2.0)
    assert len(data.inputs) == 200_000
    assert len(data.test_inputs) == 50_000
    # standard errors at P = 200 000: of a mean √(2/P) = 0.003, of a variance √(2/P) relative; five of each
    assert np.abs(data.inputs.mean(axis=0) - 3).max() < 0.016
    assert np.allclose(data.inputs.var(axis=0), np.geomspace(2e-4, 2, 4), rtol=0.016)
    rotated = gaussian(samples=200_000, features=4, mean=0.0, condition_number=1e4, variance=2.0, rotated=True)
    eigenvalues = np.linalg.eigvalsh(np.cov(rotated.inputs.T))
    assert np.allclose(eigenvalues, np.geomspace(2e-4, 2, 4), rtol=0.016)
    assert np.ptp(np.log(rotated.inputs.var(axis=0))) < np.log(1e4) / 2  # no longer along the axes


def test_gaussian_targets_are_linear_with_the_chosen_noise() -> None:
    data = gaussian(samples=5000, features=10, noise=0.5, mean=2.0)
    residual = data.targets - data.inputs @ np.linalg.lstsq(data.inputs, data.targets, rcond=None)[0]
    assert np.isclose(residual.std(), 0.5, rtol=5 / math.sqrt(2 * 5000))  # five standard errors of a deviation
    assert np.allclose(
        gaussian(noise=0.0).inputs @ np.linalg.lstsq(gaussian(noise=0.0).inputs, gaussian(noise=0.0).targets)[0],
        gaussian(noise=0.0).targets,
    )


def test_gaussian_classes_are_all_there_and_learnable() -> None:
    data = gaussian(classes=3, noise=0.0, condition_number=1.0)
    assert set(data.targets) == {0, 1, 2}
    onehot = np.eye(3)[data.targets]
    design = np.c_[data.inputs, np.ones(len(data.inputs))]
    scores = design @ np.linalg.lstsq(design, onehot, rcond=None)[0]
    assert (scores.argmax(axis=1) == data.targets).mean() > 0.9


@pytest.mark.parametrize(
    "options, key",
    [
        ({"samples": 0}, "samples"),
        ({"samples": -5}, "samples"),
        ({"features": 0}, "features"),
        ({"features": 1}, "condition_number"),
        ({"mean": math.inf}, "mean"),
        ({"condition_number": 0.1}, "condition_number"),
        ({"variance": 0.0}, "variance"),
        ({"noise": -1.0}, "noise"),
        ({"classes": 1}, "classes"),
        ({"test_fraction": 1.0}, "test_fraction"),
        ({"test_fraction": -0.1}, "test_fraction"),
        ({"seed": -1}, "seed"),
        ({"seed": 0.5}, "seed"),
    ],
)
def test_bad_options_of_gaussian_name_their_key(options, key) -> None:
    with pytest.raises(ConfigError, match=rf"problem\.data\.{key}"):
        gaussian(**options)


def test_a_split_that_leaves_a_class_out_names_its_key() -> None:
    with pytest.raises(ConfigError, match=r"problem\.data\.test_fraction"):
        wine(test_fraction=0.001)


GOOD = Dataset("mine", np.arange(12.0).reshape(6, 2), np.arange(6) % 2, None, None, 2)
NAN = np.where(GOOD.inputs == 3, np.nan, GOOD.inputs)


@pytest.mark.parametrize(
    "change, said",
    [
        ({"inputs": NAN}, "1 of 12 inputs are NaN"),
        ({"inputs": np.where(GOOD.inputs == 3, np.inf, GOOD.inputs)}, "1 of 12 inputs are NaN, infinite"),
        ({"inputs": GOOD.inputs * 1e101}, "beyond 1e"),
        ({"inputs": np.ones((6, 2))}, "every column of the inputs is constant"),
        ({"targets": np.zeros(6, int)}, "targets are constant"),
        ({"targets": np.arange(6)}, "integers from 0 to 1"),
        ({"targets": np.arange(6) % 2 * 1.0}, "integers from 0 to 1"),
        ({"targets": np.arange(5) % 2}, "expected .* P targets"),
        ({"targets": np.array(list("ababab"))}, "expected numbers"),
        ({"inputs": np.zeros((0, 2)), "targets": np.zeros(0, int)}, "shape"),
        ({"inputs": np.zeros((6, 0))}, "shape"),
        ({"inputs": np.arange(6.0)}, "shape"),
        ({"classes": None}, r"expected \(P, C\)"),
        ({"classes": None, "targets": np.full((6, 1), np.nan)}, "targets are NaN"),
        ({"test_inputs": NAN, "test_targets": GOOD.targets}, "test inputs are NaN"),
        ({"test_inputs": GOOD.inputs[:, :1], "test_targets": GOOD.targets}, "test inputs have 1 columns"),
        ({"test_inputs": GOOD.inputs}, "test"),
    ],
)
def test_data_that_cannot_be_learnt_from_is_refused_by_name(change, said) -> None:
    assert checked(GOOD) is GOOD
    with pytest.raises(ConfigError, match=rf"problem\.data=mine.*{said}"):
        checked(GOOD._replace(**change))


def test_what_is_no_dataset_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"problem\.data=.*expected a curvexp\.problem\.data\.Dataset"):
        checked([[1, 2]])  # type: ignore[arg-type]


def test_regression_targets_may_be_one_column_or_several() -> None:
    inputs = np.random.default_rng(0).standard_normal((10, 2))
    assert split("mine", inputs, inputs[:, 0]).targets.shape == (8, 1)
    assert split("mine", inputs, inputs).targets.shape == (8, 2)


# ---- OpenML, with the network replaced ------------------------------------------------------------------------------------------


def answer(monkeypatch, **columns):
    """fetch_openml returns these columns; the one named `target` is the target."""
    import sklearn.datasets
    from sklearn.utils import Bunch

    table = pd.DataFrame(columns)
    fetched = Bunch(data=table.drop(columns="target"), target=table["target"])
    seen = {}

    def fetch(name, **options):
        seen.update(options, name=name, timeout=socket.getdefaulttimeout())
        return fetched

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    return seen


def test_openml_gives_classes_for_text_targets_and_regression_for_numbers(monkeypatch) -> None:
    seen = answer(monkeypatch, a=np.arange(10.0), b=np.arange(10) % 3, target=list("xyxyxyxyxy"))
    data = openml(name="toy", version=3, timeout=7)
    assert (seen["name"], seen["version"], seen["timeout"]) == ("toy", 3, 7)
    assert socket.getdefaulttimeout() is None
    assert data.classes == 2
    assert data.inputs.shape == (8, 2)
    answer(monkeypatch, a=np.arange(10.0), target=np.arange(10.0))
    assert openml(name="toy").classes is None
    assert openml(name="toy", samples=5).inputs.shape == (4, 1)
    assert openml(name="toy", regression=False, test_fraction=0).classes == 10


def test_openml_refuses_text_columns_and_missing_values(monkeypatch) -> None:
    answer(monkeypatch, a=list("pqpq"), target=list("xyxy"))
    with pytest.raises(ConfigError, match=r"problem\.data\.name=toy.*columns a are not numeric"):
        openml(name="toy")
    answer(monkeypatch, a=[1.0, None, 2.0, 3.0], target=list("xyxy"))
    with pytest.raises(ConfigError, match=r"problem\.data=openml.*1 of 4 inputs are NaN"):
        openml(name="toy")
    answer(monkeypatch, a=[1.0, 4.0, 2.0, 3.0], target=list("xyxy"))
    with pytest.raises(ConfigError, match=r"problem\.data\.regression"):
        openml(name="toy", regression=True)


@pytest.mark.parametrize(
    "failure, said",
    [
        (urllib.error.URLError("no route"), "could not be read.*no route.*problem/data=digits"),
        (TimeoutError("timed out"), "could not be read.*timed out"),
        (ValueError("No active dataset toy found."), "No active dataset toy"),
    ],
)
def test_openml_without_network_or_data_set_says_so(monkeypatch, failure, said) -> None:
    import sklearn.datasets

    def fetch(*args, **options):
        raise failure

    monkeypatch.setattr(sklearn.datasets, "fetch_openml", fetch)
    with pytest.raises(ConfigError, match=said):
        openml(name="toy")
    assert socket.getdefaulttimeout() is None


def test_openml_gives_up_on_a_network_that_never_answers(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as silent:  # connects, as its backlog does, and never answers
        address = (socket.AF_INET, socket.SOCK_STREAM, 6, "", silent.getsockname())
        monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: [address])
        with pytest.raises(ConfigError, match=r"problem/data=openml.*could not be read.*timed out"):
            openml(name="toy", timeout=0.1)


def test_openml_without_a_name_server_says_so(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("SCIKIT_LEARN_DATA", str(tmp_path))

    def nobody(*args, **options):
        raise socket.gaierror(-3, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", nobody)
    with pytest.raises(ConfigError, match=r"problem/data=openml.*Temporary failure in name resolution"):
        openml(name="toy")
