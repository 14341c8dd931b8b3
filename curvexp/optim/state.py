"""What an optax state holds: numbers, momentum, preconditioner."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax


def preconditioner(
    opt_state: Any, *, b1: float | None = None, b2: float | None = None, eps: float | None = None
) -> Any:
    """The diagonal P that an adaptive optax optimizer divided its last update by, a pytree like the parameters.

        Adam     (1 − b1^t)(√(ν/(1 − b2^t)) + eps), with the correction of the first moment: the step is α/P times m, not m/(1 − b1^t)
        RMSProp  √(ν + eps)
        Adagrad  √(Σg² + eps)

    Args:
        opt_state: holds the state of scale_by_adam, scale_by_rms or scale_by_rss, however deep, and may be that of
            optax.inject_hyperparams, whose numbers are then taken.
        b1, b2, eps: the optimizer's numbers where the state does not hold them; default: optax's own defaults.

    Raises:
        ValueError: no such state in it.

    Source: Cohen et al. 2022, sec. 2 and 3.
    """
    holder, _ = injected(opt_state)
    numbers = dict(holder.hyperparams) if holder else {}
    numbers |= {name: value for name, value in (("b1", b1), ("b2", b2), ("eps", eps)) if value is not None}
    kinds = (optax.ScaleByAdamState, optax.ScaleByRmsState, optax.ScaleByRssState)
    found = [s for s in jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, kinds)) if isinstance(s, kinds)]
    if not found:
        raise ValueError(
            f"no state of adam, rmsprop or adagrad in {type(opt_state).__name__}; expected one of {', '.join(k.__name__ for k in kinds)}."
        )
    state = found[0]
    if isinstance(state, optax.ScaleByAdamState):
        first, second, small = (numbers.get(name, value) for name, value in (("b1", 0.9), ("b2", 0.999), ("eps", 1e-8)))
        dtype = optax.tree.dtype(state.nu, "highest")
        t = state.count.astype(dtype)
        return jax.tree.map(lambda nu: (1 - first**t) * (jnp.sqrt(nu / (1 - second**t)) + small), state.nu)
    if isinstance(state, optax.ScaleByRmsState):
        return jax.tree.map(lambda nu: jnp.sqrt(nu + numbers.get("eps", 1e-8)), state.nu)
    return jax.tree.map(lambda total: jnp.sqrt(total + numbers.get("eps", 1e-7)), state.sum_of_squares)


def momentum_of(opt_state: Any) -> Any:
    """The momentum m in an optax state, a pytree like the parameters: the trace of sgd, Adam's first moment; None without any."""
    kinds = (optax.TraceState, optax.ScaleByAdamState)
    for state in jax.tree.leaves(opt_state, is_leaf=lambda s: isinstance(s, kinds)):
        if isinstance(state, kinds):
            return state.trace if isinstance(state, optax.TraceState) else state.mu
    return None


def injected(state: Any) -> tuple[Any, Callable[[Any], Any]]:
    """The part of an optax state that holds the numbers, and how to put it back; (None, identity) where there is none."""
    if hasattr(state, "hyperparams"):
        return state, lambda new: new
    if isinstance(state, tuple) and state and hasattr(state[0], "hyperparams"):
        return state[0], lambda new: (new, *state[1:])
    return None, lambda _: state
