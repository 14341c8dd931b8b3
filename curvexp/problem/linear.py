"""Linear models on a data set, whose Hessian has a closed form: where preprocessing acts on a known spectrum.

With X̃ the prepared inputs and a column of ones for the bias, P examples and W the parameters as a matrix (N+1, C):

    least_squares  ½/P ‖X̃W − Y‖²            Hessian X̃'X̃/P for each of the C outputs
    logistic       cross-entropy of X̃W      Hessian X̃' diag(p(1−p)) X̃/P; for C classes X̃' diag(p_j(δ_jk − p_k)) X̃/P in block jk
"""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
import scipy.special
from jaxtyping import Array, Float, Float64, Int
from numpy.typing import DTypeLike
from threadpoolctl import threadpool_limits

from curvexp.errors import ConfigError
from curvexp.preprocess import RAW, BatchNorm, Preprocess, standardize
from curvexp.problem import checks
from curvexp.problem.base import Known, Problem, checked_dtype
from curvexp.problem.data import Dataset
from curvexp.problem.supervised import (
    Model,
    Prepared,
    binary_cross_entropy,
    prepare,
    softmax_cross_entropy,
    squared_error,
    supervised,
)
from curvexp.types import Criterion, Init, Params, RandomKey

LARGEST_EXACT = 2e10  # multiply-adds of a decomposition that is still done at once, about a second on two cores
NEWTON_STEPS = 40
LARGEST_NEWTON = 1.5e9  # multiply-adds of one Newton step, about 0.1 s


def least_squares(
    *, preprocess: Preprocess = RAW, dtype: DTypeLike = jnp.float32, data: Dataset, bias: bool = True, l2: float = 0.0
) -> Problem:
    """½ mean over the examples of ‖W'x + c − y‖², targets standardised by the training set, or one-hot where there are classes.

    The Hessian is constant, X̃'X̃/P + l2·I for each output. Eigenvalues, optimum and minimum are those of the inputs after the cast to
    `dtype`, computed in float64: the eigenvalues as squared singular values, so that the small ones are right as well, and 0 for each
    exact null direction; the optimum is the shortest of all.

    Args:
        data: a Dataset. bias: a constant c is learnt too. l2: adds ½·l2·‖params‖² over all parameters.
    """
    dtype, bias, l2 = checked_dtype(dtype), _bool("problem.bias", bias), checks.number("problem.l2", l2, least=0)
    prepared = prepare(data, preprocess, dtype=dtype, as_classes=False)
    design, targets = _design(prepared, bias, preprocess.hidden), np.asarray(prepared.train.targets, np.float64)
    known, notes = _least_squares_known(design, targets, l2, bias)
    return _linear(
        "least_squares", prepared, targets.shape[1], bias, l2, squared_error, preprocess, dtype, known, notes
    )


def logistic(
    *, preprocess: Preprocess = RAW, dtype: DTypeLike = jnp.float32, data: Dataset, bias: bool = True, l2: float = 1e-3
) -> Problem:
    """Mean cross-entropy of a linear model, plus ½·l2·‖params‖² over all parameters: strictly convex for l2 > 0.

    Two classes have one logit, more have a softmax. Optimum and minimum come from Newton's method in float64 on the inputs after the cast
    to `dtype`; they are None where there is none (l2 = 0 on separable classes: the infimum 0 is not reached) or it would take long.

    Args:
        data: a Dataset with classes. bias: a constant is learnt too.
    """
    dtype, bias, l2 = checked_dtype(dtype), _bool("problem.bias", bias), checks.number("problem.l2", l2, least=0)
    if isinstance(data, Dataset) and data.classes is None:
        raise ConfigError(
            f"problem.data={data.name}: problem=logistic needs classes, and it has none. Change problem.data."
        )
    prepared = prepare(data, preprocess, dtype=dtype, as_classes=True)
    classes = prepared.classes or 2
    outputs, criterion = (1, binary_cross_entropy) if classes == 2 else (classes, softmax_cross_entropy)
    design = _design(prepared, bias, preprocess.hidden)
    labels = np.asarray(prepared.train.targets)
    notes: tuple[str, ...] = ()
    optimum = _newton(design, labels, outputs, l2)
    known = Known()
    if optimum is None:
        notes = ("no minimum computed: the classes are separable and l2 is 0, or it would take long",)
    else:
        known = Known(None, _params(optimum, bias), logistic_loss(design, labels, optimum, l2))
    return _linear("logistic", prepared, outputs, bias, l2, criterion, preprocess, dtype, known, notes)


def logistic_loss(
    design: Float64[np.ndarray, "P N"], targets: Int[np.ndarray, "P"], weights: Float64[np.ndarray, "N C"], l2: float
) -> float:
    """Cross-entropy of the logits X̃W plus ½·l2·‖W‖², in float64; one column for two classes."""
    logits = _softmax_logits(design @ weights)
    chosen = logits[np.arange(len(logits)), targets]
    return float(np.mean(scipy.special.logsumexp(logits, axis=1) - chosen) + 0.5 * l2 * np.square(weights).sum())


def logistic_gradient(
    design: Float64[np.ndarray, "P N"], targets: Int[np.ndarray, "P"], weights: Float64[np.ndarray, "N C"], l2: float
) -> Float64[np.ndarray, "N C"]:
    """Gradient of `logistic_loss` in W."""
    probabilities = scipy.special.softmax(_softmax_logits(design @ weights), axis=1)
    probabilities[np.arange(len(design)), targets] -= 1
    return design.T @ probabilities[:, -weights.shape[1] :] / len(design) + l2 * weights


def logistic_hessian(
    design: Float64[np.ndarray, "P N"], weights: Float64[np.ndarray, "N C"], l2: float
) -> Float64[np.ndarray, "N*C N*C"]:
    """Hessian of `logistic_loss`, rows and columns in the order of W.ravel(): input by input, then class by class."""
    (count, width), outputs = design.shape, weights.shape[1]
    p = scipy.special.softmax(_softmax_logits(design @ weights), axis=1)[:, -outputs:]
    weighted = (design[:, :, None] * p[:, None, :]).reshape(count, -1)
    hessian = (-weighted.T @ weighted / count).reshape(width, outputs, width, outputs)
    for k in range(outputs):  # p(1 − p) at once: p − p² would cancel where p is near 1
        hessian[:, k, :, k] = design.T @ (design * (p[:, k] * (1 - p[:, k]))[:, None]) / count
    return hessian.reshape(width * outputs, -1) + l2 * np.eye(width * outputs)


def _softmax_logits(logits: Float64[np.ndarray, "P C"]) -> Float64[np.ndarray, "P classes"]:
    """Logits of a softmax; a single logit z stands for the two (0, z)."""
    return np.concatenate([np.zeros_like(logits), logits], axis=1) if logits.shape[1] == 1 else logits


def _linear(
    name: str,
    prepared: Prepared,
    outputs: int,
    bias: bool,
    l2: float,
    criterion: Criterion,
    preprocess: Preprocess,
    dtype: np.dtype,
    known: Known,
    notes: tuple[str, ...],
) -> Problem:
    return supervised(
        name,
        prepared,
        init=_init(prepared.train.inputs.shape[1], outputs, bias, dtype),
        model=_model(preprocess.hidden),
        criterion=criterion,
        l2=l2,
        batchnorm=preprocess.hidden,
        known=known,
        notes=notes,
    )


@functools.cache
def _model(batchnorm: BatchNorm | None) -> Model:
    def model(params: Params, inputs: Float[Array, "P N"], *, rows: int | None = None) -> Float[Array, "P C"]:
        x = inputs if batchnorm is None else standardize(inputs, batchnorm, rows=rows)
        return x @ params["weight"] + params.get("bias", 0)

    return model


@functools.cache
def _init(features: int, outputs: int, bias: bool, dtype: np.dtype) -> Init:
    """LeCun normal weights of variance 1/N, zero bias."""

    def init(key: RandomKey) -> dict[str, Array]:
        weight = jax.random.normal(key, (features, outputs), dtype) / math.sqrt(features)
        return {"weight": weight, "bias": jnp.zeros(outputs, dtype)} if bias else {"weight": weight}

    return init


def _design(prepared: Prepared, bias: bool, batchnorm: BatchNorm | None) -> Float64[np.ndarray, "P N"]:
    """X̃: the inputs as the loss sees them, then the ones of the bias."""
    inputs = np.asarray(prepared.train.inputs, np.float64)
    if batchnorm is not None:
        inputs = standardize(inputs, batchnorm)
    return np.concatenate([inputs, np.ones((len(inputs), 1))], axis=1) if bias else inputs


def _params(weights: Float64[np.ndarray, "N C"], bias: bool) -> dict[str, Float64[np.ndarray, "..."]]:
    return {"weight": weights[:-1], "bias": weights[-1]} if bias else {"weight": weights}


def _least_squares_known(
    design: Float64[np.ndarray, "P N"], targets: Float64[np.ndarray, "P C"], l2: float, bias: bool
) -> tuple[Known, tuple[str, ...]]:
    (count, width), outputs = design.shape, targets.shape[1]
    if count * width * min(count, width) > LARGEST_EXACT:
        gram = design.T @ design if width <= count else design @ design.T  # of equal eigenvalues, zeros aside
        eigenvalues = np.zeros(width)
        eigenvalues[-len(gram) :] = np.linalg.eigvalsh(gram / count)
        eigenvalues = np.sort(eigenvalues) + l2
        return Known(np.repeat(eigenvalues, outputs)), ("minimum not computed: it would take long",)
    left, singular, right = scipy.linalg.svd(design, full_matrices=False)
    kept = singular > max(count, width) * np.finfo(np.float64).eps * singular[0]
    eigenvalues = np.zeros(width)
    eigenvalues[: len(singular)] = np.where(kept, singular, 0) ** 2 / count
    components = left.T @ targets
    filters = np.where(kept, singular / np.where(kept, singular**2 + count * l2, 1), 0)
    weights = right.T @ (filters[:, None] * components)
    minimum = 0.5 * np.square(design @ weights - targets).sum() / count + 0.5 * l2 * np.square(weights).sum()
    return Known(np.repeat(np.sort(eigenvalues) + l2, outputs), _params(weights, bias), float(minimum)), ()


@threadpool_limits.wrap(
    limits=1
)  # matrices this small are slower on more threads: on 2 half as fast, on busy cores a tenth
def _newton(
    design: Float64[np.ndarray, "P N"], targets: Int[np.ndarray, "P"], outputs: int, l2: float
) -> Float64[np.ndarray, "N C"] | None:
    """The minimiser of `logistic_loss` by damped Newton, to rounding; None where there is none or it would take long."""
    (count, width), size = design.shape, design.shape[1] * outputs
    if count * size**2 + size**3 > LARGEST_NEWTON:
        return None
    weights = np.zeros((width, outputs))
    for _ in range(NEWTON_STEPS):
        if l2 == 0 and _separated(design, targets, weights):
            return None
        value = logistic_loss(design, targets, weights, l2)
        gradient = logistic_gradient(design, targets, weights, l2)
        step = _newton_step(logistic_hessian(design, weights, l2), gradient)
        decrement = float(np.vdot(step, gradient))
        # half the decrement is what is left above the minimum, once the gradient is small as well
        if 0 <= decrement <= 1e-15 * value and np.abs(gradient).max() <= 1e-10 * np.abs(design).max():
            return weights - step
        length, rounding = 1.0, 16 * np.finfo(np.float64).eps * value
        while (
            logistic_loss(design, targets, weights - length * step, l2) > value - 1e-4 * length * decrement + rounding
        ):
            length /= 2
            if length < 1e-6:
                return None
        weights = weights - length * step
    return None


def _newton_step(
    hessian: Float64[np.ndarray, "n n"], gradient: Float64[np.ndarray, "N C"]
) -> Float64[np.ndarray, "N C"]:
    """H⁻¹g; with l2 = 0 a softmax has null directions, which a ridge at rounding's size keeps out of the factorization's way."""
    ridge = len(hessian) * np.finfo(np.float64).eps * np.trace(hessian)
    while True:
        try:
            factor = scipy.linalg.cho_factor(hessian + ridge * np.eye(len(hessian)))
        except scipy.linalg.LinAlgError:
            ridge *= 100
        else:
            return scipy.linalg.cho_solve(factor, gradient.ravel()).reshape(gradient.shape)


def _separated(
    design: Float64[np.ndarray, "P N"], targets: Int[np.ndarray, "P"], weights: Float64[np.ndarray, "N C"]
) -> bool:
    """Whether every example has its own class strictly on top: then longer weights lower the loss without end."""
    logits = _softmax_logits(design @ weights)
    own = logits[np.arange(len(logits)), targets]
    return bool(((logits < own[:, None]).sum(axis=1) == logits.shape[1] - 1).all())


def _bool(key: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ConfigError(f"{key}={value}: expected true or false. Change {key}.")
    return value
