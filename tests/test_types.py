"""The types in public signatures are true: shapes hold where functions run, and `Any` stands only where nothing better does."""

import ast
import inspect
import types
import typing
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from jaxtyping import Float
from numpy.typing import ArrayLike

from curvexp import linalg, optim, preprocess, probe, problem, theory
from curvexp.curvature import Objective, fisher, ggn, hessian, layers, likelihoods, sampling_error
from curvexp.problem import linear_network, quadratics, supervised, surface

PACKAGE = Path(__file__).parents[1] / "curvexp"
SCIENCE = (
    *("linalg", "theory", "curvature", "problem", "preprocess.py", "optim", "probe", "training", "study", "testing"),
    *("record.py", "landscape.py", "numeric.py", "types.py"),
)
ANY = {  # what is `Any` alone in a public signature, and why
    "curvature.functions.bound function": "whatever a person gives; what cannot be called is refused there",
    "curvature.functions.described result": "whatever a person's function returned",
    "curvature.objective.check_value value": "whatever a person's loss returned",
    "preprocess.watched preprocess": "anything else is given back as it is",
    "preprocess.watched return": "of the type that was given",
    "probe.ledger.directions.momentum state": "a training's state, of a layer above",
    "probe.ledger.past.Now state": "a training's state, of a layer above",
    "record.Reading eigenvectors": "a pytree; a record is read without JAX",
    "record.Record state": "a training's state, of a layer above",
    "record.Record snapshot": "a training's, of a layer above",
}


# ---- shapes ------------------------------------------------------------------------------------------------------------------------


def checked(function, *args, **keywords):
    """The function's result, after arguments and result were held against its annotations.

    One letter is one number in a call. jaxtyping leaves the checks to beartype or typeguard, which are no dependencies: isinstance does.
    """
    hints = typing.get_type_hints(function)
    given = inspect.signature(function).bind(*args, **keywords).arguments
    with jaxtyping.jaxtyped("context"):
        for name, value in given.items():
            hint = hints.get(name, typing.Any)  # self has none
            assert fits(value, hint), f"{function.__name__}: {name} is {value!r:.80}, not {hint}"
        result = function(*args, **keywords)
        assert fits(result, hints["return"]), f"{function.__name__} returned {result!r:.200}, not {hints['return']}"
    return result


def fits(value, hint):
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if (
        hint is typing.Any or hint == ArrayLike or getattr(hint, "_is_protocol", False)
    ):  # of which isinstance knows nothing
        return True
    if hint is None:
        return value is None
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if origin is tuple and parts[-1] is Ellipsis:
        return isinstance(value, tuple) and all(fits(part, parts[0]) for part in value)
    if origin is tuple:
        return isinstance(value, tuple) and len(value) == len(parts) and all(map(fits, value, parts))
    if origin is typing.Literal:
        return value in parts
    if origin is not None:
        return isinstance(value, origin)
    if isinstance(hint, type) and hasattr(hint, "_fields") and isinstance(value, hint):
        fields = typing.get_type_hints(hint)
        return all(fits(getattr(value, name), fields[name]) for name in hint._fields)
    if isinstance(value, np.generic) and getattr(hint, "array_type", None) is np.ndarray:
        value = np.asarray(value)  # numpy's number in place of an array without axes
    if hint is float and isinstance(value, int):  # as type checkers have it
        return True
    return isinstance(value, hint)


def test_a_shape_that_does_not_hold_is_seen():
    def shorter(x: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n"]:  # noqa: F821
        return x[1:]

    with pytest.raises(AssertionError, match="shorter returned"):
        checked(shorter, np.ones(3))
    with pytest.raises(AssertionError, match="x is"):
        checked(shorter, np.ones((3, 3)))


DIAGONAL = jnp.array([1.0, 2.0, 5.0])


def product(v):
    return DIAGONAL * v


@pytest.mark.parametrize(
    ("function", "options"),
    [
        (linalg.eigsh, {"k": 2}),
        (linalg.eigsh_above, {"threshold": 4.0, "k": 1}),
        (linalg.spectral_density, {"probes": 2, "steps": 3, "points": 7, "key": 1}),
        (linalg.trace, {"samples": 2, "key": jax.random.key(0)}),
        (linalg.diagonal, {"samples": 2}),
        (linalg.frobenius_norm, {"samples": 2}),
        (linalg.inertia, {}),
    ],
)
def test_shapes_of_linear_algebra(function, options):
    checked(function, product, like=jnp.zeros(3), **options)


def test_shapes_of_a_dense_matrix():
    found = checked(linalg.dense_eigh, np.diag([1.0, 4.0]))
    assert found.vectors.shape == (2, 2)


@pytest.mark.parametrize(
    ("function", "args", "options"),
    [
        (theory.quadratic_gradient, (np.eye(2), np.ones(2), np.ones((4, 2))), {}),
        (theory.quadratic_hessian, (np.eye(2),), {}),
        (theory.quadratic_minimum, (np.eye(2), np.ones(2)), {}),
        (theory.above_rounding, ([0.0, 1.0],), {}),
        (theory.gradient_descent_contraction, ([1.0, 3.0],), {"lr": 0.5}),
        (theory.gradient_descent_contraction, (1.0,), {"lr": 0.5}),
        (theory.gradient_descent_iteration, ([1.0, 3.0],), {"lr": 0.5}),
        (theory.heavy_ball_iteration, ([1.0, 3.0],), {"lr": 0.5, "momentum": 0.5}),
        (theory.adamw_iteration, (1.0,), {"lr": 0.5, "b1": 0.5, "weight_decay": 0.1}),
        (theory.heavy_ball_trajectory, (1.0,), {"lr": 0.5, "momentum": 0.5, "steps": [0, 1, 2]}),
        (theory.marchenko_pastur_edges, (0.25,), {}),
        (theory.classifier_outliers, (10,), {}),
        (theory.catapult_range, (4.0,), {}),
    ],
)
def test_shapes_of_theory(function, args, options):
    checked(function, *args, **options)


def model(params, inputs):
    return inputs @ params["w"]


def test_shapes_of_curvature():
    inputs, targets, params = jnp.ones((5, 2)), jnp.ones((5, 3)), {"w": jnp.ones((2, 3))}
    op = checked(ggn, model, supervised.squared_error, params, inputs, targets)
    checked(type(op).dense, op)
    checked(fisher, model, "gaussian", params, inputs)
    checked(layers, checked(hessian, lambda p: jnp.sum(p["w"] ** 4), params))
    loss = lambda w, x: jnp.mean((x @ w) ** 2)  # noqa: E731
    checked(sampling_error, loss, jnp.ones(2), inputs, vectors=jnp.ones((1, 2)), groups=2)
    objective = Objective(jax.tree_util.Partial(lambda p, data: jnp.sum(p["w"]) * data), jnp.ones(()))
    checked(Objective.__call__, objective, params)


def test_shapes_of_likelihoods():
    outputs = jnp.zeros((5, 4, 3))  # of five examples four predictions each
    checked(likelihoods.predictions, outputs)
    checked(likelihoods.metric, outputs, outputs, "softmax")
    checked(likelihoods.label_scores, outputs, jnp.zeros((5, 4), int), "softmax")
    checked(likelihoods.sampled_scores, outputs, jax.random.key(0), samples=2, family="bernoulli")


def test_shapes_of_problems():
    bowl = checked(quadratics.quadratic, eigenvalues=[1.0, 2.0, 4.0])
    checked(quadratics.quadratic_loss, bowl.init(jax.random.key(0)), bowl.data)
    checked(quadratics.law_eigenvalues, "linear", dimension=4, condition_number=10.0)
    checked(surface.rosenbrock_loss, jnp.zeros(2))
    checked(linear_network.two_layers_loss, {"u": jnp.ones(3), "v": jnp.ones(3)})
    checked(supervised.softmax_cross_entropy, jnp.zeros((5, 3)), jnp.zeros(5, jnp.int32))
    given = checked(problem.data.chebyshev)
    checked(supervised.prepare, given, preprocess.normalized(), dtype=np.dtype("float32"), as_classes=False)


@pytest.mark.parametrize("array", [np, jnp])
def test_shapes_of_preprocessing(array):
    checked(preprocess.standardize, array.arange(12.0).reshape(6, 2), preprocess.BatchNorm("ghost", ghost=3))


def test_shapes_of_optimizers():
    form = checked(optim.momentum, lr=0.1, momentum=0.5)
    params = {"w": jnp.ones(3)}
    state = checked(optim.Optimizer.init, form, params)
    checked(optim.Optimizer.hyper_before, form, state, 2)


def test_shapes_of_a_reading():
    bowl = problem.bowl()
    objective = Objective(jax.tree_util.Partial(bowl.loss), bowl.data)
    params = bowl.init(jax.random.key(0))
    reading, _ = probe.exact().measure(objective, params, None, jax.random.key(0))
    with jaxtyping.jaxtyped("context"):
        assert fits(reading, type(reading))
    checked(probe.condition_numbers, reading.eigenvalues, eps=1e-7)


# ---- annotations -------------------------------------------------------------------------------------------------------------------


def public():
    """(name, function or class) of all that is public in the science, as syntax trees."""
    for name in SCIENCE:
        place = PACKAGE / name
        for path in [place] if place.suffix else sorted(place.rglob("*.py")):
            module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
            for node in ast.parse(path.read_text()).body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                    yield f"{module}.{node.name}", node


def annotations(name, node):
    """(what it is of, annotation or None) of a function's parameters and result; of a class's fields and public methods."""
    if isinstance(node, ast.ClassDef):
        for part in node.body:
            if isinstance(part, ast.AnnAssign):
                yield f"{name} {part.target.id}", part.annotation
            elif isinstance(part, ast.FunctionDef) and (not part.name.startswith("_") or part.name == "__call__"):
                yield from annotations(f"{name}.{part.name}", part)
        return
    for parameter in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs):
        if parameter.arg not in ("self", "cls"):
            yield f"{name} {parameter.arg}", parameter.annotation
    yield f"{name} return", node.returns


def test_every_public_signature_is_annotated():
    found = [what for name, node in public() for what, annotation in annotations(name, node) if annotation is None]
    assert not found
    assert len(list(public())) > 300


def test_any_stands_where_nothing_better_is_true():
    found = {
        what
        for name, node in public()
        for what, annotation in annotations(name, node)
        if isinstance(annotation, ast.Name) and annotation.id == "Any"
    }
    assert found == set(ANY)
