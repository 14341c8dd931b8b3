"""Probes: which curvature is measured at a step, and how exactly.

A probe of your own is one function that returns a `Probe` whose `measure(loss, params, state, key)` gives a `Reading` and the state
that the next call gets (the last eigenvectors, for a warm start).
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import scipy.linalg
from jax.flatten_util import ravel_pytree

from curvexp import theory
from curvexp.curvature import hessian, preconditioned
from curvexp.errors import ConfigError
from curvexp.linalg import eigsh
from curvexp.record import Reading

Loss = Callable[[Any], Any]


class Probe(NamedTuple):
    """What is measured of the loss's curvature, and when.

    Attributes:
        name: the option's name.
        measure: (loss, params, state, key) -> (Reading, state). `loss` is a `jax.tree_util.Partial` of one argument over all the
            training data: pass it through `jax.jit` as an argument, and one program serves every run. None measures nothing.
        every: steps between two readings; the first and the last step are always read.
        state: what `measure` gets at its first call.
        check: (parameters, dtype) -> None, raises ConfigError where the probe cannot serve a problem of this size.
        tol: relative residual asked of the sharpness of a preconditioned Hessian.
    """

    name: str
    measure: Callable[[Loss, Any, Any, Any], tuple[Reading, Any]] | None
    every: int = 100
    state: Any = None
    check: Callable[[int, Any], None] = lambda size, dtype: None
    tol: float = 1e-3


def off() -> Probe:
    """No curvature at all: loss and gradient norm only."""
    return Probe("off", None)


def exact(*, every: int = 100, limit: int = 4000) -> Probe:
    """All eigenvalues of the dense Hessian, by LAPACK in float64.

    The Hessian itself is computed in the run's precision and is exact to its rounding; its asymmetry, which is rounding alone, enters
    the residuals.

    Args:
        every: steps between readings.
        limit: most parameters it accepts; n parameters take 8n² bytes three times over and n³ operations.
    """
    _count("every", every)
    _count("limit", limit)

    def check(size: int, dtype: Any) -> None:
        if size > limit:
            raise ConfigError(
                f"probe.limit={limit}: probe=exact would need the dense Hessian of {size} parameters, "
                f"{3 * 8 * size**2 / 2**30:.1f} GiB. Choose probe=top, or raise probe.limit."
            )

    return Probe("exact", lambda loss, params, state, key: (_dense_reading(loss, params), state), every, None, check)


def top(*, k: int | None = None, every: int = 100, tol: float = 1e-3, dense_below: int = 200) -> Probe:
    """The k largest and the k smallest eigenvalues, by Lanczos with residual bounds, warm-started from the last reading.

    Args:
        k: eigenpairs from each end; None: five, or all where there are fewer.
        every: steps between readings.
        tol: residual ‖Hv − λv‖ asked for, relative to ‖H‖.
        dense_below: up to this many parameters (or where 2k cover them all) the whole spectrum is computed densely: it costs less.
    """
    if k is not None:
        _count("k", k)
    pairs = 5 if k is None else k
    _count("every", every)
    if not _is_number(tol) or not 0 < tol < 1:
        raise ConfigError(f"probe.tol={tol}: expected a number in (0, 1), the relative residual. Change probe.tol.")
    _count("dense_below", dense_below, least=0)

    def check(size: int, dtype: Any) -> None:
        if k is not None and k > size:
            raise ConfigError(
                f"probe.k={k}: expected 1 <= k <= {size}, the number of parameters. Lower probe.k, or choose probe=exact."
            )

    def measure(loss: Loss, params: Any, state: Any, key: Any) -> tuple[Reading, Any]:
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        if size <= max(dense_below, 2 * pairs):
            return _dense_reading(loss, params), state
        found = eigsh(hessian(loss, params), k=2 * pairs, which="BE", tol=tol, start=state, key=key)
        values = np.asarray(found.eigenvalues, np.float64)
        reading = Reading(
            eigenvalues=values,
            residuals=np.asarray(found.residuals, np.float64),
            gradient_overlaps=np.asarray(_overlaps(loss, params, found.eigenvectors), np.float64),
            complete=False,
            scalars={
                "lambda_max": values[-1],
                "lambda_min": values[0],
                "lambda_max_residual": float(found.residuals[-1]),
                "lambda_min_residual": float(found.residuals[0]),
                "condition_number_bound": _ratio(values),
                "hvps": int(found.matvecs),
            },
            extra={},
        )
        return reading, found.eigenvectors if np.isfinite(values).all() else None

    return Probe("top", measure, every, None, check, tol)


def condition_numbers(eigenvalues: Any, *, eps: float) -> dict[str, float]:
    """Condition numbers of a complete spectrum, and what they leave out.

    condition_number = max|λ| / min|λ|, infinite where min|λ| is below the rounding floor n·eps·max|λ|; condition_number_positive =
    λmax / smallest eigenvalue above the floor, nan where none is.

    Args:
        eigenvalues: all of them, (n,). eps: machine epsilon of the precision that the matrix was computed in.

    Source: Goodfellow et al. 2016, eq. 4.2; the floor is the usual one of numerical rank (LAPACK, numpy.linalg.matrix_rank).
    """
    values = np.asarray(eigenvalues, np.float64)
    sizes = np.abs(values)
    floor = theory.rounding_floor(values, eps=eps)
    positive = values[values > floor]
    return {
        "condition_number": float(sizes.max() / sizes.min()) if sizes.min() > floor else math.inf,
        "condition_number_positive": float(positive.max() / positive.min()) if len(positive) else math.nan,
        "floor": floor,
        "below_floor": int((sizes <= floor).sum()),
        "negative": int((values < -floor).sum()),
    }


def sharpness(
    loss: Loss, params: Any, preconditioner: Any, *, start: Any = None, tol: float, key: Any
) -> tuple[float, float, Any]:
    """Largest eigenvalue of P^(-1/2) H P^(-1/2), its residual, and its eigenvector for the next warm start.

    Args:
        preconditioner: the diagonal P, a positive pytree like params. start: the last eigenvector. tol: relative residual.

    Source: Cohen et al. 2022, sec. 3.
    """
    found = eigsh(preconditioned(hessian(loss, params), preconditioner), k=1, which="LA", tol=tol, start=start, key=key)
    value = float(found.eigenvalues[-1])
    return value, float(found.residuals[-1]), found.eigenvectors if math.isfinite(value) else None


def along(loss: Loss, params: Any, step: Any) -> dict[str, float]:
    """Directional curvature along the gradient, and what a step does to the loss beside what its Taylor model says.

    Args:
        step: the change of params that the optimizer is about to make, a pytree like params.

    Returns:
        gradient_curvature g'Hg/g'g, best_lr_gradient g'g/g'Hg, change_predicted g's + ½s'Hs, change_actual.
    """
    gg, ghg, gs, shs, change = (float(value) for value in _along(loss, params, step))
    return {
        "gradient_curvature": ghg / gg if gg > 0 else math.nan,
        "best_lr_gradient": float(theory.best_step_along_gradient(gg, ghg)),
        "change_predicted": float(theory.taylor_change(gs, shs)),
        "change_actual": change,
    }


@jax.jit
def _along(loss: Loss, params: Any, step: Any) -> tuple[Any, ...]:
    gradient = jax.grad(loss)(params)

    def product(v: Any) -> Any:
        return jax.jvp(jax.grad(loss), (params,), (v,))[1]

    return (
        optax.tree.vdot(gradient, gradient),
        optax.tree.vdot(gradient, product(gradient)),
        optax.tree.vdot(gradient, step),
        optax.tree.vdot(step, product(step)),
        loss(optax.apply_updates(params, step)) - loss(params),
    )


@jax.jit
def _overlaps(loss: Loss, params: Any, eigenvectors: Any) -> Any:
    gradient = jax.grad(loss)(params)
    energy = optax.tree.vdot(gradient, gradient)
    return jax.vmap(lambda v: optax.tree.vdot(v, gradient) ** 2)(eigenvectors) / jnp.where(energy > 0, energy, 1)


_gradient = jax.jit(lambda loss, params: jax.grad(loss)(params))


def _dense_reading(loss: Loss, params: Any) -> Reading:
    operator = hessian(loss, params)
    computed = np.asarray(operator.dense(), np.float64)
    gradient = np.asarray(ravel_pytree(_gradient(loss, params))[0], np.float64)
    if not np.isfinite(computed).all():
        empty = np.full(len(computed), np.nan)
        return Reading(
            empty, empty, None, complete=True, scalars={"lambda_max": math.nan, "lambda_min": math.nan}, extra={}
        )
    values, vectors = scipy.linalg.eigh((computed + computed.T) / 2)
    energy = float(gradient @ gradient)
    return Reading(
        eigenvalues=values,
        residuals=np.linalg.norm(computed @ vectors - vectors * values, axis=0),
        gradient_overlaps=(vectors.T @ gradient) ** 2 / (energy if energy > 0 else 1.0),
        complete=True,
        scalars={
            "lambda_max": float(values[-1]),
            "lambda_min": float(values[0]),
            **condition_numbers(values, eps=float(jnp.finfo(operator.dtype).eps)),
            "hvps": len(values),
        },
        extra={},
    )


def _ratio(values: np.ndarray) -> float:
    """max|λ| / min|λ| over the eigenvalues found: a lower bound of the condition number."""
    sizes = np.abs(values)
    return float(sizes.max() / sizes.min()) if sizes.min() > 0 else math.inf


def _count(key: str, value: Any, *, least: int = 1) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= 10**9:
        raise ConfigError(f"probe.{key}={value}: expected an integer from {least} to 10^9. Change probe.{key}.")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
