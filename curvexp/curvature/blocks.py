"""Diagonal blocks of an operator: rows and columns of some of the parameters."""

import dataclasses
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from jax.tree_util import PyTreeDef

from curvexp.curvature.operator import Operator
from curvexp.linalg.vectors import Space, space_of
from curvexp.types import Vector


def block(op: Operator, chosen: Callable[[str], bool] | str) -> Operator:
    """The diagonal block of A on some of the parameters: rows and columns of the leaves that are chosen.

    Args:
        chosen: a predicate on a leaf's path, written as "layer/kernel"; or a prefix of paths, "layer". A box around an array (flax.nnx's
            Variable, Linen's Partitioned), whose entry is called `value`, is no part of a path.

    Returns:
        Operator on a dict {path: array}.

    Raises:
        ValueError: no leaf is chosen; the message lists the paths.

    >>> import curvexp
    >>> op = curvexp.hessian(lambda p: p["a"][0] ** 2 + 3 * p["b"][0] ** 2, {"a": jnp.ones(1), "b": jnp.ones(1)})
    >>> part = curvexp.block(op, "b")
    >>> part.size, part({"b": jnp.ones(1)})["b"].tolist()
    (1, [6.0])
    """
    known = paths(op.space)

    def takes(path: str) -> bool:
        return path == chosen or path.startswith(f"{chosen}/") if isinstance(chosen, str) else bool(chosen(path))

    picked = [path for path in known if takes(path)]
    if not picked:
        raise ValueError(f"block: no parameter is chosen; expected some of {', '.join(known)}.")
    return _block_of(op, known, picked)


def layers(op: Operator) -> dict[str, Operator]:
    """The diagonal blocks by layer, disjoint and together all parameters: {the layer's path: block}.

    A layer is the arrays that lie side by side, at one path up to its last name: {"block": {"scale": s, "dense": {"kernel": k, "bias": b}}}
    has the layers "block", s alone, and "block/dense", k and b. An array that has no path above itself is a layer of its own.

    >>> import jax, jax.numpy as jnp, curvexp
    >>> params = {"block": {"scale": jnp.ones(2), "dense": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}}}
    >>> op = curvexp.hessian(lambda p: sum(jnp.sum(a**2) for a in jax.tree.leaves(p)), params)
    >>> {name: part.size for name, part in curvexp.layers(op).items()}
    {'block/dense': 6, 'block': 2}
    """
    known = paths(op.space)
    return {name: _block_of(op, known, picked) for name, picked in layer_paths(op.space).items()}


def paths(space: Space) -> list[str]:
    """The paths of a space's arrays, written as "layer/kernel"; as JAX writes them where names with a slash would make two alike.

    >>> paths(space_of({"layer": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}}))
    ['layer/bias', 'layer/kernel']
    """
    found = ["/".join(names) for names in _leaf_names(space)]
    if len(set(found)) < len(found):
        return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(space.like())]
    return found


def layer_paths(space: Space) -> dict[str, tuple[str, ...]]:
    """The paths of the arrays of each layer, as `layers` parts them: {the layer's path: paths}.

    >>> layer_paths(space_of({"layer": {"bias": jnp.ones(2), "kernel": jnp.ones((2, 2))}}))
    {'layer': ('layer/bias', 'layer/kernel')}
    """
    members: dict[tuple[str, ...], list[str]] = {}
    for path, names in zip(paths(space), _leaf_names(space), strict=True):
        members.setdefault(tuple(names[:-1] or names), []).append(path)
    found = ["/".join(layer) for layer in members]
    if len(set(found)) < len(found):  # of names with a slash
        found = [str(layer) for layer in members]
    return {name: tuple(picked) for name, picked in zip(found, members.values(), strict=True)}


def _block_of(op: Operator, known: Sequence[str], picked: Sequence[str]) -> Operator:
    like = dict(zip(known, jax.tree.leaves(op.like), strict=True))
    return Operator(_Block(tuple(known), tuple(picked)), space_of({path: like[path] for path in picked}), op)


@dataclasses.dataclass(frozen=True)
class _Block:
    """Zero-padded to the whole space, multiplied, and cut out again."""

    paths: tuple[str, ...]
    chosen: tuple[str, ...]

    def __call__(self, operands: Operator, v: Vector) -> Vector:
        op = operands
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(op.like)]
        padded = [v.get(path, zero) for path, zero in zip(self.paths, zeros, strict=True)]
        image = jax.tree.leaves(op(jax.tree.unflatten(op.space.treedef, padded)))
        return {path: leaf for path, leaf in zip(self.paths, image, strict=True) if path in self.chosen}


def _leaf_names(space: Space) -> list[list[str]]:
    """The names on each leaf's path, those of boxes left out."""
    found = [path for path, _ in jax.tree_util.tree_leaves_with_path(space.like())]
    return [
        [jax.tree_util.keystr((key,), simple=True) for key, boxed in zip(path, flags, strict=True) if not boxed]
        for path, flags in zip(found, _boxes(space.treedef), strict=True)
    ]


def _boxes(treedef: PyTreeDef) -> list[tuple[bool, ...]]:
    """For each leaf, whether each node above it is a box: a type of its own around one array, which it calls `value`."""
    node = treedef.node_data()
    if node is None:
        return [()]
    children = treedef.children()
    lone = len(children) == 1 and jax.tree_util.treedef_is_leaf(children[0]) and children[0].num_leaves == 1
    boxed = lone and not issubclass(node[0], dict | list | tuple) and _only_name(treedef) == "value"
    return [(boxed, *below) for child in children for below in _boxes(child)]


def _only_name(treedef: PyTreeDef) -> str:
    ((path, _),) = jax.tree_util.tree_leaves_with_path(jax.tree.unflatten(treedef, [0]))
    return jax.tree_util.keystr(path, simple=True)
