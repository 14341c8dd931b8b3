"""What an optax state holds, in any nesting of chain, inject_hyperparams, masked and multi_transform: numbers, momentum, preconditioner.

States are told by their classes. What cannot be read for certain is absent, or refused; no number is taken for a default.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from curvexp.optim.injected import Injected

FIRST_MOMENTS = {  # an optax state's class, and where its first moment lies
    "TraceState": "trace",
    "ScaleByAdamState": "mu",
    "ScaleByAmsgradState": "mu",
    "ScaleByBeliefState": "mu",
}
DIVISORS = {  # an optax state's class, and the options that its divisor depends on
    "ScaleByAdamState": ("b1", "b2", "eps", "eps_root"),
    "ScaleByAmsgradState": ("b1", "eps", "eps_root", "bias_correction_mu"),
    "ScaleByBeliefState": ("b1", "b2", "eps"),
    "ScaleByRmsState": ("eps", "eps_in_sqrt"),
    "ScaleByRmsWithCountState": ("decay", "eps", "eps_in_sqrt"),
    "ScaleByRStdDevState": ("eps", "eps_in_sqrt"),
    "ScaleByRStdDevWithCountState": ("decay", "eps", "eps_in_sqrt"),
    "ScaleByRssState": ("eps",),
}
ASIDE = {
    "learning_rate",
    "weight_decay",
    "initial_scale",
    "initial_accumulator_value",
    "decay",
    "b2",
}  # of the same optimizers
BESIDE = (
    "EmptyState",
    "ScaleByScheduleState",
)  # states that leave a direction as it is: of steps, clips, decay, schedules


def preconditioner(
    opt_state: Any,
    *,
    b1: float | None = None,
    b2: float | None = None,
    eps: float | None = None,
    eps_root: float | None = None,
    decay: float | None = None,
    eps_in_sqrt: bool | None = None,
    bias_correction_mu: bool | None = None,
) -> Any:
    """The diagonal P that an adaptive optax optimizer divided its last update by, a pytree like the parameters.

        Adam, AdamW, Yogi  (1 − b1^t)(√(ν/(1 − b2^t) + eps_root) + eps), with the first moment's correction: the step is α/P times m
        AMSGrad            (1 − b1^t)(√(max ν̂ + eps_root) + eps)
        AdaBelief          (1 − b1^t)(√(ν/(1 − b2^t)) + eps)
        RMSProp            √(ν + eps), or √ν + eps; ν less the squared mean where it is centered, corrected where it is
        Adagrad            √(Σg² + eps)

    So P = −α·m/update in every entry, m the first moment in the state (RMSProp, Adagrad: the gradient), before weight decay is added.

    Args:
        opt_state: after an update. Its numbers are in it where `curvexp.optim` made it; where optax.inject_hyperparams did, at any depth
            of a chain, all but the two last. Those are known from no state; the others from no state of a plain optax.adam(...).
        b1, b2, eps, eps_root, decay, eps_in_sqrt, bias_correction_mu: as the optimizer was given them, where the state does not hold them.
            optax leaves one class of state behind Adam, Yogi, NAdam, RAdam, Adamax and LAMB: by giving numbers one says that the update
            is Adam's. A state that was injected for NAdam is not told from Adam's either; its P divides a mean of m and g.

    Raises:
        ValueError: a number is not known, and which; no such state, or several; something in it changes the update further.

    Source: Cohen et al. 2022, sec. 2 and 3.
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
    parts = list(_parts(opt_state, None))
    for part in parts:
        if isinstance(part.holder, Injected) and part.holder.made.reason:
            raise ValueError(f"no preconditioner: {part.holder.made.reason}.")
    found = [part for part in parts if part.kind in DIVISORS]
    if not found:
        raise ValueError(
            f"no state of adam, rmsprop or adagrad in {type(opt_state).__name__}; expected one of {', '.join(DIVISORS)}."
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
    whole = _assembled([_divisor(part, given) for part in found])
    if whole is None:
        raise ValueError(
            f"no preconditioner: the state holds {len(found)} of {', '.join(sorted({p.kind for p in found}))}, which do not divide "
            "each parameter once; expected one, or masked ones that together take all parameters."
        )
    return whole


def momentum_of(opt_state: Any) -> Any:
    """The momentum m in an optax state, a pytree like the parameters: the trace of sgd, the first moment of Adam's kind.

    None without any, with several for one parameter, for a part of the parameters alone, or of steps that were divided before.
    """
    parts = list(_parts(opt_state, None))
    divided = any(part.kind in DIVISORS and part.kind not in FIRST_MOMENTS for part in parts)
    found = [getattr(part.state, FIRST_MOMENTS[part.kind]) for part in parts if part.kind in FIRST_MOMENTS]
    return None if divided or not found else _assembled(found)


def numbers_of(opt_state: Any) -> tuple[dict[str, Any], Any]:
    """The numbers that are arrays of the state, and the count of updates; ({}, None) where none are, or where several states have some.

    What optax.inject_hyperparams takes from a schedule is left out: the state has it of the update before.
    """
    found = list(_holders(opt_state))
    if len(found) != 1:
        return {}, None
    scheduled = getattr(found[0], "hyperparams_states", {})
    return {name: value for name, value in found[0].hyperparams.items() if name not in scheduled}, found[0].count


class _Part(NamedTuple):
    kind: str
    state: Any
    holder: Any  # the nearest state around it that has its numbers, or None


def _parts(node: Any, holder: Any) -> Iterator[_Part]:
    """The states that a nesting is made of, those that are no containers."""
    kind = type(node).__name__
    if _holds(node):
        yield from _parts(node.inner_state, node)
    elif kind == "MaskedState":
        yield from _parts(node.inner_state, holder)
    elif kind == "PartitionState":
        yield from _parts(node.inner_states, holder)
    elif type(node) in (tuple, list, dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _parts(child, holder)
    else:
        yield _Part(kind, node, holder)


def _is_followed(node: Any) -> bool:
    """Whether a chain has a part without a state of its own behind a whole optimizer that divides."""
    if _holds(node):
        return _is_followed(node.inner_state)
    if type(node) is not tuple:
        return False
    divides = [any(part.kind in DIVISORS for part in _parts(child, None)) for child in node]
    inner = [
        child for child, found in zip(node, divides, strict=True) if found and type(child).__name__ not in DIVISORS
    ]
    if inner and any(type(child).__name__ == "EmptyState" for child in node[divides.index(True) + 1 :]):
        return True
    return any(_is_followed(child) for child in inner)


def _holders(node: Any) -> Iterator[Any]:
    """The outermost states that hold numbers."""
    if _holds(node):
        yield from [node] if node.hyperparams else _holders(node.inner_state)
    elif isinstance(node, tuple | list | dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _holders(child)


def _holds(node: Any) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def _assembled(trees: list[Any]) -> Any:
    """One whole tree of masked parts that have each leaf once; None where they do not."""

    def masked(node: Any) -> bool:
        return isinstance(node, optax.MaskedNode)

    flat = [jax.tree.flatten(tree, is_leaf=masked) for tree in trees]
    if len({structure for _, structure in flat}) > 1:
        return None
    columns = [[leaf for leaf in leaves if not masked(leaf)] for leaves in zip(*(f[0] for f in flat), strict=True)]
    if any(len(column) != 1 for column in columns):
        return None
    return jax.tree.unflatten(flat[0][1], [column[0] for column in columns])


def _divisor(part: _Part, given: Mapping[str, Any]) -> Any:
    """The P of one state."""
    numbers, state, kind = _numbers(part, given), part.state, part.kind
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


def _numbers(part: _Part, given: Mapping[str, Any]) -> dict[str, Any]:
    """What the divisor depends on, from the state that holds it, else as given."""
    needed, held = DIVISORS[part.kind], {}
    if part.holder is not None:
        held = dict(part.holder.hyperparams)
        if isinstance(part.holder, Injected):
            held = {**part.holder.made.facts, **held}
        else:
            _check_kind(part, held)
    numbers = {**held, **given}
    missing = [name for name in needed if name not in numbers]
    if missing:
        options = ", ".join(f"{name}=..." for name in missing)
        raise ValueError(
            f"no preconditioner: {part.kind} does not hold {', '.join(missing)}, which its divisor depends on; expected the values that "
            f"the optimizer was given. Pass preconditioner(opt_state, {options}), or make the optimizer with curvexp.optim."
        )
    return {name: numbers[name] for name in needed}


def _check_kind(part: _Part, held: Mapping[str, Any]) -> None:
    """Refuses numbers that optax.inject_hyperparams holds for another optimizer that leaves the same class of state."""
    foreign = set(held) - {*DIVISORS[part.kind], *ASIDE}
    inner = part.holder.inner_state
    parts = 2 + ("weight_decay" in held) if part.kind in FIRST_MOMENTS else 3  # of optax's chain
    longer = type(inner) is tuple and len(inner) > parts
    if foreign or longer:
        what = f"the numbers {', '.join(sorted(foreign))}" if foreign else f"a chain of {len(inner)}"
        raise ValueError(
            f"no preconditioner: {what} beside {part.kind} are not those of adam, adamw, amsgrad, rmsprop or adagrad."
        )
