"""The ledger's columns: gradient, loss and contraction along each tracked eigendirection."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, PyTree

from curvexp import theory
from curvexp.linalg.lapack import fetch, threads
from curvexp.linalg.layout import LARGE
from curvexp.linalg.precision import at_least_float32, full_precision
from curvexp.optim import Optimizer, momentum_of
from curvexp.optim.base import StepMatrix
from curvexp.probe.ledger.operator import Spectrum
from curvexp.probe.ledger.past import Now, Past
from curvexp.probe.readings import as_rows, eps_of
from curvexp.programs import compiled
from curvexp.types import Params, Scalar

HIDDEN = 100  # a component under so many √n·eps of the whole is rounding


def momentum(optimizer: Optimizer, state: Any) -> Params:
    """The momentum in a training state; None where theory's iteration has none."""
    return None if optimizer.iteration is None else momentum_of(state.opt_state)


def direction_columns(
    optimizer: Optimizer,
    spectrum: Spectrum,
    past: Past,
    now: Now,
    gradient: Params,
    divisor: Params | None,
) -> tuple[dict[str, Any], dict[str, Any], float]:
    """The ledger's columns, each (k,); the numbers of the steps that they look back on; the shrinking of what is not tracked.

    Args:
        gradient: at the parameters that are now. divisor: P, or None.
    """
    state, optimum = now.state, now.optimum
    m = momentum(optimizer, state)
    before = (past.gradient, past.momentum) if past.step is not None else (gradient, m)
    vectors = {"gradient": gradient, "momentum": m, "gradient_before": before[0], "momentum_before": before[1]}
    given = {name: vector for name, vector in vectors.items() if vector is not None}
    found, norms = _project(spectrum.eigenvectors, given, state.params, optimum, divisor)
    values = spectrum.eigenvalues
    eps = eps_of(at_least_float32(state.params))
    floor = theory.rounding_floor(values, eps=eps) if spectrum.complete else spectrum.residuals
    if optimum is not None:
        along = 0.5 * values * found["offset"] ** 2
    else:
        certain = np.where(np.abs(values) > floor, np.abs(values), np.nan)
        along = 0.5 * found["gradient"] ** 2 / certain
    total = now.loss - now.base if now.base is not None and now.loss > now.base else math.nan
    steps = 0 if past.step is None else int(state.step) - int(past.step)
    used: dict[str, Any] = optimizer.hyper_before(state.opt_state, steps) if steps else dict(now.hyper)
    predicted, iteration = predicted_contraction(optimizer, used, values)
    measured, rest = np.full(len(values), np.nan), math.nan
    if steps:
        ends = [_modes(iteration, found, norms, suffix, state.params) for suffix in ("_before", "")]
        measured = np.exp(np.log(ends[1] / ends[0]) / steps)
        left = [norms[name] ** 2 - (found[name] ** 2).sum() for name in ("gradient_before", "gradient")]
        rest = float((left[1] / left[0]) ** (0.5 / steps)) if min(left) > 0 else math.nan
    columns = {
        "since": int(past.step) if steps and past.step is not None else None,
        "loss_from": "model" if optimum is None else "optimum",
        "eigenvalues": values,
        "residuals": spectrum.residuals,
        "gradient_share": (found["gradient"] / norms["gradient"]) ** 2,
        "loss_along": along,
        "loss_share": along / total,
        "contraction": measured,
        "contraction_theory": predicted,
    }
    return columns, used, rest


def predicted_contraction(
    optimizer: Optimizer, used: dict[str, Any], values: Float64[np.ndarray, "k"]
) -> tuple[Float64[np.ndarray, "k"], StepMatrix]:
    """Theory's contraction, the geometric mean over the steps of these numbers, and the iteration at their mean lr."""
    if optimizer.iteration is None:
        return np.full(len(values), np.nan), np.zeros((len(values), 1, 1))
    lr = np.atleast_1d(used[optimizer.lr_name])
    each = optimizer.iteration({**used, optimizer.lr_name: lr[:, None]}, values)
    iteration = optimizer.iteration({**used, optimizer.lr_name: float(lr.mean())}, values)
    return np.exp(np.log(theory.iteration_contraction(each)).mean(axis=0)), iteration


def _modes(
    iteration: StepMatrix,
    found: dict[str, Float64[np.ndarray, "k"]],
    norms: dict[str, float],
    suffix: str,
    params: Params,
) -> Float64[np.ndarray, "k"]:
    """Size of each direction's dominant mode; nan where the rounding of the whole hides it."""
    gradient, momentum = found[f"gradient{suffix}"], found.get(f"momentum{suffix}")
    n = sum(leaf.size for leaf in jax.tree.leaves(params))
    floor = HIDDEN * math.sqrt(n) * eps_of(params) * norms[f"gradient{suffix}"]
    if iteration.shape[-1] == 2 and momentum is not None:
        sizes = theory.dominant_mode(iteration, np.stack([gradient, momentum], axis=-1))
    else:
        sizes = np.abs(gradient)
    return np.where(sizes > floor, sizes, np.nan)


def _project(
    eigenvectors: PyTree, vectors: dict[str, Params], params: Params, optimum: Params | None, divisor: Params | None
) -> tuple[dict[str, Float64[np.ndarray, "k"]], dict[str, float]]:
    """Components along each eigenvector, and norms, in the coordinates P^(1/2)θ: of `vectors` as gradients, and of the way from the
    optimum, where it is known, as `offset`."""
    if not isinstance(eigenvectors, np.ndarray) and sum(leaf.size for leaf in jax.tree.leaves(params)) <= LARGE:
        eigenvectors, vectors, params, optimum, divisor = fetch((eigenvectors, vectors, params, optimum, divisor))
        eigenvectors = as_rows(eigenvectors).T  # the host has it before a program for it is compiled
    if isinstance(eigenvectors, np.ndarray):
        found = {name: _flat(vector) for name, vector in vectors.items()}
        if divisor is not None:
            roots = np.sqrt(_flat(divisor))
            found = {name: vector / roots for name, vector in found.items()}
        if optimum is not None:
            offset = _flat(params) - _flat(optimum)
            found["offset"] = offset if divisor is None else offset * roots
        rows = np.stack(list(found.values()))
        with threads(min(eigenvectors.shape)), np.errstate(invalid="ignore", over="ignore"):
            components = dict(zip(found, rows @ eigenvectors, strict=True))
            return components, dict(zip(found, np.linalg.norm(rows, axis=1).tolist(), strict=True))
    made, norms = fetch(_projected(eigenvectors, vectors, params, optimum, divisor))
    return {name: np.asarray(part, np.float64) for name, part in made.items()}, {k: float(v) for k, v in norms.items()}


def _flat(tree: PyTree) -> Float64[np.ndarray, "n"]:
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


@compiled
@full_precision
def _projected(
    eigenvectors: PyTree, vectors: dict[str, Params], params: Params, optimum: Params | None, divisor: Params | None
) -> tuple[dict[str, Float[Array, "k"]], dict[str, Scalar]]:
    found, offset = dict(vectors), None if optimum is None else optax.tree.sub(params, optimum)
    if divisor is not None:
        found = {name: jax.tree.map(lambda g, p: g / jnp.sqrt(p), vector, divisor) for name, vector in found.items()}
    if offset is not None:
        found["offset"] = offset if divisor is None else jax.tree.map(lambda d, p: d * jnp.sqrt(p), offset, divisor)

    def components(vector: Params) -> Float[Array, "k"]:
        return jax.vmap(lambda v: optax.tree.vdot(v, vector))(eigenvectors)

    return {name: components(vector) for name, vector in found.items()}, {
        name: optax.tree.norm(vector) for name, vector in found.items()
    }
