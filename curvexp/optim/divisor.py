"""The diagonal preconditioner P that an adaptive optimizer of optax divides by, read from its state."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from numpy.typing import ArrayLike

from curvexp.optim.injected import Injected
from curvexp.optim.state import DIVISORS, FIRST_MOMENTS, Part, assembled, holds_numbers, momentum_of, parts_of
from curvexp.types import AnyReal, OptState, Params

BESIDE = ("EmptyState", "ScaleByScheduleState")  # of steps, clips, decay, schedules: no direction of their own


def preconditioner(
    opt_state: OptState,
    transform: optax.GradientTransformation | None = None,
    *,
    b1: float | None = None,
    b2: float | None = None,
    eps: float | None = None,
    eps_root: float | None = None,
    decay: float | None = None,
    eps_in_sqrt: bool | None = None,
    bias_correction_mu: bool | None = None,
) -> Params:
    """The diagonal P that an adaptive optax optimizer divided its last update by.

        Adam, AdamW, Yogi  (1 − b1^t)(√(ν/(1 − b2^t) + eps_root) + eps), with the first moment's correction: the step is α/P times m
        AMSGrad            (1 − b1^t)(√(max ν̂ + eps_root) + eps)
        AdaBelief          (1 − b1^t)(√(ν/(1 − b2^t)) + eps)
        RMSProp            √(ν + eps), or √ν + eps; ν less the squared mean where it is centered, corrected where it is
        Adagrad            √(Σg² + eps)

    So P = −α·m/update in every entry, m the first moment in the state (RMSProp, Adagrad: the gradient), before weight decay is added.

    The state of an optimizer of `curvexp.optim` says what made it. No other does: optax leaves one class of state behind Adam, NAdam, Yogi,
    RAdam, Adamax and LAMB, with the same numbers in it. Then either `transform` is needed, on whose own updates the formula is checked,
    or every number by name, by which the caller says that the update is the table's.

    Args:
        opt_state: after an update.
        transform: what made `opt_state`. Where optax.inject_hyperparams put its numbers into the state they are taken from there.
        b1, b2, eps, eps_root, decay, eps_in_sqrt, bias_correction_mu: as the optimizer was given them, where the state does not hold them.

    Raises:
        ValueError: no update was made yet; a number is not known, and which; no such state, or several; something in it changes the update
            further; `transform` divides by another P.

    Source: Cohen et al. 2022, sec. 2 and 3.

    >>> adam = optax.inject_hyperparams(optax.adam)(learning_rate=0.1, eps=0.5)
    >>> _, state = adam.update(jnp.array([2.0, 1.0]), adam.init(jnp.zeros(2)))
    >>> [round(float(p), 5) for p in preconditioner(state, adam)]  # (1 − b1)(|g| + eps) after one update
    [0.25, 0.15]
    """
    given = {
        "b1": b1,
        "b2": b2,
        "eps": eps,
        "eps_root": eps_root,
        "decay": decay,
        "eps_in_sqrt": eps_in_sqrt,
        "bias_correction_mu": bias_correction_mu,
    }
    given = {name: value for name, value in given.items() if value is not None}
    sure = transform is not None or isinstance(opt_state, Injected)
    whole = _read(opt_state, given, sure=sure)
    if transform is not None:
        _check_updates(transform, opt_state, whole, lambda state: _read(state, given, sure=True))
    return whole


def _read(opt_state: OptState, given: Mapping[str, object], *, sure: bool) -> Params:
    """P by the formulas.

    Args:
        sure: whether the numbers in the state are known to be those of an optimizer in DIVISORS.
    """
    parts = list(parts_of(opt_state, None))
    for part in parts:
        if isinstance(part.holder, Injected) and part.holder.made.reason:
            raise ValueError(f"no preconditioner: {part.holder.made.reason}.")
    found = [part for part in parts if part.kind in DIVISORS]
    if not found:
        raise ValueError(
            f"no preconditioner: {type(opt_state).__name__} has no state of adam, rmsprop or adagrad where one is looked for; expected one "
            f"of {', '.join(DIVISORS)}, alone or in a chain, masks or injected numbers."
        )
    others = sorted({p.kind for p in parts if p.kind not in DIVISORS and p.kind not in BESIDE})
    if others:
        raise ValueError(
            f"no preconditioner: the state holds {', '.join(others)} beside {found[0].kind}, so that the update is not α/P times a "
            "first moment; expected adam, rmsprop or adagrad alone, or with clipping, weight decay or a schedule."
        )
    if _is_followed(opt_state):
        raise ValueError(
            f"no preconditioner: a part of the chain stands behind {found[0].kind}'s, and its state does not say what becomes of the "
            "update (a clip, a sign, a decay). Expected adam, rmsprop or adagrad last; put the part before, or decay by optax.adamw."
        )
    _check_updated(found)
    whole = assembled([_divisor(part, _numbers(part, given, sure=sure)) for part in found])
    if whole is None:
        raise ValueError(
            f"no preconditioner: the state holds {len(found)} of {', '.join(sorted({p.kind for p in found}))}, which do not divide "
            "each parameter once; expected one, or masked ones that together take all parameters."
        )
    return whole


def _numbers(part: Part, given: Mapping[str, object], *, sure: bool) -> dict[str, Any]:
    """What the divisor depends on, from the state that holds it, else as given."""
    needed, held = DIVISORS[part.kind], {}
    if isinstance(part.holder, Injected):
        held = {**part.holder.made.facts, **part.holder.hyperparams}
    elif part.holder is not None and sure:
        held = dict(part.holder.hyperparams)
    numbers = {**held, **given}
    missing = [name for name in needed if name not in numbers]
    if not missing:
        return {name: numbers[name] for name in needed}
    options = ", ".join(f"{name}=..." for name in missing)
    if part.holder is not None and set(missing) <= set(part.holder.hyperparams):
        raise ValueError(
            f"no preconditioner: the state has numbers beside {part.kind}, but does not say which optimizer's; nadam's look like adam's. "
            f"Pass preconditioner(opt_state, transform), or state preconditioner(opt_state, {options})."
        )
    raise ValueError(
        f"no preconditioner: {part.kind} does not hold {', '.join(missing)}, which its divisor depends on; expected the values that "
        f"the optimizer was given. Pass preconditioner(opt_state, {options}), or make the optimizer with curvexp.optim."
    )


def _divisor(part: Part, numbers: Mapping[str, Any]) -> Params:
    """The P of one state."""
    state, kind = part.state, part.kind
    if kind == "ScaleByRssState":
        return jax.tree.map(lambda total: jnp.sqrt(total + numbers["eps"]), state.sum_of_squares)
    eps = numbers["eps"]
    dtype = optax.tree.dtype(state.nu, "highest")
    if "count" in state._fields:
        t = state.count.astype(dtype)
    if kind in FIRST_MOMENTS:
        first = 1 - numbers["b1"] ** t if numbers.get("bias_correction_mu", True) else 1.0
        if kind == "ScaleByAmsgradState":
            return jax.tree.map(lambda nu: first * (jnp.sqrt(nu + numbers["eps_root"]) + eps), state.nu_max)
        second = 1 - numbers["b2"] ** t
        root = numbers["eps_root"] if kind == "ScaleByAdamState" else 0.0
        return jax.tree.map(lambda nu: first * (jnp.sqrt(nu / second + root) + eps), state.nu)
    correction = 1 - numbers["decay"] ** t if "count" in state._fields else 1.0
    squares = jax.tree.map(lambda nu: nu / correction, state.nu)
    if "mu" in state._fields:
        squares = jax.tree.map(lambda nu, mu: nu - (mu / correction) ** 2, squares, state.mu)
    inside = numbers["eps_in_sqrt"]
    return jax.tree.map(lambda nu: jnp.sqrt(nu + eps) if inside else jnp.sqrt(nu) + eps, squares)


def _check_updated(found: list[Part]) -> None:
    """Refuses a state that has made no update, where it counts them; a traced count is taken on trust."""
    for part in found:
        count = getattr(part.state, "count", getattr(part.holder, "count", None))
        if count is not None and not isinstance(count, jax.core.Tracer) and np.any(np.asarray(count) == 0):
            raise ValueError(
                f"no preconditioner: {part.kind} has made no update yet (its count is 0); expected a state after one."
            )


def _check_updates(
    transform: optax.GradientTransformation, opt_state: OptState, whole: Params, read: Callable[[OptState], Params]
) -> None:
    """Refuses P where the next update of `transform` is not −α·m/P in each entry, plus a decay of the parameters.

    The gradient is of P's size, so that what bends the update behind the division is seen. A clip of each entry before RMSProp or Adagrad
    bends it too, and is refused; Adam's m is read behind it.
    """
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(opt_state)):
        raise ValueError(
            "no preconditioner: the updates of a traced state cannot be looked at; call it outside of jax.jit."
        )
    zeros = jax.tree.map(jnp.zeros_like, whole)
    at, *slopes = (optax.tree.random_like(jax.random.key(seed), zeros, jax.random.normal) for seed in range(3))
    slopes = [jax.tree.map(jnp.multiply, slope, whole) for slope in slopes]
    moment = momentum_of(opt_state)
    if moment is None:  # a clip by the norm, before, makes another multiple of each gradient
        slopes = slopes[:1]
    pairs = []
    for slope in slopes:
        updates, after = transform.update(slope, opt_state, zeros)
        pairs.append((updates, jax.tree.map(jnp.divide, slope if moment is None else momentum_of(after), read(after))))
    elsewhere, _ = transform.update(slopes[-1], opt_state, at)
    decays = jax.tree.map(jnp.subtract, elsewhere, updates)
    # of one entry any number is a multiple: the same one is asked for both gradients
    updates, steps = (jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees) for trees in zip(*pairs, strict=True))
    lrs = {float(found) for part in parts_of(opt_state, None) if (found := _learning_rate(part)) is not None}
    lr = lrs.pop() if len(lrs) == 1 and moment is not None else None
    leaves = zip(*map(jax.tree.leaves, (updates, steps, decays, at)), strict=True)
    if not all(_is_multiple(u, s, lr) and (_is_small(d, u) or _is_multiple(d, p)) for u, s, d, p in leaves):
        raise ValueError(
            "no preconditioner: an update of transform is not −α/P times the first moment, but for a weight decay; expected "
            "adam, adamw, amsgrad, adabelief, yogi, rmsprop or adagrad with the numbers of this state, and no clip of single entries. "
            "Where the update is one of theirs all the same, pass its numbers by name, without transform."
        )


def _learning_rate(part: Part) -> AnyReal | None:
    """The number α beside a state, None where it has none or a schedule gives it."""
    if part.kind not in DIVISORS or part.holder is None or isinstance(part.holder, Injected):
        return None
    return None if getattr(part.holder, "hyperparams_states", {}) else part.holder.hyperparams.get("learning_rate")


def _is_multiple(x: ArrayLike, y: ArrayLike, lr: float | None = None) -> bool:
    """Whether x = −lr·y, or c·y for some c ≠ 0; to 1e-3 of each entry, as float32 loses digits in the first updates' corrections."""
    x, y = np.asarray(x, np.float64).ravel(), np.asarray(y, np.float64).ravel()
    factor = x @ y / (y @ y) if np.any(y) else 0.0
    if lr is not None and not np.isclose(factor, -lr, rtol=1e-3, atol=0):
        return False
    return factor != 0 and bool(np.all(np.abs(x - factor * y) <= 1e-3 * np.abs(factor * y)))


def _is_small(x: Float[Array, "..."], y: Float[Array, "..."]) -> bool:
    return float(jnp.max(jnp.abs(x))) <= 1e-5 * float(jnp.max(jnp.abs(y)))


def _is_followed(node: OptState) -> bool:
    """Whether a chain has a part without a state of its own behind a whole optimizer that divides."""
    if holds_numbers(node):
        return _is_followed(node.inner_state)
    if type(node) is not tuple:
        return False
    divides = [any(part.kind in DIVISORS for part in parts_of(child, None)) for child in node]
    inner = [
        child for child, found in zip(node, divides, strict=True) if found and type(child).__name__ not in DIVISORS
    ]
    if inner and any(type(child).__name__ == "EmptyState" for child in node[divides.index(True) + 1 :]):
        return True
    return any(_is_followed(child) for child in inner)
