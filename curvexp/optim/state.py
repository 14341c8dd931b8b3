"""What an optax state holds, in any nesting of chain, inject_hyperparams, masked and multi_transform: numbers and momentum.

States are told by their classes. What cannot be read for certain is absent; no number is taken for a default.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import optax
from jaxtyping import PyTree

from curvexp.types import AnyCount, AnyReal, OptState, Params

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


def momentum_of(opt_state: OptState) -> Params:
    """The momentum m in an optax state, a pytree like the parameters: the trace of sgd, the first moment of Adam's kind.

    None without any, with several for one parameter, for a part of the parameters alone, or of steps that were divided before.
    """
    parts = list(parts_of(opt_state, None))
    divided = any(part.kind in DIVISORS and part.kind not in FIRST_MOMENTS for part in parts)
    found = [getattr(part.state, FIRST_MOMENTS[part.kind]) for part in parts if part.kind in FIRST_MOMENTS]
    return None if divided or not found else assembled(found)


def numbers_of(opt_state: OptState) -> tuple[dict[str, AnyReal], AnyCount | None]:
    """The numbers that are arrays of the state, and the count of updates; ({}, None) where none are, or where several states have some.

    What optax.inject_hyperparams takes from a schedule is left out: the state has it of the update before.
    """
    found = list(_holders(opt_state))
    if len(found) != 1:
        return {}, None
    scheduled = getattr(found[0], "hyperparams_states", {})
    return {name: value for name, value in found[0].hyperparams.items() if name not in scheduled}, found[0].count


class Part(NamedTuple):
    kind: str
    state: OptState
    holder: OptState | None  # the nearest state around it that has its numbers, or None


def parts_of(node: OptState, holder: OptState | None) -> Iterator[Part]:
    """The states that a nesting is made of, those that are no containers."""
    kind = type(node).__name__
    if holds_numbers(node):
        yield from parts_of(node.inner_state, node)
    elif kind == "MaskedState":
        yield from parts_of(node.inner_state, holder)
    elif kind == "PartitionState":
        yield from parts_of(node.inner_states, holder)
    elif type(node) in (tuple, list, dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from parts_of(child, holder)
    else:
        yield Part(kind, node, holder)


def _holders(node: OptState) -> Iterator[OptState]:
    """The outermost states that hold numbers."""
    if holds_numbers(node):
        yield from [node] if node.hyperparams else _holders(node.inner_state)
    elif isinstance(node, tuple | list | dict):
        for child in node.values() if isinstance(node, dict) else node:
            yield from _holders(child)


def holds_numbers(node: OptState) -> bool:
    return hasattr(node, "hyperparams") and hasattr(node, "inner_state")


def assembled(trees: list[PyTree]) -> PyTree | None:
    """One whole tree of masked parts that have each leaf once; None where they do not."""

    def masked(node: PyTree) -> bool:
        return isinstance(node, optax.MaskedNode)

    flat = [jax.tree.flatten(tree, is_leaf=masked) for tree in trees]
    if len({structure for _, structure in flat}) > 1:
        return None
    columns = [[leaf for leaf in leaves if not masked(leaf)] for leaves in zip(*(f[0] for f in flat), strict=True)]
    if any(len(column) != 1 for column in columns):
        return None
    return jax.tree.unflatten(flat[0][1], [column[0] for column in columns])
