"""What is done to inputs before training, and to hidden activations during it.

`fit` sees the training inputs alone, in float64, and gives a function on inputs. A column that is constant in the training inputs carries
nothing and is 0 after every option that centres.

    raw         x
    centered    x − μ                        μ, σ: mean and standard deviation of each training column (divided by P, not P − 1)
    normalized  (x − μ) / σ
    whitened    (x − μ) / σ · W              covariance of the result: the identity on the inputs' range, 0 off it
    batchnorm   x; before each hidden nonlinearity (h − mean) / √(variance + ε), by the statistics of the batch that the loss is taken over

A quadratic ½x'Ax − b'x has no inputs; `normalized` then means x = D^(-1/2) y with D the diagonal of A.

Sources: LeCun et al. 1998 (Efficient BackProp, sec. 4.3); Kessy, Lewin, Strimmer 2018 (Optimal whitening and decorrelation); Ioffe,
Szegedy 2015 (batchnorm); Hoffer et al. 2017 (ghost batches).
"""

import math
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64

from curvexp.errors import ConfigError, Unsupported
from curvexp.numeric import is_number
from curvexp.types import AnyArray, SomeArray

Transform = Callable[[Float64[np.ndarray, "m N"]], Float64[np.ndarray, "m N"]]


class BatchNorm(NamedTuple):
    """How batch statistics are taken; it changes the Hessian, so it is recorded with every number.

    Attributes:
        mode: `batch`, statistics of the whole batch in the loss, differentiated through; `frozen`, the same statistics held constant under
            differentiation; `ghost`, statistics of each group of `ghost` successive examples, differentiated through.
        epsilon: added to the variance.
        ghost: examples a group in mode `ghost`, else None.
    """

    mode: str = "batch"
    epsilon: float = 1e-5
    ghost: int | None = None

    def __str__(self) -> str:
        return f"ghost({self.ghost})" if self.mode == "ghost" else self.mode


class Preprocess(NamedTuple):
    """A way to prepare a problem's inputs and hidden activations.

    Attributes:
        name: the option's name.
        fit: training inputs -> function on inputs.
        quadratic: (A, b) -> (A, b) of the same quadratic in the prepared variables, or None where that has no meaning.
        hidden: batch normalization before each hidden nonlinearity (on a linear model: of its inputs), or None.
    """

    name: str
    fit: Callable[[Float64[np.ndarray, "P N"]], Transform]
    quadratic: (
        Callable[
            [Float64[np.ndarray, "n n"], Float64[np.ndarray, "n"]],
            tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n"]],
        ]
        | None
    ) = None
    hidden: BatchNorm | None = None


class _Watched(Preprocess):
    """A preprocessing that knows which of its parts were asked for."""

    asked: set[str]

    def __getattribute__(self, part: str) -> object:
        if part in Preprocess._fields:
            object.__getattribute__(self, "asked").add(part)
        return super().__getattribute__(part)

    def __iter__(self) -> Iterator[Any]:
        self.asked.update(Preprocess._fields)
        return super().__iter__()

    def __getitem__(self, part: Any) -> Any:
        self.asked.update(Preprocess._fields)
        return super().__getitem__(part)


def watched(preprocess: Any) -> Any:
    """The same preprocessing, of which `ignored` can tell whether it was made use of; anything else as it is."""
    if not isinstance(preprocess, Preprocess):
        return preprocess
    found = _Watched(*preprocess)
    found.asked = set()
    return found


def ignored(preprocess: object) -> str | None:
    """The name of a watched preprocessing that was not made use of, or None where it was, or nothing can be told.

    What acts is its function on inputs or quadratics; where it has a batch normalization, that.

    `raw` does nothing, and a problem that asked for the name may act by it: both count as made use of.
    """
    if not isinstance(preprocess, _Watched):
        return None
    name, hidden = (tuple.__getitem__(preprocess, Preprocess._fields.index(part)) for part in ("name", "hidden"))
    acting = {"fit", "quadratic"} if hidden is None else {"hidden"}
    return None if name == "raw" or preprocess.asked & {"name", *acting} else str(name)


def raw() -> Preprocess:
    """Inputs as they are."""
    return Preprocess("raw", lambda inputs: lambda x: x, quadratic=lambda matrix, vector: (matrix, vector))


RAW = raw()  # what a problem takes where none is given


def centered() -> Preprocess:
    """Inputs minus the training mean."""
    return Preprocess("centered", _fit_centered)


def normalized() -> Preprocess:
    """Inputs of zero mean and unit variance over the training examples; of a quadratic, the scaling D^(-1/2) A D^(-1/2), D^(-1/2) b."""
    return Preprocess("normalized", _fit_normalized, quadratic=_scaled)


def whitened(*, kind: str = "zca") -> Preprocess:
    """Inputs of zero mean whose covariance over the training examples is the identity on their range.

    The columns are normalized, then W turns their correlation matrix V diag(λ) V' into the identity: V diag(λ^(-1/2)) V' for `zca`, which
    stays closest to the normalized columns, V diag(λ^(-1/2)) for `pca`. Directions whose singular value is at most
    max(P, N)·eps times the largest one count as null, and are 0.

    Args:
        kind: zca | pca.
    """
    if kind not in ("zca", "pca"):
        raise ConfigError(f"preprocess.kind={kind}: expected zca or pca. Change preprocess.kind.")
    return Preprocess("whitened", lambda inputs: _fit_whitened(inputs, rotate_back=kind == "zca"))


def batchnorm(
    *, mode: str = "batch", epsilon: float = 1e-5, ghost: int | None = None, inputs: str = "raw"
) -> Preprocess:
    """Batch normalization before each hidden nonlinearity.

    A linear model has no hidden layer: there it standardises the inputs by the statistics of the batch in the loss, with no scale and shift
    (the weights and the bias absorb them), so that over the full batch it is `normalized` up to epsilon.

    Args:
        mode: batch | frozen | ghost, see BatchNorm.
        epsilon: added to the variance, 0 allowed.
        ghost: examples a group, for mode=ghost alone; a last group that is smaller has statistics of its own.
        inputs: what is done to the inputs themselves: raw | centered | normalized | whitened.
    """
    if mode not in ("batch", "frozen", "ghost"):
        raise ConfigError(f"preprocess.mode={mode}: expected batch, frozen or ghost. Change preprocess.mode.")
    if not is_number(epsilon) or not (0 <= epsilon < math.inf):
        raise ConfigError(f"preprocess.epsilon={epsilon}: expected a number >= 0. Change preprocess.epsilon.")
    if (ghost is None) == (mode == "ghost"):
        raise ConfigError(
            f"preprocess.ghost={ghost} with preprocess.mode={mode}: expected the examples a group for mode=ghost and null "
            "otherwise. Change preprocess.ghost or preprocess.mode."
        )
    if ghost is not None and (isinstance(ghost, bool) or not isinstance(ghost, int) or ghost < 2):
        raise ConfigError(f"preprocess.ghost={ghost}: expected a whole number >= 2. Change preprocess.ghost.")
    if inputs not in _INPUTS:
        raise ConfigError(
            f"preprocess.inputs={inputs}: expected one of {', '.join(_INPUTS)}. Change preprocess.inputs."
        )
    return Preprocess("batchnorm", _INPUTS[inputs]().fit, hidden=BatchNorm(mode, float(epsilon), ghost))


_INPUTS = {"raw": raw, "centered": centered, "normalized": normalized, "whitened": whitened}


def standardize(
    x: Float[SomeArray, "P N"], batchnorm: BatchNorm, *, rows: int | None = None
) -> Float[SomeArray, "P N"]:
    """Each column of `x` minus its mean, divided by √(variance + ε), as `batchnorm` takes the statistics.

    A column whose variance is below the rounding of its mean, (32·eps·mean)², counts as constant and is 0, so that ε = 0 is safe.

    Args:
        x: of JAX (differentiable) or numpy.
        rows: take the statistics from the first `rows` rows as one batch and apply them to all, whatever the mode: what an evaluation of
            test examples beneath training examples needs. None: as the mode says.

    Returns:
        As x, in its dtype.
    """
    if rows is not None:
        return _standardized(x, x[:rows], batchnorm)
    if batchnorm.mode != "ghost" or batchnorm.ghost is None or batchnorm.ghost >= len(x):
        return _standardized(x, x, batchnorm)
    size, (count, width) = batchnorm.ghost, x.shape
    whole = count - count % size
    groups = x[:whole].reshape(-1, size, width)
    parts = [_standardized(groups, groups, batchnorm).reshape(whole, width)]
    if whole < count:
        parts.append(_standardized(x[whole:], x[whole:], batchnorm))
    return _namespace(x).concatenate(parts)


def _standardized(
    x: Float[SomeArray, "... P N"], source: Float[SomeArray, "... P N"], batchnorm: BatchNorm
) -> Float[SomeArray, "... P N"]:
    xp = _namespace(x)
    mean = source.mean(axis=-2, keepdims=True)
    variance = xp.square(source - mean).mean(axis=-2, keepdims=True)
    if batchnorm.mode == "frozen" and xp is jnp:
        mean, variance = jax.lax.stop_gradient((mean, variance))
    constant = variance <= xp.square(32 * xp.finfo(x.dtype).eps * mean)
    # the inner where keeps 1/√0 out of the derivative as well
    scale = xp.where(constant, 0, 1 / xp.sqrt(xp.where(constant, 1, variance) + batchnorm.epsilon))
    return (x - mean) * scale.astype(x.dtype)


def _namespace(x: AnyArray) -> ModuleType:
    return np if isinstance(x, np.ndarray) else jnp


def _fit_centered(inputs: Float64[np.ndarray, "P N"]) -> Transform:
    mean, _ = _moments(inputs)
    return lambda x: x - mean


def _fit_normalized(inputs: Float64[np.ndarray, "P N"]) -> Transform:
    mean, scale = _moments(inputs)
    return lambda x: (x - mean) * scale


def _fit_whitened(inputs: Float64[np.ndarray, "P N"], *, rotate_back: bool) -> Transform:
    mean, scale = _moments(inputs)
    count, width = inputs.shape
    # singular values of the columns, not eigenvalues of their covariance: half of the digits would be lost in the squares
    _, singular, directions = np.linalg.svd((inputs - mean) * scale, full_matrices=False)
    kept = singular > max(count, width) * np.finfo(np.float64).eps * singular[0]
    inverse = np.divide(math.sqrt(count), singular, out=np.zeros_like(singular), where=kept)
    whitener = directions.T * inverse
    if rotate_back:
        whitener = whitener @ directions
    return lambda x: ((x - mean) * scale) @ whitener


def _moments(inputs: Float64[np.ndarray, "P N"]) -> tuple[Float64[np.ndarray, "N"], Float64[np.ndarray, "N"]]:
    """Mean and 1/σ of each column; a constant column has its own value as mean, exactly, and 0 for 1/σ."""
    constant = np.ptp(inputs, axis=0) == 0
    mean = np.where(constant, inputs[0], inputs.mean(axis=0))
    deviation = np.sqrt(np.square(inputs - mean).mean(axis=0))
    constant |= deviation == 0
    return mean, np.where(constant, 0.0, 1 / np.where(constant, 1.0, deviation))


def _scaled(
    matrix: Float64[np.ndarray, "n n"], vector: Float64[np.ndarray, "n"]
) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n"]]:
    diagonal = np.diagonal(matrix)
    if not (diagonal > 0).all():
        raise Unsupported(
            f"preprocess=normalized: D^(-1/2) A D^(-1/2) needs a positive diagonal of A, and its smallest entry is "
            f"{diagonal.min():.6g}. Choose preprocess=raw."
        )
    scale = 1 / np.sqrt(diagonal)
    return scale[:, None] * matrix * scale, scale * vector
