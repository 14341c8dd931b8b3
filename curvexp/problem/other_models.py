"""Problems from models of Equinox and of Haiku. Neither package is imported: a model brings what it needs."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from numpy.typing import DTypeLike

from curvexp.errors import ConfigError
from curvexp.preprocess import RAW, Preprocess
from curvexp.problem.base import Problem
from curvexp.problem.data import Dataset
from curvexp.problem.sharing import once, shared
from curvexp.problem.wrappers import Start, wrapped
from curvexp.types import AnyArray, Criterion, Model, Params, RandomKey


class Transformed(Protocol):
    """What haiku.transform returns."""

    init: Callable[..., PyTree]
    apply: Callable[..., PyTree]


def from_equinox(
    module: Callable[..., Any],
    *,
    data: Dataset,
    criterion: str | Criterion = "auto",
    shape: Sequence[int] | None = None,
    frozen: Sequence[str] = (),
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """The problem of training a module of Equinox.

    Args:
        module: called as module(key=key), it returns a pytree that can be called with one example: a class, a functools.partial of one, or
            a function. Its real arrays are the parameters, and all else in it is part of the program; None takes its place.
        data, criterion, shape, frozen, preprocess, dtype: as for `from_apply`.

    Raises:
        ConfigError: a module with arrays that are not real, or with state beside it (a pair, as eqx.nn.make_with_state returns); what else
            `from_apply` refuses.

    >>> import dataclasses
    >>> from curvexp import problem
    >>> @jax.tree_util.register_dataclass
    ... @dataclasses.dataclass
    ... class Linear:  # in place of an eqx.Module
    ...     weight: jax.Array
    ...     def __call__(self, x):
    ...         return self.weight @ x
    >>> mine = problem.from_equinox(lambda key: Linear(jax.random.normal(key, (3, 13))), data=problem.data.wine())
    >>> mine.init(jax.random.key(0)).weight.shape
    (3, 13)
    """
    start, apply = _equinox(shared("problem.module", module))
    return wrapped(
        "from_equinox",
        start,
        apply,
        data=data,
        criterion=criterion,
        shape=shape,
        frozen=frozen,
        preprocess=preprocess,
        dtype=dtype,
    )


def from_haiku(
    transformed: Transformed,
    *,
    data: Dataset,
    criterion: str | Criterion = "auto",
    shape: Sequence[int] | None = None,
    frozen: Sequence[str] = (),
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """The problem of training a function that haiku.transform made pure.

    Args:
        transformed: what haiku.transform returns; its apply is called as apply(parameters, None, inputs), without a key.
        data, criterion, shape, frozen, preprocess, dtype: as for `from_apply`.

    Raises:
        ConfigError: what haiku.transform_with_state returns; what else `from_apply` refuses.

    >>> from types import SimpleNamespace
    >>> from curvexp import problem
    >>> linear = SimpleNamespace(  # in place of haiku.transform(lambda x: haiku.Linear(3)(x))
    ...     init=lambda key, x: {"linear": {"w": jax.random.normal(key, (x.shape[1], 3))}},
    ...     apply=lambda params, key, x: x @ params["linear"]["w"],
    ... )
    >>> mine = problem.from_haiku(linear, data=problem.data.wine())
    >>> mine.init(jax.random.key(0))["linear"]["w"].shape
    (13, 3)
    """
    if not all(callable(getattr(transformed, part, None)) for part in ("init", "apply")):
        raise ConfigError(
            f"problem.transformed={type(transformed).__name__}: expected what haiku.transform returns. Change problem.transformed."
        )
    start, apply = _haiku(transformed.init, transformed.apply)
    return wrapped(
        "from_haiku",
        start,
        apply,
        data=data,
        criterion=criterion,
        shape=shape,
        frozen=frozen,
        preprocess=preprocess,
        dtype=dtype,
    )


@once
def _equinox(make: Callable[..., Any]) -> tuple[Start, Model]:
    rest: list[Any] = []  # what is no parameter, with the tree's form, from the first call

    def start(key: RandomKey, inputs: AnyArray) -> Params:
        model = make(key=key)
        leaves, treedef = jax.tree.flatten(model)
        wrong = sorted({str(leaf.dtype) for leaf in leaves if _is_array(leaf) and not _is_real(leaf)})
        if not callable(model) or wrong:
            found = f"arrays of {', '.join(wrong)}" if wrong else type(model).__name__
            raise ConfigError(
                f"problem.module: {found}; expected a model that can be called and whose arrays are parameters. Leave out state, such as "
                "that of BatchNorm (LayerNorm or GroupNorm serve), and the keys of dropout."
            )
        rest[:] = [treedef, [None if _is_array(leaf) else leaf for leaf in leaves]]
        return jax.tree.unflatten(treedef, [leaf if _is_array(leaf) else None for leaf in leaves])

    def apply(params: Params, inputs: AnyArray) -> PyTree:
        treedef, others = rest
        arrays = iter(jax.tree.leaves(params))
        model = jax.tree.unflatten(treedef, [next(arrays) if leaf is None else leaf for leaf in others])
        return jax.vmap(model)(inputs)

    return start, apply


@once
def _haiku(init: Callable[..., PyTree], run: Callable[..., PyTree]) -> tuple[Start, Model]:
    def start(key: RandomKey, inputs: AnyArray) -> Params:
        params = init(key, inputs)
        if isinstance(params, tuple):
            raise ConfigError(
                "problem.transformed: its init returns parameters and state, such as that of BatchNorm; expected haiku.transform's. Use "
                "LayerNorm or GroupNorm."
            )
        return params

    def apply(params: Params, inputs: AnyArray) -> PyTree:
        return run(params, None, inputs)

    return start, apply


def _is_array(leaf: object) -> bool:
    return isinstance(leaf, jax.Array)


def _is_real(leaf: jax.Array) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.floating))
