"""Problems from models of Flax: Linen's modules, and those of flax.nnx."""

import contextlib
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import nnx
from flax.errors import InvalidRngError
from jaxtyping import PyTree
from numpy.typing import DTypeLike

from curvexp.errors import ConfigError
from curvexp.preprocess import RAW, Preprocess
from curvexp.problem.base import Problem
from curvexp.problem.data import Dataset
from curvexp.problem.sharing import once, shared
from curvexp.problem.wrappers import Start, wrapped
from curvexp.types import AnyArray, Criterion, Model, Params, RandomKey

STATISTICS = "Use LayerNorm or GroupNorm in place of BatchNorm; problem=mlp with preprocess=batchnorm has batch statistics in its loss."
DETERMINISTIC = "Build the model with deterministic=True, so that the loss is a function of the parameters alone."


def from_flax(
    module: nn.Module,
    *,
    data: Dataset,
    criterion: str | Criterion = "auto",
    shape: Sequence[int] | None = None,
    frozen: Sequence[str] = (),
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """The problem of training a module of Flax Linen.

    Args:
        module: called as module(inputs), without a key; its variables are parameters alone, the collection `params`.
        data, criterion, shape, frozen, preprocess, dtype: as for `from_apply`.

    Raises:
        ConfigError: a module with other variables, such as BatchNorm's running statistics, or one that draws random numbers, such as
            dropout; what else `from_apply` refuses. All before the module is run.

    >>> from flax import linen as nn
    >>> from curvexp import problem
    >>> mine = problem.from_flax(nn.Dense(10), data=problem.data.digits())
    >>> jax.tree.map(jnp.shape, mine.init(jax.random.key(0)))
    {'bias': (10,), 'kernel': (64, 10)}
    """
    if not isinstance(module, nn.Module):
        cure = "Call problem.from_nnx, " if _is_nnx(module) else "Give an object of the class, "
        raise ConfigError(
            f"problem.module={module!r:.80}: expected a flax.linen.Module. {cure}or change problem.module."
        )
    start, apply = _linen(module)
    return wrapped(
        "from_flax",
        start,
        apply,
        data=data,
        criterion=criterion,
        shape=shape,
        frozen=frozen,
        preprocess=preprocess,
        dtype=dtype,
    )


def from_nnx(
    module: Callable[..., nnx.Module],
    *,
    data: Dataset,
    criterion: str | Criterion = "auto",
    shape: Sequence[int] | None = None,
    frozen: Sequence[str] = (),
    preprocess: Preprocess = RAW,
    dtype: DTypeLike = jnp.float32,
) -> Problem:
    """The problem of training a module of flax.nnx.

    Args:
        module: called as module(rngs=rngs), it returns the nnx.Module: a class, a functools.partial of one, or a function. All of the
            module's state is nnx.Param.
        data, criterion, shape, frozen, preprocess, dtype: as for `from_apply`; parameters are a dict of dicts.

    Raises:
        ConfigError: a module with other state, such as nnx.BatchStat or the nnx.RngState of dropout; what else `from_apply` refuses. All
            before the module is run.

    >>> from flax import nnx
    >>> from curvexp import problem
    >>> mine = problem.from_nnx(lambda rngs: nnx.Linear(64, 10, rngs=rngs), data=problem.data.digits())
    >>> jax.tree.map(jnp.shape, mine.init(jax.random.key(0)))
    {'bias': (10,), 'kernel': (64, 10)}
    """
    if not callable(module) or _is_nnx(module):
        raise ConfigError(
            f"problem.module={type(module).__name__}: expected a function of rngs that builds the module, so that each run has "
            "its own key. Give the class, or lambda rngs: MyModel(rngs=rngs)."
        )
    start, apply = _nnx(shared("problem.module", module))
    return wrapped(
        "from_nnx",
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
def _linen(module: nn.Module) -> tuple[Start, Model]:
    name = f"problem.module={type(module).__name__}"

    def start(key: RandomKey, inputs: AnyArray) -> Params:
        with _without_randomness(name):
            variables = module.init(key, inputs)
        other = sorted(set(variables) - {"params"})
        if other:
            raise ConfigError(
                f"{name}: variables {', '.join(other)} beside the parameters; expected the collection params alone. {STATISTICS}"
            )
        return nn.meta.unbox(variables.get("params", {}))

    def apply(params: Params, inputs: AnyArray) -> PyTree:
        with _without_randomness(name):
            return module.apply({"params": params}, inputs)

    return start, apply


@once
def _nnx(make: Callable[..., nnx.Module]) -> tuple[Start, Model]:
    def start(key: RandomKey, inputs: AnyArray) -> Params:
        _, params = _split(_made(make, key))
        return nnx.to_pure_dict(params)

    @functools.cache
    def form() -> tuple[Any, Any]:
        return _split(nnx.eval_shape(lambda: _made(make, 0)))

    def apply(params: Params, inputs: AnyArray) -> PyTree:
        graph, like = form()
        state = jax.tree.map(lambda leaf: leaf, like)  # a copy, which is filled
        nnx.replace_by_pure_dict(state, params)
        with _without_randomness("problem.module"):
            return nnx.merge(graph, state)(inputs)

    return start, apply


def _made(make: Callable[..., nnx.Module], key: RandomKey | int) -> nnx.Module:
    model = make(rngs=nnx.Rngs(key))
    if not _is_nnx(model):
        raise ConfigError(
            f"problem.module: it returned {type(model).__name__}; expected an nnx.Module. Change problem.module."
        )
    return model


def _split(model: nnx.Module) -> tuple[Any, Any]:
    """The module's graph, and its parameters; any other state is refused."""
    params, other = nnx.split_state(nnx.state(model), nnx.Param, ...)
    found = nnx.to_flat_state(other)
    if not found:
        return nnx.graphdef(model), params
    listed = ", ".join(f"{'/'.join(map(str, path))} ({type(value).__name__})" for path, value in found)
    random = any(isinstance(value, nnx.RngState) for _, value in found)
    cure = f"{DETERMINISTIC[:-1]}, and its nnx.Dropout without rngs." if random else STATISTICS
    raise ConfigError(f"problem.module: state beside the parameters: {listed}; expected nnx.Param alone. {cure}")


@contextlib.contextmanager
def _without_randomness(name: str) -> Iterator[None]:
    """Refuses a module that draws random numbers, or does not know whether to: Flax tells the latter by a ValueError."""
    try:
        yield
    except (InvalidRngError, ValueError) as error:
        if isinstance(error, ValueError) and "deterministic" not in str(error):
            raise
        what = " ".join(str(error).split(" (http")[0].split()).rstrip(".")
        raise ConfigError(f"{name}: {what}; expected a model without random numbers. {DETERMINISTIC}") from error


def _is_nnx(value: object) -> bool:
    return isinstance(value, nnx.Module)
