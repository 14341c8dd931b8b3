"""Diagonal blocks of an operator: rows and columns of some of the parameters."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import Space, space_of


def block(op: Operator, chosen: Callable[[str], bool] | str) -> Operator:
    """The diagonal block of A on some of the parameters: rows and columns of the leaves that are chosen.

    Args:
        chosen: a predicate on a leaf's path, written as "layer/kernel"; or a prefix of paths, "layer".

    Returns:
        Operator on a dict {path: array}.

    Raises:
        ValueError: no leaf is chosen; the message lists the paths.
    """
    paths = _paths(op.space)

    def takes(path: str) -> bool:
        return path == chosen or path.startswith(f"{chosen}/") if isinstance(chosen, str) else bool(chosen(path))

    picked = tuple(i for i, path in enumerate(paths) if takes(path))
    if not picked:
        raise ValueError(f"block: no parameter is chosen; expected some of {', '.join(paths)}.")
    leaves = jax.tree.leaves(op.like)
    domain = {paths[i]: leaves[i] for i in picked}
    return Operator(_Block(tuple(paths), tuple(paths[i] for i in picked)), space_of(domain), op)


def layers(op: Operator) -> dict[str, Operator]:
    """The diagonal blocks by layer: {the path without its last name: block}."""
    paths = _paths(op.space)
    names = dict.fromkeys(path.rpartition("/")[0] or path for path in paths)
    return {name: block(op, name) for name in names}


@dataclasses.dataclass(frozen=True)
class _Block:
    """Zero-padded to the whole space, multiplied, and cut out again."""

    paths: tuple[str, ...]
    chosen: tuple[str, ...]

    def __call__(self, operands: Any, v: Any) -> Any:
        op = operands
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(op.like)]
        padded = [v.get(path, zero) for path, zero in zip(self.paths, zeros, strict=True)]
        image = jax.tree.leaves(op(jax.tree.unflatten(op.space.treedef, padded)))
        return {path: leaf for path, leaf in zip(self.paths, image, strict=True) if path in self.chosen}


def _paths(space: Space) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(space.like())
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
