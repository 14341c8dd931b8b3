"""A person's function with its arguments, as pytrees that jit takes: arrays are leaves, everything else is static."""

import dataclasses
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from curvexp.linalg.precision import at_least_float32
from curvexp.types import Params

NUMBERS = (int, float, complex)  # of Python: traced, as jax.jit traces them; bool, text, functions and None are static


@jax.tree_util.register_static
@dataclasses.dataclass(frozen=True)
class Static:
    """An argument that is no array: part of a pytree's structure, compared by ==.

    >>> jax.tree.leaves((Static("softmax"), 1.0))
    [1.0]
    """

    value: Hashable


def bound(
    function: Any,
    args: Sequence[object] = (),
    keywords: Mapping[str, object] | None = None,
    *,
    has_aux: bool = False,
    name: str,
) -> tuple[Callable[..., Any], tuple[PyTree, ...]]:
    """A function and its positional arguments as pytrees whose leaves are arrays.

    Args:
        function: called as function(first, *args, **keywords); a function, a jax.tree_util.Partial, or another pytree that can be called,
            whose arrays then stay arguments of jit.
        has_aux: the function returns (value, auxiliary), of which the value is meant.
        name: the parameter's name in messages.

    Returns:
        call, args: call(first, *args) is the value; keywords are part of `call`.

    Raises:
        TypeError: a function that cannot be called; an argument that is neither an array nor hashable.

    >>> call, args = bound(lambda w, x, power: (w * x) ** power, (2.0, "cubic"), name="loss")
    >>> args
    (2.0, Static(value='cubic'))
    """
    if not callable(function):
        raise TypeError(f"{name} is {function!r}, which cannot be called: expected a function of the parameters.")
    tree, opened = _static((function, tuple(args), dict(keywords or {})), name)
    own, bound_args, keywords = tree
    node = not jax.tree_util.all_leaves([function])
    if not (opened or has_aux):
        if node and not keywords:
            return function, bound_args
        if not node:
            return jax.tree_util.Partial(function, **keywords), bound_args
    call = _Opened(None if node else function, has_aux)
    return jax.tree_util.Partial(call, *((own,) if node else ()), **keywords), bound_args


def root(call: object) -> Callable[..., Any] | None:
    """The Python function that a bound one, or an Objective of one, calls; None where there is no single one.

    >>> def loss(w): ...
    >>> root(bound(loss, name="loss")[0]) is loss
    True
    """
    call = getattr(call, "loss", call)
    found = getattr(call, "func", None)
    return found.function if isinstance(found, _Opened) else found


def arrays(tree: Params) -> Params:
    """Parameters with numbers and numpy arrays as jax arrays, in the precision that JAX computes in; those of 16 bits in float32.

    >>> arrays({"w": np.ones(2, np.float16)})["w"].dtype.name
    'float32'
    """
    return at_least_float32(
        jax.tree.map(
            lambda leaf: jnp.asarray(leaf) if isinstance(leaf, np.ndarray | np.generic | float) else leaf, tree
        )
    )


def is_traced(tree: PyTree) -> bool:
    """Whether values cannot be looked at: under jit, also where all arguments of a function have values.

    >>> is_traced(jnp.ones(2)), jax.eval_shape(lambda x: jnp.array(is_traced(x)), 1.0).dtype.name
    (False, 'bool')
    """
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree))


@dataclasses.dataclass(frozen=True)
class _Opened:
    """The function, with static arguments taken out of their wrapping; None: the function is the first argument, a pytree."""

    function: Callable[..., Any] | None
    has_aux: bool

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        args, keywords = jax.tree.map(_open, (args, keywords), is_leaf=_is_static)
        result = args[0](*args[1:], **keywords) if self.function is None else self.function(*args, **keywords)
        if not self.has_aux:
            return result
        if not (isinstance(result, tuple | list) and len(result) == 2):
            raise TypeError(f"has_aux=True: the loss returned {described(result)}, expected a pair (loss, auxiliary).")
        return result[0]


def described(result: Any) -> str:
    """Shapes and dtypes of what a function returned, for a message.

    >>> described((np.ones((3, 2), np.float32), None))
    '(float32[3,2], None)'
    """

    def leaf(value: Any) -> str:
        if not hasattr(value, "dtype"):
            return repr(value)
        return f"{value.dtype}[{','.join(map(str, value.shape))}]"

    if isinstance(result, tuple | list):
        return f"({', '.join(map(described, result))})"
    return leaf(result) if jax.tree_util.all_leaves([result]) else str(jax.tree.map(leaf, result))


def _static(tree: PyTree, name: str) -> tuple[PyTree, bool]:
    """The pytree with what is no array wrapped as Static, and whether something was; a function as the first entry stays."""
    found = []

    def leaf(path: tuple[Any, ...], value: object) -> object:
        if len(path) == 1:  # the function itself
            if not _hashable(value):
                raise TypeError(
                    f"{name} is a {type(value).__name__} that has no hash: wrap it, as in lambda *args: f(*args)."
                )
            return value
        if type(value) in NUMBERS or hasattr(value, "__jax_array__"):
            return value
        dtype = getattr(value, "dtype", None)
        if (
            isinstance(value, jax.Array | np.ndarray | np.generic)
            and np.dtype(dtype if _is_numpy(dtype) else "f").kind not in "OUS"
        ):
            return value
        if isinstance(value, np.ndarray) or not _hashable(value):
            where = ("of the function", "args", "keyword arguments")[path[0].idx] + jax.tree_util.keystr(path[1:])
            raise TypeError(
                f"{where} is a {type(value).__name__}: expected an array, a number, or a value with a hash, which is kept static."
            )
        found.append(value)
        return Static(value)

    return jax.tree_util.tree_map_with_path(leaf, tree), bool(found)


def _is_numpy(dtype: object) -> bool:
    return isinstance(dtype, np.dtype)


def _hashable(value: object) -> bool:
    if not isinstance(value, Hashable):
        return False
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _is_static(value: object) -> bool:
    return isinstance(value, Static)


def _open(value: object) -> object:
    return value.value if isinstance(value, Static) else value
