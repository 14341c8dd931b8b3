"""A transformation whose numbers are arrays in its state: one object serves every learning rate, and can be vmapped over them.

As optax.inject_hyperparams, with three differences: the state begins with its numbers, also where they decide what it begins with; it
says what made it, so that its formula can be read; and its arrays keep their types, as beside Python's own numbers.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int

from curvexp.types import AnyCount, AnyReal, OptState, Params, Scalar

Schedule = Callable[[AnyCount], float | Scalar]


@jax.tree_util.register_static
class Made:
    """What made a transformation; equal to itself alone.

    Attributes:
        build: (numbers, count) -> the transformation with these numbers at this step.
        facts: options that are no arrays, those that were left at their defaults too.
        reason: why no preconditioner can be read from its state, else None.
    """

    def __init__(
        self, build: Callable[..., optax.GradientTransformation], facts: Mapping[str, object], reason: str | None
    ) -> None:
        self.build, self.facts, self.reason = build, dict(facts), reason

    def start(self, params: Params, numbers: Mapping[str, AnyReal | float]) -> "Injected":
        """The state at `params`."""
        held = {name: jnp.asarray(value) for name, value in numbers.items()}
        count = jnp.zeros([], jnp.int32)
        return Injected(count, held, self.build(held, count).init(params), self)


class Injected(NamedTuple):
    """State of an `injected` transformation, in the names of optax.inject_hyperparams.

    Attributes:
        count: updates made, int32. hyperparams: the numbers, lr without its schedule. inner_state: of the transformation.
        made: what made it; no array.
    """

    count: Int[Array, ""]  # type: ignore[assignment]  # no tuple.count
    hyperparams: dict[str, Scalar]
    inner_state: OptState
    made: Made


def injected(
    function: Callable[..., optax.GradientTransformation],
    names: tuple[str, ...],
    *,
    given: Mapping[str, object] | None = None,
    args: tuple[object, ...] = (),
    facts: Mapping[str, object] | None = None,
    reason: str | None = None,
    schedule: Schedule | None = None,
    lr_name: str = "lr",
    as_function: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """The transformation function(*args, **numbers, **given), its numbers arrays of its state.

    Args:
        names: of the numbers. given, args: what is no array. facts, reason: see `Made`.
        schedule: step -> multiplier of the number `lr_name`.
        as_function: the schedule goes in as optax takes one, a function of the transformation's own count; else as the number that it
            gives at each step.
    """
    fixed = dict(given or {})

    def build(numbers: Mapping[str, Any], count: Int[Array, ""]) -> optax.GradientTransformationExtraArgs:
        options = dict(numbers)
        if schedule is not None:
            lr = options[lr_name]
            options[lr_name] = (lambda step: lr * schedule(step)) if as_function else lr * schedule(count)
        return optax.with_extra_args_support(function(*args, **options, **fixed))

    made = Made(build, facts or {}, reason)

    def init(params: Params) -> Injected:
        """Without numbers yet: NaN, until Optimizer.init or the caller puts them in."""
        return made.start(params, {name: jnp.full((), jnp.nan, numbers_dtype(params)) for name in names})

    def update(updates: Params, state: Injected, params: Params | None = None, **extra: Any) -> tuple[Params, Injected]:
        inner = build(state.hyperparams, state.count)
        changes, after = inner.update(updates, state.inner_state, params, **extra)
        after = jax.tree.map(_of_type, after, state.inner_state)
        changes = jax.tree.map(_of_type, changes, updates)
        return changes, state._replace(count=optax.safe_increment(state.count), inner_state=after)

    return optax.GradientTransformationExtraArgs(init, update)


def numbers_dtype(params: Params) -> np.dtype:
    """The dtype of an optimizer's numbers: the widest of the parameters', float32 at least, as b2 = 0.999 is 1 in bfloat16."""
    return jnp.result_type(jnp.float32, *(leaf.dtype for leaf in jax.tree.leaves(params)))


def _of_type(new: Array, old: Array) -> Array:
    return new if jnp.asarray(new).dtype == jnp.asarray(old).dtype else jnp.asarray(new).astype(old.dtype)
