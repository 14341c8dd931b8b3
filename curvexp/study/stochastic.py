"""Minibatch SGD in one dimension: where the noise of the curvature alone makes it unstable."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64

from curvexp import theory
from curvexp.study.claim import Result, equal, mean_interval
from curvexp.types import RandomKey, Scalar


def sgd_stability(
    *,
    examples: int = 40,
    mean: float = 1.0,
    deviation: float = 2.0,
    batch_sizes: Sequence[int] = (1, 4, 16, 40),
    chains: int = 400000,
    seed: int = 0,
) -> Result:
    """SGD on the mean of ½a_i x² by simulation of many chains: the factor of E x² a step, and the step at which it passes 1.

    The factor is the mean of (x₁/x₀)² over the chains; with draws of a step independent of those before, that of k steps is its power.
    """
    random = np.random.default_rng(seed)
    curvatures = random.standard_normal(examples)
    curvatures = mean + deviation * (curvatures - curvatures.mean()) / curvatures.std()
    a, s2 = float(curvatures.mean()), float(curvatures.var())
    claims, data = [], {"curvatures": curvatures}
    for size in batch_sizes:
        given: dict[str, Any] = {"mean": a, "variance": s2, "examples": examples, "batch_size": size}
        limit = float(theory.sgd_largest_lr(**given))
        batches = np.asarray(_batch_curvatures(jnp.asarray(curvatures), jax.random.key(seed), chains=chains, size=size))
        ratios = np.array([0.25, 0.5, 1.0, 1.25])
        groups = {ratio: _factors(batches, ratio * limit) for ratio in ratios}
        measured = np.array([groups[ratio].mean() for ratio in ratios])
        errors = np.array([groups[ratio].std(ddof=1) / np.sqrt(len(groups[ratio])) for ratio in ratios])
        predicted = theory.sgd_second_moment_factor(lr=ratios * limit, **given)
        sampling = "five standard errors of the simulation, measured over 20 groups of chains; none at a full batch but float64 rounding"
        claims.append(
            equal(
                f"B = {size}: E x² changes by (1−ηa)² + η²(n−B)s²/(B(n−1)) a step",
                predicted,
                measured,
                absolute=float(5 * errors.max()) + 1e-12,
                because=sampling,
            )
        )
        # E(1 − η a_B)² = 1 at η = 2 E a_B / E a_B²: the boundary that each group of chains has
        boundaries = np.array([2 * g.mean() / np.square(g).mean() for g in np.array_split(batches, 20)])
        error = float(boundaries.std(ddof=1) / np.sqrt(20))
        claims.append(
            equal(
                f"B = {size}: the largest stable η is 2a/(a² + (n−B)s²/(B(n−1)))",
                limit,
                _bisected(batches, limit),
                absolute=5 * error + 1e-9 * limit,
                because=sampling,
                interval=mean_interval(boundaries) if size < examples else None,
            )
        )
        data[f"B={size} lr/limit"], data[f"B={size} factor"] = ratios, measured
    return Result(claims, data)


@functools.partial(jax.jit, static_argnames=("chains", "size"))
def _batch_curvatures(
    curvatures: Float[np.ndarray, "P"], key: RandomKey, *, chains: int, size: int
) -> Float[Array, "chains"]:
    """Curvature of each chain's minibatch loss, drawn without replacement, by autodiff of the loss."""

    def loss(x: Scalar, batch: Float[Array, "B"]) -> Scalar:
        return jnp.mean(0.5 * batch * x**2)

    def one(key: RandomKey) -> Scalar:
        batch = jax.random.choice(key, curvatures, (size,), replace=False)
        return jax.grad(loss)(1.0, batch)

    return jax.lax.map(one, jax.random.split(key, chains), batch_size=20000)


def _factors(batches: Float[np.ndarray, "chains"], lr: float) -> Float64[np.ndarray, "groups"]:
    """Mean of (x₁/x₀)² over the chains of each of 20 groups, one step of SGD from x₀ = 1."""
    return np.array([np.square(1 - lr * group).mean() for group in np.array_split(batches, 20)])


def _bisected(batches: Float[np.ndarray, "chains"], limit: float) -> float:
    """The step size at which the simulated E x² stays as it is."""
    low, high = 0.01 * limit, 10 * limit
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if np.square(1 - middle * batches).mean() <= 1 else (low, middle)
    return low
