"""Large learning rates end where it is flatter: the catapult of a two-layer linear network, and warm-up on the digits."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curvexp import optim, theory
from curvexp.study.claim import Result, at_least, at_most, equal
from curvexp.study.edge import digits_network, sharpness_path


def catapult(
    *,
    width: int = 1000,
    inside: Sequence[float] = (0.5, 2.5, 3.0, 3.5),
    outside: Sequence[float] = (4.2, 5.0),
    steps: int = 2000,
    seeds: int = 5,
    lrs: Sequence[float] = (0.1, 0.2, 0.4),
    warmup_lr: float = 1.5,
    warmup_steps: int = 1000,
    network_steps: int = 4000,
    hidden: Sequence[int] = (64, 64),
    start_scale: float = 2.0,
) -> Result:
    """½f² of f = u'v/√n, whose curvature is (‖u‖² + ‖v‖²)/n: where it ends for each lr·λ₀; then the digits: final sharpness against lr.

    Args:
        start_scale: of the initial weights in the warm-up part, so that `warmup_lr` is unstable at the start.
    """
    low, high = theory.catapult_range(1.0)
    final, losses = np.zeros((2, len(inside), seeds))
    escaped = np.zeros((len(outside), seeds))
    for seed in range(seeds):
        for i, multiple in enumerate(inside):
            losses[i, seed], final[i, seed], _ = _two_layers(
                jax.random.key(seed), jnp.asarray(float(multiple)), width=width, steps=steps
            )
        for i, multiple in enumerate(outside):
            *_, escaped[i, seed] = _two_layers(
                jax.random.key(seed), jnp.asarray(float(multiple)), width=width, steps=steps
            )
    times = np.asarray(inside, np.float64)
    unstable = (times > low) & (times < high)
    beyond = np.asarray(outside, np.float64) > high
    limit = "no tolerance: the bound is exact for a step at the end of which the loss no longer changes"
    claims = [
        at_most(f"lr·λ₀ in {_list(times[unstable])}: the loss converges", 1e-10, losses[unstable], because=limit),
        at_most(f"lr·λ₀ in {_list(times[unstable])}: it ends at lr·λ ≤ 2", low, final[unstable], because=limit),
        equal(
            f"lr·λ₀ in {_list(np.asarray(outside)[beyond])}: it diverges (1 = yes)",
            1,
            escaped[beyond],
            because="a yes or no",
        ),
        equal(
            f"lr·λ₀ in {_list(times[~unstable])}: it converges where it is, λ changing by O(1/n) alone",
            times[~unstable, None],
            final[~unstable],
            relative=10 / np.sqrt(width),
            because="λ moves by O(f²/n) with f of order 1; ten times 1/√n is generous and 2 it is not",
        ),
    ]
    problem = digits_network(hidden)
    ends, curves = [], {}
    for lr in lrs:
        path = sharpness_path(problem, optim.sgd(lr=float(lr)), steps=network_steps, every=network_steps // 10, seed=0)
        ends.append(float(path.sharpness[-1]))
        curves[f"lr {lr:g} sharpness"] = path.sharpness
    claims.append(
        at_most(
            "digits: each larger lr ends flatter (final sharpness over that of the lr below it)",
            1,
            np.divide(ends[1:], ends[:-1]),
            because="no tolerance: a comparison",
        )
    )
    every = network_steps // 10
    schedule = optax.linear_schedule(0.0, 1.0, warmup_steps)
    cold = sharpness_path(problem, optim.sgd(lr=warmup_lr), steps=network_steps, every=every, seed=0, scale=start_scale)
    warm = sharpness_path(
        problem, optim.sgd(lr=warmup_lr, schedule=schedule), steps=network_steps, every=every, seed=0, scale=start_scale
    )
    small = sharpness_path(
        problem, optim.sgd(lr=float(lrs[0])), steps=network_steps, every=every, seed=0, scale=start_scale
    )
    curves |= {"warm-up sharpness": warm.sharpness, "warm-up loss": warm.losses, "no warm-up loss": cold.losses}
    because = "no tolerance: a comparison"
    start = cold.sharpness[0] / float(theory.gradient_descent_threshold(lr=warmup_lr))
    ended = float(cold.losses[-1]) if np.isfinite(cold.losses[-1]) else 1e30
    claims += [
        at_least(
            f"digits, weights times {start_scale:g}, lr {warmup_lr:g}: unstable at the start (λ₀ over 2/lr)",
            1,
            start,
            because=because,
        ),
        at_least("the loss at the end without warm-up, over that with it", 1, ended / warm.losses[-1], because=because),
        at_most(
            f"with warm-up it ends flatter than lr {lrs[0]:g} (ratio of sharpness)",
            1,
            warm.sharpness[-1] / small.sharpness[-1],
            because=because,
        ),
    ]
    return Result(claims, {"lr·λ₀": times, "final lr·λ": final, **curves})


@functools.partial(jax.jit, static_argnames=("width", "steps"))
def _two_layers(key: Any, times: Any, *, width: int, steps: int) -> Any:
    """Final loss, final lr·λ and whether it diverged (1, 0), for lr = times/λ₀; λ by autodiff along the gradient of f, its eigenvector."""
    u, v = jax.random.normal(key, (2, width))

    def f(p: Any) -> Any:
        return jnp.vdot(p[0], p[1]) / jnp.sqrt(width)

    def loss(p: Any) -> Any:
        return 0.5 * f(p) ** 2

    def curvature(p: Any) -> Any:
        d = jax.grad(f)(p)
        return jnp.vdot(d[0], d[0]) + jnp.vdot(
            d[1], d[1]
        )  # of the Gauss-Newton part: the whole of the Hessian where f = 0, and λ of the paper

    lr = times / curvature((u, v))

    def step(p: Any, _: Any) -> Any:
        moved = jax.tree.map(lambda a, g: a - lr * g, p, jax.grad(loss)(p))
        return moved, loss(moved)

    end, losses = jax.lax.scan(step, (u, v), None, length=steps)
    diverged = ~(jnp.max(jnp.where(jnp.isfinite(losses), losses, jnp.inf)) < 1e8 * width)
    return losses[-1], lr * curvature(end), diverged.astype(u.dtype)


def _list(values: Any) -> str:
    return ", ".join(f"{value:g}" for value in values)
