"""Quadratics ½x'Ax − b'x with chosen eigenvalues: the problems on which theory is exact.

A = Q diag(λ) Q' with Q orthonormal, drawn uniformly (Haar) in float64, then cast: in float32 the eigenvalues of the cast matrix are within
eps·λmax of the chosen ones. With b = 0 the minimum is 0 at the origin and the loss keeps full relative accuracy on the way there; with
b ≠ 0, loss − minimum is resolved to eps·|minimum| only.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import DTypeLike

from curvexp import memory
from curvexp.errors import ConfigError, Unsupported
from curvexp.preprocess import RAW, Preprocess
from curvexp.problem import checks
from curvexp.problem.base import Known, Problem, checked_dtype
from curvexp.types import AnyArray, Flat, RandomKey, Scalar

Numbers: TypeAlias = Sequence[float] | Float[np.ndarray, "n"]
Start: TypeAlias = Literal["random"] | Numbers  # standard normal by the run's key; or the numbers themselves


class Quadratic(NamedTuple):
    """The numbers of ½x'Ax − b'x: matrix A, symmetric, vector b."""

    matrix: Float[AnyArray, "n n"]
    vector: Float[AnyArray, "n"]


def quadratic_loss(params: Flat, data: Quadratic) -> Scalar:
    """½x'Ax − b'x."""
    product = jnp.dot(data.matrix, params, precision="highest")  # an accelerator would round to fewer bits
    return 0.5 * jnp.dot(params, product, precision="highest") - jnp.dot(data.vector, params, precision="highest")


def quadratic(
    *,
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
    dimension: int | None = None,
    eigenvalues: Numbers | None = None,
    law: str = "linear",
    condition_number: float = 100.0,
    smallest: float = 1.0,
    matrix: Sequence[Numbers] | Float[np.ndarray, "n n"] | None = None,
    b: Numbers | None = None,
    start: Start = "random",
    basis_seed: int | None = 0,
    name: str = "quadratic",
) -> Problem:
    """½x'Ax − b'x with A given by its eigenvalues, by a law of them, or entry by entry.

    Args:
        preprocess: raw; or normalized, x = D^(-1/2) y with D the diagonal of A: then `start` is y's.
        dimension: n; null: the length of `eigenvalues` or `matrix`, else 100.
        eigenvalues: list of n numbers of any sign; null: by `law`.
        law: linear | geometric | two_clusters | marchenko_pastur, from `smallest` to `condition_number` times it (see `law_eigenvalues`).
        matrix: list of n rows, symmetric; instead of eigenvalues.
        b: list of n numbers; null: zeros.
        start: list of n numbers; or random, standard normal by the run's key.
        basis_seed: of the random orthonormal basis; null: the coordinate axes.

    Raises:
        ConfigError: a value out of range, of the wrong length, not symmetric. Unsupported: preprocessing without a meaning here.
    """
    dtype = checked_dtype(dtype)
    given, chosen = _matrix(dimension, eigenvalues, law, condition_number, smallest, matrix, basis_seed)
    size = len(given)
    vector = np.zeros(size) if b is None else checks.vector("problem.b", b, size=size)
    if preprocess.quadratic is None:
        raise Unsupported(
            f"preprocess={preprocess.name} has no meaning for problem={name}, which has no inputs. Choose preprocess=raw or "
            "preprocess=normalized."
        )
    scaled, vector = preprocess.quadratic(given, vector)
    if scaled is not given:
        chosen = np.linalg.eigvalsh(scaled).astype(np.float64)
    return Problem(
        name,
        init=start_at(start, size, dtype),
        loss=quadratic_loss,
        data=jax.device_put(Quadratic(_cast("the matrix", scaled, dtype), _cast("b", vector, dtype))),
        known=_known(scaled, vector, chosen),
    )


def bowl(*, eigenvalues: Numbers = (1.0, 10.0), **options: Any) -> Problem:
    """A 2-dimensional quadratic with a minimum: both eigenvalues positive."""
    return quadratic(eigenvalues=eigenvalues, name="bowl", **options)


def dome(*, eigenvalues: Numbers = (-10.0, -1.0), **options: Any) -> Problem:
    """A 2-dimensional quadratic with a maximum: both eigenvalues negative, unbounded below."""
    return quadratic(eigenvalues=eigenvalues, name="dome", **options)


def valley(*, eigenvalues: Numbers = (0.0, 10.0), **options: Any) -> Problem:
    """A 2-dimensional singular quadratic: flat along one direction, a line of minima."""
    return quadratic(eigenvalues=eigenvalues, name="valley", **options)


def saddle(*, eigenvalues: Numbers = (-1.0, 10.0), **options: Any) -> Problem:
    """A 2-dimensional indefinite quadratic: up along one direction, down without bound along the other."""
    return quadratic(eigenvalues=eigenvalues, name="saddle", **options)


def law_eigenvalues(
    law: str, *, dimension: int, condition_number: float, smallest: float = 1.0
) -> Float64[np.ndarray, "n"]:
    """n eigenvalues from `smallest` to `condition_number`·`smallest`, both exactly reached, ascending.

    linear            equally spaced
    geometric         equally spaced in the logarithm
    two_clusters      half within κ^0.05 of the smallest, half within κ^0.05 of the largest, each equally spaced in the logarithm
    marchenko_pastur  quantiles i/(n−1) of the Marchenko-Pastur law whose edges (1 ± √γ)² have the ratio κ

    Source: Marchenko, Pastur 1967; Bai, Silverstein 2010, eq. 3.1.1.
    """
    n, top = dimension, smallest * condition_number
    if n == 1:
        return np.array([smallest])
    if law == "linear":
        found = np.linspace(smallest, top, n)
    elif law == "geometric":
        found = np.geomspace(smallest, top, n)
    elif law == "two_clusters":
        reach = np.linspace(0, 0.05, n // 2), np.linspace(0.95, 1, n - n // 2)
        found = smallest * condition_number ** np.concatenate(reach)
        if n // 2 == 1:
            found[0] = smallest
    elif law == "marchenko_pastur":
        found = smallest * _marchenko_pastur(np.linspace(0, 1, n), condition_number)
    else:
        raise ConfigError(f"problem.law={law}: expected one of {', '.join(LAWS)}. Change problem.law.")
    found[0], found[-1] = smallest, top
    return found


def start_at(start: Start, size: int, dtype: np.dtype) -> Callable[[RandomKey], Flat]:
    """init of a problem whose parameters are one vector: standard normal for `random`, else the given numbers."""
    if start == "random":
        return _random_start(size, dtype)
    given = _cast("the start", checks.vector("problem.start", start, size=size), dtype)
    return _given_start(tuple(given.tolist()), dtype)


def _cast(what: str, values: Float64[np.ndarray, "..."], dtype: np.dtype) -> Float[np.ndarray, "..."]:
    """The values in the run's precision, where it holds them."""
    with np.errstate(over="ignore"):
        cast = values.astype(dtype)
    if not np.isfinite(cast).all():
        raise ConfigError(
            f"precision={dtype}: {what} of the problem has a number of size {np.abs(values).max():.3g}, which it does not hold. Choose "
            "precision=float64, or smaller numbers."
        )
    return cast


LAWS = ("linear", "geometric", "two_clusters", "marchenko_pastur")


def _marchenko_pastur(levels: Float64[np.ndarray, "n"], condition_number: float) -> Float64[np.ndarray, "n"]:
    """Quantiles of the Marchenko-Pastur law with edges 1 and κ, by bisection of its distribution function.

    With λ = c − h cos t, t in [0, π], the density is proportional to sin²t/λ, and its integral is elementary.
    """
    centre, half = (condition_number + 1) / 2, (condition_number - 1) / 2
    root = math.sqrt(condition_number)  # of centre² − half²

    def mass(t: Float64[np.ndarray, "n"]) -> Float64[np.ndarray, "n"]:
        with np.errstate(divide="ignore"):
            angle = np.arctan(root * np.tan(t / 2))  # √((c+h)/(c−h)) = √κ
        return centre * t + half * np.sin(t) - 2 * root * angle

    low, high = np.zeros_like(levels), np.full_like(levels, np.pi)
    wanted = levels * (centre - root) * np.pi
    for _ in range(60):
        middle = (low + high) / 2
        below = mass(middle) < wanted
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    return centre - half * np.cos((low + high) / 2)


def _matrix(
    dimension: object,
    eigenvalues: object,
    law: object,
    condition_number: object,
    smallest: object,
    matrix: object,
    basis_seed: object,
) -> tuple[Float64[np.ndarray, "n n"], Float64[np.ndarray, "n"]]:
    """A and its eigenvalues ascending, from whichever of the options says them."""
    size = None if dimension is None else checks.whole("problem.dimension", dimension)
    if size is not None:
        what = f"a matrix of {size} rows, with what it is made from,"
        memory.check("problem.dimension", size, what, 6 * 8 * size**2, "Lower problem.dimension.", on_host=True)
    if matrix is not None:
        if eigenvalues is not None:
            raise ConfigError("problem.matrix and problem.eigenvalues: expected one of them. Set the other to null.")
        given = checks.symmetric("problem.matrix", matrix)
        if size not in (None, len(given)):
            raise ConfigError(
                f"problem.dimension={size}: problem.matrix has {len(given)} rows. Change problem.dimension."
            )
        return given, np.linalg.eigvalsh(given).astype(np.float64)
    if eigenvalues is not None:
        chosen = np.sort(checks.vector("problem.eigenvalues", eigenvalues, size=size))
    else:
        size = size or 100
        law = checks.choice("problem.law", law, LAWS)
        condition_number = checks.number("problem.condition_number", condition_number, least=1)
        smallest = checks.number("problem.smallest", smallest, above=0)
        if size == 1 and condition_number != 1:
            raise ConfigError(
                f"problem.condition_number={condition_number:g}: a single eigenvalue has condition number 1. Change "
                "problem.condition_number or problem.dimension."
            )
        chosen = law_eigenvalues(law, dimension=size, condition_number=condition_number, smallest=smallest)
    if basis_seed is None:
        return np.diag(chosen), chosen
    basis = _orthonormal(len(chosen), checks.whole("problem.basis_seed", basis_seed, least=0))
    found = (basis * chosen) @ basis.T
    return (found + found.T) / 2, chosen


@functools.lru_cache(maxsize=4)
def _orthonormal(size: int, seed: int) -> Float64[np.ndarray, "n n"]:
    """A Haar-random orthonormal basis: QR with the signs of R's diagonal made positive (Mezzadri 2007)."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((size, size)))
    return q * np.sign(np.diagonal(r))


def _known(
    matrix: Float64[np.ndarray, "n n"], vector: Float64[np.ndarray, "n"], eigenvalues: Float64[np.ndarray, "n"]
) -> Known:
    floor = len(matrix) * np.finfo(np.float64).eps * np.abs(eigenvalues).max()
    if eigenvalues[0] < -floor:
        return Known(eigenvalues, None, -math.inf)
    if not vector.any():
        return Known(eigenvalues, np.zeros_like(vector), 0.0)
    values, vectors = np.linalg.eigh(matrix)
    components = vectors.T @ vector
    null = values <= floor
    # a component of b along the null space that rounding does not explain: the loss falls without bound along it
    if np.abs(components[null]).max(initial=0) > 1e3 * len(matrix) * np.finfo(np.float64).eps * np.linalg.norm(vector):
        return Known(eigenvalues, None, -math.inf)
    along = np.divide(components, values, out=np.zeros_like(components), where=~null)
    return Known(eigenvalues, vectors @ along, float(-0.5 * components @ along))


@functools.cache
def _random_start(size: int, dtype: np.dtype) -> Callable[[RandomKey], Flat]:
    return lambda key: jax.random.normal(key, (size,), dtype)


@functools.cache
def _given_start(start: tuple[float, ...], dtype: np.dtype) -> Callable[[RandomKey], Flat]:
    return lambda key: jnp.array(start, dtype)
