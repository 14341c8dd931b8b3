"""Readings: what a probe's eigenpairs come to, with gradient overlaps and condition numbers."""

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, Float64, PyTree

from curvexp.curvature import Objective, Operator, sampling_error
from curvexp.curvature.chunks import checked as check_chunks
from curvexp.curvature.samples import spread_over_groups
from curvexp.linalg import Eigenpairs, Estimate, dense_eigh
from curvexp.linalg.lapack import fetch, one_thread, threads
from curvexp.linalg.layout import LARGE
from curvexp.linalg.precision import full_precision
from curvexp.probe.arguments import GROUPS
from curvexp.probe.conditioning import condition_number_bound, condition_numbers, inertia_bounds
from curvexp.probe.operators import operator_of
from curvexp.probe.solve import chance
from curvexp.programs import compiled
from curvexp.record import SURE, Reading
from curvexp.types import AnyArray, Flat, Params, RandomKey, Scalar


def as_rows(vectors: PyTree[Float[AnyArray, "m ..."]]) -> Float64[np.ndarray, "m n"]:
    """Vectors as a pytree, as rows."""
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(fetch(vectors))]
    return np.concatenate([leaf.reshape(len(leaf), math.prod(leaf.shape[1:])) for leaf in leaves], axis=1)


@compiled
@full_precision
def gradient(loss: Callable[[Params], Scalar], params: Params) -> Params:
    """∇loss at params."""
    return jax.grad(loss)(params)


def _overlaps(loss: Objective, params: Params, eigenvectors: PyTree[Float[AnyArray, "m ..."]]) -> Float[AnyArray, "m"]:
    """⟨v,g⟩²/‖g‖²; of a small space on the host."""
    if size_of(params) > LARGE:
        return _overlaps_on_device(loss, params, eigenvectors)
    found = fetch(gradient(loss, params))
    flat = np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(found)])
    with one_thread(True), np.errstate(invalid="ignore", over="ignore"):
        energy = flat @ flat
        return (as_rows(eigenvectors) @ flat) ** 2 / (energy if energy > 0 else 1)


@compiled
@full_precision
def _overlaps_on_device(
    loss: Callable[[Params], Scalar], params: Params, eigenvectors: PyTree[Float[AnyArray, "m ..."]]
) -> Float[AnyArray, "m"]:
    gradient = jax.grad(loss)(params)
    energy = optax.tree.vdot(gradient, gradient)
    return jax.vmap(lambda v: optax.tree.vdot(v, gradient) ** 2)(eigenvectors) / jnp.where(energy > 0, energy, 1)


@compiled
@full_precision
def _dense(loss: Callable[[Params], Scalar], params: Params, operator: Operator) -> tuple[Float[Array, "n n"], Flat]:
    """The matrix and the gradient."""
    return operator.dense(), ravel_pytree(jax.grad(loss)(params))[0]


def drawn_sample(loss: Objective, samples: int, key: RandomKey) -> Objective:
    """The loss over examples drawn without replacement."""
    count = len(jax.tree.leaves(loss.data)[0])
    chosen = jax.random.choice(key, count, (samples,), replace=False)
    return loss._replace(data=jax.tree.map(lambda leaf: leaf[chosen], loss.data))


def partial_reading(
    loss: Objective, params: Params, found: Eigenpairs, which: str, *, operator: str = "hessian"
) -> Reading:
    values, residuals = np.asarray(found.eigenvalues, np.float64), np.asarray(found.residuals, np.float64)
    below, over = np.asarray(found.missed_ends)
    missed = {"lambda_max_missed": chance(over), **({"lambda_min_missed": chance(below)} if which == "BE" else {})}
    missed["eigenvalues_missed"] = chance(found.missed)
    return Reading(
        eigenvalues=values,
        residuals=residuals,
        gradient_overlaps=np.asarray(_overlaps(loss, params, found.eigenvectors), np.float64),
        complete=False,
        scalars={
            "lambda_max": values[-1],
            "lambda_max_residual": residuals[-1],
            **({"lambda_min": values[0], "lambda_min_residual": residuals[0]} if which == "BE" else {}),
            "condition_number_bound": condition_number_bound(values, residuals),
            **inertia_bounds(values, residuals, size=size_of(params), eps=eps_of(params), which=which),
            **missed,
            "hvps": int(found.matvecs),
        },
        extra={
            "operator": operator,
            "unchecked": [name.removesuffix("_missed") for name, value in missed.items() if value > SURE],
        },
        eigenvectors=found.eigenvectors,
    )


def marked_as_sample(
    reading: Reading, whole: Objective, part: Objective, params: Params, *, operator: str = "hessian"
) -> Reading:
    """The reading of a sample of the examples, marked as such, with what the sampling makes of its eigenvalues' errors."""
    if part is whole:
        return reading
    count, population = (len(jax.tree.leaves(loss.data)[0]) for loss in (part, whole))
    extra: dict[str, Any] = {**reading.extra, "samples": count, "population": population}
    scalars = dict(reading.scalars)
    if not reading.complete and np.isfinite(reading.eigenvalues).all():
        found = _sampling_error(part, params, reading.eigenvectors, population, operator)
        if found is not None:
            extra["sampling_error"] = np.asarray(found.stderr, np.float64)
            scalars["lambda_max_sampling_error"] = float(found.stderr[-1])
    return reading._replace(scalars=scalars, extra=extra)


def _sampling_error(
    part: Objective, params: Params, eigenvectors: PyTree[Float[AnyArray, "m ..."]], population: int, operator: str
) -> Estimate | None:
    """From as many groups of the sample as keep ghost batches whole, GROUPS of them where there are none; None where two do not."""
    count = len(jax.tree.leaves(part.data)[0])
    for groups in (GROUPS, *(groups for groups in range(GROUPS - 1, 1, -1) if count % groups == 0)):
        options: dict[str, Any] = {"vectors": eigenvectors, "population": population, "groups": groups}
        with contextlib.suppress(ValueError):
            if operator == "hessian":
                return sampling_error(part.loss, params, part.data, **options)
            check_chunks(part.loss, params, (part.data,), count // groups, name="examples of a group")
            return spread_over_groups(operator_of(part, params, operator=operator), **options)
    return None


def dense_reading(loss: Objective, params: Params, op: Operator, *, operator: str = "hessian") -> Reading:
    computed, gradient = fetch(_dense(loss, params, op))
    extra = {"operator": operator}
    if not np.isfinite(computed).all():
        empty = np.full(len(computed), np.nan)
        unknown = {"lambda_max": math.nan, "lambda_min": math.nan}
        return Reading(empty, empty, None, complete=True, scalars=unknown, extra=extra)
    values, vectors, residuals = dense_eigh(computed)
    gradient = np.asarray(gradient, np.float64)
    with threads(len(values)), np.errstate(invalid="ignore", over="ignore"):  # of a gradient that is not finite
        overlaps, energy = (vectors.T @ gradient) ** 2, float(gradient @ gradient)
    return Reading(
        eigenvalues=values,
        residuals=residuals,
        gradient_overlaps=overlaps / (energy if energy > 0 else 1.0),
        complete=True,
        scalars={
            "lambda_max": float(values[-1]),
            "lambda_min": float(values[0]),
            **condition_numbers(values, eps=float(jnp.finfo(op.dtype).eps)),
            "hvps": len(values),
        },
        extra=extra,
        eigenvectors=vectors,
    )


def eps_of(params: Params) -> float:
    """Machine epsilon of the precision that the parameters have."""
    return _eps(*{leaf.dtype for leaf in jax.tree.leaves(params)})


@functools.cache
def _eps(*dtypes: np.dtype) -> float:
    return float(jnp.finfo(jnp.result_type(*dtypes)).eps)


def size_of(params: Params) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(params))
