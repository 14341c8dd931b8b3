"""What minibatches add to the ledger: batch sharpness and the trace of Hessian times gradient covariance."""

import itertools
import math
from collections.abc import Callable
from typing import cast

import jax
import numpy as np
import optax
from jaxtyping import Array, Float, Float64, Int

from curvexp.curvature import Objective
from curvexp.linalg.precision import full_precision
from curvexp.programs import compiled
from curvexp.types import AnyArray, Params, RandomKey, Scalar, Vector

BATCHES = 32  # most minibatches that batch sharpness and tr(HΣ) are taken over; all of them where there are no more


FEWEST_BATCHES = 8  # however large a batch is


def noise(
    loss: Objective, params: Params, batches: Int[AnyArray, "m B"]
) -> tuple[Float64[np.ndarray, "m"], Float64[np.ndarray, "m"]]:
    """What each minibatch adds to batch sharpness and to tr(HΣ): g_B'H_B g_B/‖g_B‖² and (g_B − g)'H(g_B − g).

    Their means over all minibatches are the batch sharpness, E[g_B'H_B g_B/‖g_B‖²], and tr(HΣ) with Σ the covariance of the minibatch
    gradient g_B: a step −αg_B raises the mean loss by ½α² tr(HΣ) over the full-batch step. Examples that do not meet in batch normalization
    give Σ = Σ₁(P − B)/(B(P − 1)), Σ₁ the covariance of a single example's gradient.

    Args:
        loss: over all P examples. batches: indices of the examples in each.

    Source: Andreyev, Beneventano 2024 (arXiv:2412.20553); Wu, Ma, E 2018, sec. 2.
    """
    ratios, products = _noise(loss, params, jax.device_put(np.asarray(batches)))
    return np.asarray(ratios, np.float64), np.asarray(products, np.float64)


def draw_batches(loss: Objective, batch_size: int, key: RandomKey, *, most: int = BATCHES) -> Int[Array, "m B"]:
    """Indices of minibatches as the training draws them, without replacement: all there are, where they are at most `most`."""
    count = example_count(loss)
    if batch_count(count, batch_size) <= most:
        return jax.device_put(np.array(list(itertools.combinations(range(count), batch_size))))
    number = max(min(most, 4 * count // batch_size), FEWEST_BATCHES)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    return jax.device_put(np.stack([rng.permutation(count)[:batch_size] for _ in range(number)]))


def batch_count(count: int, size: int) -> float:
    """How many minibatches there are; inf where they are more than anyone would take, whose number would cost seconds to compute."""
    return math.comb(count, size) if count <= 100 or size == count else math.inf


def example_count(loss: Objective) -> int:
    return len(jax.tree.leaves(loss.data)[0])


def noises(
    loss: Objective, params: Params, gradient: Params, product: Callable[[Vector], Vector], batches: Int[Array, "m B"]
) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    """`noise` of the batches, from gradient and products of the loss over all examples."""
    dot: Callable[[Vector, Vector], Scalar] = optax.tree.vdot

    def one(chosen: Int[Array, "B"]) -> tuple[Scalar, Scalar]:
        part = loss._replace(data=jax.tree.map(lambda leaf: leaf[chosen], loss.data))
        found, along = jax.linearize(jax.grad(cast(Callable[..., Scalar], part)), params)
        off = optax.tree.sub(found, gradient)
        return dot(found, along(found)) / dot(found, found), dot(off, product(off))

    return jax.lax.map(one, batches)


@compiled
@full_precision
def _noise(loss: Objective, params: Params, batches: Int[Array, "m B"]) -> tuple[Float[Array, "m"], Float[Array, "m"]]:
    return noises(loss, params, *jax.linearize(jax.grad(cast(Callable[..., Scalar], loss)), params), batches)
