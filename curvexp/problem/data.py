"""Data sets: numbers in memory, split into training and test examples by a seed of their own.

A data set of your own is any function that returns a Dataset, named by `_target_` in a YAML file under problem/data.
"""

import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Real, Shaped
from numpy.typing import ArrayLike

from curvexp import memory
from curvexp.errors import ConfigError
from curvexp.problem import checks

LARGEST = 1e100  # squares of larger numbers overflow


class Dataset(NamedTuple):
    """Training and test examples.

    Attributes:
        name: the option's name.
        inputs: numbers, (P, N); for a model of your own (`from_flax` and its like) of any shape after P, such as images (P, H, W, C).
        targets: integers 0 .. classes−1, (P,), or for regression numbers (P, C).
        test_inputs, test_targets: likewise, or both None.
        classes: their number; None for regression.
    """

    name: str
    inputs: Real[np.ndarray, "P ..."]
    targets: Shaped[np.ndarray, "P ..."]
    test_inputs: Real[np.ndarray, "tests ..."] | None = None
    test_targets: Shaped[np.ndarray, "tests ..."] | None = None
    classes: int | None = None


def digits(*, classes: int = 10, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """1797 handwritten digits of 8x8 pixels, 10 classes (UCI, Alpaydin, Kaynak 1998), about 180 examples of each.

    Args:
        classes: the digits 0 to classes − 1 alone, at least 2.
    """
    table = _shipped("digits.csv.gz", delimiter=",")
    kept = table[table[:, -1] < checks.whole("problem.data.classes", classes, least=2, most=10)]
    return _classes("digits", kept, test_fraction, seed)


def breast_cancer(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """569 tumours of 30 features on very different scales, 2 classes (UCI, Wolberg et al. 1995)."""
    return _classes("breast_cancer", _shipped("breast_cancer.csv", delimiter=",", skiprows=1), test_fraction, seed)


def wine(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """178 wines of 13 chemical features, 3 classes (UCI, Aeberhard, Forina 1991)."""
    return _classes("wine", _shipped("wine_data.csv", delimiter=",", skiprows=1), test_fraction, seed)


def diabetes(*, test_fraction: float = 0.2, seed: int = 0) -> Dataset:
    """442 patients of 10 measurements in their own units, regression on the progression after a year (Efron et al. 2004)."""
    inputs, targets = _shipped("diabetes_data_raw.csv.gz"), _shipped("diabetes_target.csv.gz")
    return split("diabetes", inputs, targets, test_fraction=test_fraction, seed=seed)


def chebyshev(*, degree: int = 5, points: int = 20, test_fraction: float = 0.0, seed: int = 0) -> Dataset:
    """Regression on the Chebyshev polynomial of a degree at equidistant points of [−1, 1].

    A small network learns it slowly enough to sharpen up to the edge of stability (Cohen et al. 2021, app. A).
    """
    degree = checks.whole("problem.data.degree", degree)
    x = np.linspace(-1, 1, checks.whole("problem.data.points", points, least=2))
    y = np.polynomial.chebyshev.Chebyshev.basis(degree)(x)
    return split("chebyshev", x[:, None], y[:, None], test_fraction=test_fraction, seed=seed)


def gaussian(
    *,
    samples: int = 1000,
    features: int = 20,
    mean: float = 1.0,
    condition_number: float = 100.0,
    variance: float = 1.0,
    noise: float = 0.1,
    classes: int | None = None,
    rotated: bool = False,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """Gaussian inputs with a chosen mean and covariance: the ill-conditioning of the textbooks.

    Regression on y = x'w + noise·e with w, e standard normal; or the largest of `classes` such scores of the centred inputs.

    Args:
        samples: P training examples; test examples come on top, so that they are `test_fraction` of all.
        features: N.
        mean: of every input.
        condition_number: of the covariance, whose eigenvalues go geometrically from variance/condition_number to variance.
        variance: the largest eigenvalue of the covariance.
        noise: standard deviation of the noise on the targets (for classes: on their scores).
        classes: null: regression.
        rotated: the covariance's eigenvectors are a random orthonormal basis, which normalizing cannot undo, instead of the axes.

    Source: LeCun, Kanter, Solla 1991 (Eigenvalues of covariance matrices: application to neural-network learning).
    """
    key = "problem.data."
    samples, features = checks.whole(key + "samples", samples, least=2), checks.whole(key + "features", features)
    mean = checks.number(key + "mean", mean)
    condition_number = checks.number(key + "condition_number", condition_number, least=1)
    variance, noise = checks.number(key + "variance", variance, above=0), checks.number(key + "noise", noise, least=0)
    test_fraction = _fraction(test_fraction)
    if features == 1 and condition_number != 1:
        raise ConfigError(
            f"{key}condition_number={condition_number:g}: one feature has condition number 1. Change {key}condition_number "
            f"or {key}features."
        )
    random = np.random.default_rng(_seed(seed))
    classes = None if classes is None else checks.whole(key + "classes", classes, least=2)
    total = samples + round(samples * test_fraction / (1 - test_fraction))
    _check_memory(total, samples, features, classes, rotated=rotated)
    deviations = np.sqrt(np.geomspace(variance / condition_number, variance, features))
    centred = random.standard_normal((total, features)) * deviations
    if rotated:
        q, r = np.linalg.qr(random.standard_normal((features, features)))
        centred = centred @ (q * np.sign(np.diagonal(r))).T
    inputs = centred + mean
    if classes is None:
        weights = random.standard_normal((features, 1))
        targets = inputs @ weights + noise * random.standard_normal((total, 1))
    else:
        weights = random.standard_normal((features, classes))
        targets = (centred @ weights + noise * random.standard_normal((total, classes))).argmax(axis=1)
    train, test = slice(samples), slice(samples, None)
    has_test = total > samples
    return checked(
        Dataset(
            "gaussian",
            inputs[train],
            targets[train],
            inputs[test] if has_test else None,
            targets[test] if has_test else None,
            classes,
        )
    )


def _check_memory(total: int, samples: int, features: int, classes: int | None, *, rotated: bool) -> None:
    """Refuses what the memory has no place for by the number that is the cause: each array is held some times on its way."""
    inputs, scores = 5 * 8 * total * features, 3 * 8 * (total + features) * (classes or 1)
    basis = 3 * 8 * features**2 if rotated else 0
    _, name, value = max(
        (inputs, *max(("samples", samples), ("features", features), key=lambda pair: pair[1])),
        (scores, "classes", classes or 1),
        (basis, "features", features),
    )
    what = f"{total} examples of {features} features" + (f" in {classes} classes" if classes else "")
    name = f"problem.data.{name}"
    memory.check(name, value, what, inputs + scores + basis, f"Lower {name}.", on_host=True)


def openml(
    *,
    name: str,
    version: int | str = 1,
    target: str | None = None,
    regression: bool | None = None,
    samples: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
    timeout: float = 10.0,
) -> Dataset:
    """A data set of openml.org by its name, kept on disk by scikit-learn after the first time.

    Args:
        name, version: as OpenML lists them; version may be active.
        target: the column to predict; null: OpenML's default target.
        regression: null: where the target is numeric.
        samples: at most so many examples, drawn by `seed`; null: all.
        timeout: seconds without an answer after which a request counts as failed; each is tried up to four times.

    Raises:
        ConfigError: no network, no such data set, inputs that are not numeric or have missing values.
    """
    from sklearn.datasets import fetch_openml

    timeout = checks.number("problem.data.timeout", timeout, above=0)
    try:
        with _network_timeout(timeout):
            found = fetch_openml(
                name,
                version=version,
                target_column=target or "default-target",
                as_frame=True,
                n_retries=1,  # the fewest that it takes
                delay=0.01,
                parser="auto",
            )
    except OSError as error:  # URLError, HTTPError and timeouts are OSErrors
        raise ConfigError(
            f"problem/data=openml, problem.data.name={name}: openml.org could not be read ({error}). Check the network, or "
            "choose data that ships: problem/data=digits, breast_cancer, wine, diabetes, gaussian."
        ) from error
    except (ValueError, KeyError, ImportError) as error:
        raise ConfigError(
            f"problem.data.name={name}, problem.data.version={version}, problem.data.target={target}: {error}. See "
            "https://www.openml.org/search?type=data for names and versions."
        ) from error
    column = found.target
    if column is None or column.ndim != 1:
        raise ConfigError(
            f"problem.data.target={target}: {name} has no single default target. Name a column by problem.data.target."
        )
    text = [label for label, kind in found.data.dtypes.items() if kind.kind not in "biuf"]
    if text:
        raise ConfigError(
            f"problem.data.name={name}: the columns {', '.join(map(str, text[:5]))} are not numeric; expected numbers."
        )
    numeric = column.dtype.kind in "iuf"
    if regression is None:
        regression = numeric
    elif regression and not numeric:
        raise ConfigError("problem.data.regression=true: the target is not numeric. Set problem.data.regression=false.")
    inputs = found.data.to_numpy(np.float64, na_value=np.nan)
    if regression:
        targets, classes = column.to_numpy(np.float64), None
    else:
        labels, targets = np.unique(column.to_numpy().astype(str), return_inverse=True)
        classes = len(labels)
    if samples is not None and checks.whole("problem.data.samples", samples, least=2) < len(inputs):
        rows = np.random.default_rng(_seed(seed)).choice(len(inputs), size=int(samples), replace=False)
        inputs, targets = inputs[rows], targets[rows]
    return split("openml", inputs, targets, classes=classes, test_fraction=test_fraction, seed=seed)


def split(
    name: str,
    inputs: ArrayLike,
    targets: ArrayLike,
    *,
    classes: int | None = None,
    test_fraction: float = 0.2,
    seed: int = 0,
) -> Dataset:
    """A Dataset from all examples, `test_fraction` of them set apart by `seed`, in each class alike.

    Args:
        inputs: (P, N) or (P, ...) numbers; integers stay integers. targets: (P,) integers 0 .. classes−1; or with classes=None numbers
            (P,) or (P, C).
    """
    inputs, targets = np.asarray(inputs), np.asarray(targets)
    if inputs.dtype.kind not in "iu":
        inputs = inputs.astype(np.float64)
    if classes is None:
        targets = targets.astype(np.float64).reshape(len(targets), -1)
    whole = checked(Dataset(name, inputs, targets, classes=classes))
    fraction, seed = _fraction(test_fraction), _seed(seed)
    if fraction == 0:
        return whole
    # examples in random order, class after class, and of these every so many-th: each class gives its share to within one
    order = np.random.default_rng(seed).permutation(len(inputs))
    if classes is not None:
        order = order[np.argsort(targets[order], kind="stable")]
    tests = math.ceil(fraction * len(inputs))
    chosen = ((np.arange(tests) + 0.5) * len(inputs) / tests).astype(int)
    train, test = np.sort(np.delete(order, chosen)), np.sort(order[chosen])
    if len(train) < 2 or (classes is not None and min(len(set(targets[side])) for side in (train, test)) < classes):
        raise ConfigError(
            f"problem.data.test_fraction={fraction:g}: {len(train)} examples for training and {len(test)} for testing; expected at "
            "least two for training, and every class on both sides. Change problem.data.test_fraction."
        )
    return Dataset(name, inputs[train], targets[train], inputs[test], targets[test], classes)


def checked(data: Dataset) -> Dataset:
    """The same data set, if it can be learnt from.

    Raises:
        ConfigError: no examples, NaN or infinity, all inputs or all targets constant, shapes or classes that do not fit together.
    """
    key = f"problem.data={getattr(data, 'name', data)}"
    if not isinstance(data, Dataset):
        raise ConfigError(
            f"{key}: expected a curvexp.problem.data.Dataset, got {type(data).__name__}. Change problem/data."
        )
    for part, inputs, targets in (("", data.inputs, data.targets), ("test ", data.test_inputs, data.test_targets)):
        if part and inputs is None and targets is None:
            continue
        _check_part(key, part, np.asarray(inputs), np.asarray(targets), data)
    if data.test_inputs is not None and data.test_inputs.shape[1:] != data.inputs.shape[1:]:
        test, train = (" by ".join(map(str, part.shape[1:])) for part in (data.test_inputs, data.inputs))
        raise ConfigError(f"{key}: test inputs have {test} columns, training inputs {train}.")
    if (np.ptp(data.inputs, axis=0) == 0).all():
        raise ConfigError(
            f"{key}: every column of the inputs is constant, so there is nothing to learn. Change problem.data."
        )
    if (np.ptp(data.targets, axis=0) == 0).any():
        raise ConfigError(f"{key}: the targets are constant, so there is nothing to learn. Change problem.data.")
    return data


def _check_part(
    key: str, part: str, inputs: Shaped[np.ndarray, "..."], targets: Shaped[np.ndarray, "..."], data: Dataset
) -> None:
    if inputs.ndim < 2 or inputs.size == 0 or targets.ndim == 0 or len(inputs) != len(targets):
        raise ConfigError(
            f"{key}: {part}inputs of shape {inputs.shape} with targets of shape {targets.shape}; expected (P, N) and P targets."
        )
    for what, values in ((part + "inputs", inputs), (part + "targets", targets)):
        if values.dtype.kind not in "iuf":
            raise ConfigError(f"{key}: {what} of type {values.dtype}; expected numbers.")
        wrong = int(values.size - (np.abs(values) <= LARGEST).sum())
        if wrong:
            raise ConfigError(
                f"{key}: {wrong} of {values.size} {what} are NaN, infinite or beyond {LARGEST:g}; expected finite numbers. Clean the data."
            )
    if data.classes is None:
        if targets.ndim != 2:
            raise ConfigError(f"{key}: {part}targets of shape {targets.shape}; expected (P, C) for a regression.")
    elif targets.ndim != 1 or targets.dtype.kind not in "iu" or targets.min() < 0 or targets.max() >= data.classes:
        raise ConfigError(
            f"{key}: {part}targets must be (P,) integers from 0 to {data.classes - 1}, the classes less one."
        )


def _shipped(file: str, **layout: Any) -> Float64[np.ndarray, "P columns"]:
    """A table that scikit-learn ships, read without importing scikit-learn, which takes as long as all other imports together."""
    spec = find_spec("sklearn")
    assert spec is not None
    assert spec.origin is not None
    return np.loadtxt(Path(spec.origin).parent / "datasets" / "data" / file, **layout)


def _classes(name: str, table: Float64[np.ndarray, "P columns"], test_fraction: float, seed: int) -> Dataset:
    targets = table[:, -1].astype(int)
    return split(name, table[:, :-1], targets, classes=int(targets.max()) + 1, test_fraction=test_fraction, seed=seed)


def _fraction(value: object) -> float:
    return checks.number("problem.data.test_fraction", value, least=0, below=1)


def _seed(value: object) -> int:
    return checks.whole("problem.data.seed", value, least=0)


@contextmanager
def _network_timeout(seconds: float) -> Iterator[None]:
    """Sockets opened meanwhile give up after `seconds` without an answer, where they would wait for ever.

    What scikit-learn warns of on each retry is silent: the error at the end says it.
    """
    import socket

    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        socket.setdefaulttimeout(before)
