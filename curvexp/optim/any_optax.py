"""Any transformation of optax as an Optimizer."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import optax

from curvexp.errors import ConfigError
from curvexp.number import is_number
from curvexp.optim.base import Optimizer, Schedule, scheduled
from curvexp.optim.ours import checked_lr


def from_optax(
    transform: Callable[..., Any], *, schedule: Schedule | None = None, name: str | None = None, **options: Any
) -> Optimizer:
    """Any optax transformation, with its numeric options as arrays in its state; no theory goes with it.

    Args:
        transform: a function of optax, or one with its manners, e.g. optax.lion.
        schedule: step -> multiplier of the learning rate.
        options: its arguments; `lr` stands for `learning_rate`.

    Raises:
        ConfigError: an option that `transform` does not take, or none for one that it needs.
    """
    known = inspect.signature(transform).parameters
    if "lr" in options and "lr" not in known and "learning_rate" in known:
        options["learning_rate"] = options.pop("lr")
    if options.get("learning_rate") == "auto":
        raise ConfigError(
            f"optim.lr=auto: no stability threshold is known for {_name(transform)}; expected a number, e.g. optim.lr=1e-3."
        )
    numbers = {key: float(value) for key, value in options.items() if is_number(value)}
    if "learning_rate" in numbers:
        checked_lr(numbers["learning_rate"])
    fixed = tuple((key, value) for key, value in options.items() if key not in numbers)
    try:
        built = _from_optax(transform, tuple(numbers), fixed, schedule)
    except TypeError as error:
        raise ConfigError(
            f"optim._target_={_name(transform)}: {error}. Set or remove optim.KEY accordingly."
        ) from error
    return Optimizer(name or _name(transform), built, numbers, schedule=schedule)


@functools.cache
def _from_optax(
    transform: Callable[..., Any], names: tuple[str, ...], fixed: tuple[tuple[str, Any], ...], schedule: Schedule | None
) -> Any:
    return scheduled(optax.inject_hyperparams(transform)(**dict.fromkeys(names, 0.5), **dict(fixed)), schedule)


def _name(function: Any) -> str:
    return getattr(getattr(function, "func", function), "__name__", str(function))  # optax.nadam is a partial of adam
