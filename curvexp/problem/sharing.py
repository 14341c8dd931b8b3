"""Equal functions as one object: jax.jit knows a function by identity, so that a program is compiled once for all that are equal."""

import functools
from collections.abc import Callable
from typing import Any, TypeVar

from curvexp.errors import ConfigError

Built = TypeVar("Built")


def once(build: Callable[..., Built]) -> Callable[..., Built]:
    """The function, whose result is kept for equal arguments; built anew each time where they cannot be hashed.

    >>> make = once(lambda *args: list(args))
    >>> make(1, 2) is make(1, 2), make([]) is make([])
    (True, False)
    """
    kept = functools.cache(build)

    @functools.wraps(build)
    def call(*args: Any) -> Built:
        try:
            hash(args)
        except TypeError:
            return build(*args)
        return kept(*args)

    return call


def shared(key: str, function: Callable[..., Built]) -> Callable[..., Built]:
    """The function itself; of equal `functools.partial`s, which YAML's `_partial_` makes, one for all.

    Args:
        key: of the option, for the message.

    Raises:
        ConfigError: what cannot be called, or cannot be hashed.

    >>> shared("problem.apply", functools.partial(max, 1)) is shared("problem.apply", functools.partial(max, 1))
    True
    """
    if not callable(function):
        raise ConfigError(f"{key}={function}: expected a function. Change {key}.")
    if isinstance(function, functools.partial):
        keywords = sorted(function.keywords.items(), key=lambda item: item[0])
        # 1, 1.0 and True are equal, and make other models
        kinds = tuple(type(value) for value in (*function.args, *(value for _, value in keywords)))
        return _partial(function.func, function.args, tuple(keywords), kinds)
    try:
        hash(function)
    except TypeError as error:
        raise ConfigError(f"{key}: {error}; expected a function that can be hashed. Change {key}.") from error
    return function


@once
def _partial(
    function: Callable[..., Any], args: tuple[Any, ...], keywords: tuple[tuple[str, Any], ...], kinds: tuple[type, ...]
) -> Callable[..., Any]:
    return functools.partial(function, *args, **dict(keywords)) if args or keywords else function
