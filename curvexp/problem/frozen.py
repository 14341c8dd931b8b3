"""Parameters that stay at their initial values: a model as a function of the others alone."""

import re
from collections.abc import Callable, Sequence

import jax
from jaxtyping import Array, PyTree

from curvexp.errors import ConfigError
from curvexp.types import Init, Model, Params, RandomKey


def freeze(init: Init, model: Model, patterns: Sequence[str]) -> tuple[Init, Model]:
    """Initialization and model of the parameters that remain when some are frozen.

    The frozen parameters are those of init(jax.random.key(0)), whatever the key of a run: a loss knows its parameters and its data alone.
    They are constants of the compiled programs. The tree keeps its form, with None where a parameter is frozen.

    Args:
        patterns: regular expressions; a parameter is frozen where one matches the whole of its path, "layer/kernel".

    Raises:
        ConfigError: a pattern that is none, or matches no path; or no parameter remains.

    >>> import jax, jax.numpy as jnp
    >>> init, model = freeze(lambda key: {"a": jnp.ones(2), "b": jnp.zeros(())}, lambda p, x: x @ p["a"] + p["b"], ["a"])
    >>> params = init(jax.random.key(1))
    >>> params["a"] is None, float(model(params, jnp.array([1.0, 2.0])))
    (True, 3.0)
    """
    like = jax.eval_shape(init, jax.random.key(0))
    frozen = _chosen(paths(like), patterns)
    treedef = jax.tree.structure(like)
    initial = jax.tree.leaves(jax.jit(init)(jax.random.key(0)))
    kept = [leaf if stays else None for leaf, stays in zip(initial, frozen, strict=True)]

    def start(key: RandomKey) -> Params:
        leaves = zip(jax.tree.leaves(init(key)), frozen, strict=True)
        return jax.tree.unflatten(treedef, [None if stays else leaf for leaf, stays in leaves])

    def apply(params: Params, inputs: Array) -> PyTree:
        trained = iter(jax.tree.leaves(params))
        whole = [next(trained) if value is None else value for value in kept]
        return model(jax.tree.unflatten(treedef, whole), inputs)

    return start, apply


def paths(params: Params) -> list[str]:
    """The paths of a pytree's arrays, written as "layer/kernel", as `curvexp.layers` names them.

    >>> paths({"layer": {"bias": 0.0, "kernel": 1.0}, "rest": [2.0]})
    ['layer/bias', 'layer/kernel', 'rest/0']
    """
    return [_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]


def _name(path: tuple[object, ...]) -> str:
    """A box around an array (flax.nnx's Variable), whose entry is called `value`, is no part of a path."""
    boxed = bool(path) and path[-1] == jax.tree_util.GetAttrKey("value")
    return jax.tree_util.keystr(path[:-1] if boxed else path, simple=True, separator="/")


def _chosen(names: Sequence[str], patterns: Sequence[str]) -> list[bool]:
    """Whether each path is frozen."""
    matches: list[Callable[[str], re.Match[str] | None]] = []
    listed = f"expected regular expressions of paths among {', '.join(names)}. Change problem.frozen."
    for i, pattern in enumerate(patterns):
        try:
            matches.append(re.compile(pattern).fullmatch)
        except (re.error, TypeError) as error:
            raise ConfigError(f"problem.frozen[{i}]={pattern}: {error}; {listed}") from error
        if not any(map(matches[-1], names)):
            raise ConfigError(f"problem.frozen[{i}]={pattern}: it matches no parameter; {listed}")
    found = [any(match(name) for match in matches) for name in names]
    if all(found):
        raise ConfigError(f"problem.frozen={list(patterns)}: no parameter remains to train; {listed}")
    return found
