"""The contract of an optimizer."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float64

from curvexp import theory
from curvexp.optim import Optimizer, momentum_of
from curvexp.probe import eps_of
from curvexp.testing.promises import close, holds, shapes
from curvexp.types import OptState


def check_optimizer(optimizer: Optimizer) -> None:
    """Checks that an optimizer does what `Optimizer` promises.

    The promises: `init` and the update run under jax.jit and keep structure, shapes and dtypes; the numbers stand in the state; threshold
    and rate are those of the iteration; without a preconditioner the iteration is that of the update itself; with one the update is
    −lr·m/P, m the momentum (the gradient without momentum).

    Args:
        optimizer: with numbers for `auto`, see `curvexp.optim.resolve`.

    Raises:
        ContractError: naming the promise that is broken.
    """
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    gradient = {"a": jnp.array([0.3, -0.7]), "b": jnp.array(-0.2)}
    eps = eps_of(params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.transform.update)
    for _ in range(3):
        step, after = update(gradient, state, params)
        holds(shapes(step) == shapes(params), "an update has the structure, shapes and dtypes of the parameters")
        holds(shapes(after) == shapes(state), "the state keeps its structure, shapes and dtypes")
        before, state = state, after
    hyper = optimizer.hyper_at(before)
    for name, number in optimizer.hyper.items():
        if name != optimizer.lr_name:  # which a schedule multiplies
            close(hyper[name], number, 10 * eps, f"{name} stands in the state")
    if optimizer.preconditioner is not None:
        divisor = optimizer.preconditioner(state)
        momentum = momentum_of(state)
        moved = gradient if momentum is None else momentum
        expected = jax.tree.map(lambda m, p: -hyper[optimizer.lr_name] * m / p, moved, divisor)
        close(expected, step, 1e3 * eps, "the update is −lr·m/P")
    if optimizer.iteration is not None:
        _check_theory(optimizer, hyper)


def _check_theory(optimizer: Optimizer, hyper: dict[str, float]) -> None:
    assert optimizer.iteration is not None
    unit = 1 / hyper[optimizer.lr_name]
    values = np.array([0.01, 0.3, 0.9, 1.5]) * unit
    radius = theory.iteration_contraction(optimizer.iteration(hyper, values))
    if optimizer.rate is not None:
        close(optimizer.rate(hyper, values), radius, 1e-9, "rate is the spectral radius of the iteration")
    if optimizer.threshold is not None:
        edge = float(optimizer.threshold(hyper))
        inside, outside = theory.iteration_contraction(
            optimizer.iteration(hyper, np.array([1 - 1e-6, 1 + 1e-6]) * edge)
        )
        holds(
            inside <= 1 < outside,
            f"the iteration is stable up to threshold={edge}: its radius is {inside} under it, {outside} over it",
        )
    if optimizer.preconditioner is None and optimizer.schedule is None:
        close(_measured(optimizer, values), radius, 2e-2, "the iteration is that of the update, measured on quadratics")


def _measured(optimizer: Optimizer, values: Float64[np.ndarray, "m"], *, steps: int = 400) -> Float64[np.ndarray, "m"]:
    """Factor a step by which the updates shrink the components of a quadratic, each normalized anew before it under- or overflows."""
    curvatures = jnp.asarray(values)
    x, grown = jnp.ones_like(curvatures), np.zeros(len(values))
    state = optimizer.init(x)

    @jax.jit
    def advance(x: Float[Array, "m"], state: OptState) -> tuple[Float[Array, "m"], OptState]:
        step, state = optimizer.transform.update(curvatures * x, state, x)
        return optax.apply_updates(x, step), state

    for count in range(steps):
        x, state = advance(x, state)
        if count % 20 == 19:  # linear: momentum is scaled with x
            size = jnp.maximum(
                jnp.abs(x), jnp.abs(momentum_of(state)) / curvatures if momentum_of(state) is not None else 0
            )
            grown += np.log(np.asarray(size, np.float64))
            x = x / size
            state = jax.tree.map(functools.partial(_divided, by=size), state)
    return np.exp(grown / steps)


def _divided(leaf: Any, *, by: Array) -> Any:
    """The moments of a state divided; its numbers and counts as they are."""
    return leaf / by if jnp.shape(leaf) == by.shape else leaf
