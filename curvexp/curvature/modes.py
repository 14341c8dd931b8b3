"""How a product is differentiated: forward over reverse, or reverse over reverse where a function has no rule for forward mode.

A function with jax.custom_vjp (jax.experimental.ode.odeint among them) states its gradient, and no derivative along a direction. Then
products differentiate the stated gradient a second time in reverse. They are as exact as the stated gradient: the derivative of a gradient
that an ODE solver computes carries the solver's tolerance, and is not symmetric beyond it.
"""

import functools
import re
import types
import weakref
from collections.abc import Callable, Hashable
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from curvexp.curvature.functions import root
from curvexp.curvature.objective import check_value
from curvexp.linalg.precision import full_precision
from curvexp.types import Params, Product, Scalar

Mode = Literal["forward over reverse", "reverse over reverse"]
FORWARD: Mode = "forward over reverse"
REVERSE: Mode = "reverse over reverse"

UNHASHABLE = "Non-hashable static arguments"  # JAX's words
_STATIC = (
    "a static argument of the function (static_argnums or static_argnames of jax.jit) is a number or an array here, which JAX traces. Bind "
    "it with functools.partial(function, name=number), or leave jax.jit out."
)


def derivative(function: Callable[[PyTree], PyTree], at: PyTree, along: PyTree, mode: Mode) -> tuple[PyTree, PyTree]:
    """function(at), and its derivative J·along.

    >>> value, along = derivative(lambda x: x**2, jnp.array(3.0), jnp.array(1.0), REVERSE)
    >>> float(value), float(along)
    (9.0, 6.0)
    """
    if mode == FORWARD:
        return jax.jvp(function, (at,), (along,))
    value, pull = jax.vjp(function, at)  # u -> J'u is linear: its own transpose is v -> Jv
    return value, jax.vjp(lambda u: pull(u)[0], jax.tree.map(jnp.zeros_like, value))[1](along)[0]


def second_derivative(function: Callable[[PyTree], Scalar], at: PyTree, along: PyTree, mode: Mode) -> PyTree:
    """∇²function(at)·along of a scalar function.

    >>> float(second_derivative(lambda x: x**3, jnp.array(2.0), jnp.array(1.0), REVERSE))
    12.0
    """
    if mode == FORWARD:
        return jax.jvp(jax.grad(function), (at,), (along,))[1]
    return jax.vjp(jax.grad(function), at)[1](along)[0]


@full_precision
def returned(call: Callable[..., Any], params: Params, args: PyTree, who: str) -> PyTree:
    """Shapes of what a function returns.

    Raises:
        TypeError: JAX cannot trace the function.

    >>> returned(lambda w, x: x @ w, jnp.ones(2), (jnp.ones((4, 2)),), "ggn").shape
    (4,)
    """
    try:
        return jax.eval_shape(lambda params, args: call(params, *args), params, args)
    except (jax.errors.JAXTypeError, TypeError, ValueError) as error:
        if UNHASHABLE in str(error):
            raise TypeError(f"{who}: {_STATIC}") from error
        if not (
            isinstance(error, jax.errors.JAXTypeError) or (isinstance(error, TypeError) and "concrete" in str(error))
        ):
            raise  # the function's own
        raise TypeError(
            f"{who}: JAX cannot trace the function: {_first_line(error)} Where it needs a number itself, for a shape or a branch, bind the "
            "number with functools.partial(function, name=number)."
        ) from error


def mode_of(who: str, product: Callable[[Mode], Product], operands: PyTree, like: PyTree) -> Mode:
    """The mode in which JAX can differentiate a product; nothing is computed.

    Args:
        who: the function that was called, for messages. product: mode -> product. operands: the product's. like: of the domain.

    Raises:
        TypeError: JAX cannot differentiate in either mode.

    >>> product = lambda mode: lambda operands, v: second_derivative(operands[0], operands[1], v, mode)
    >>> mode_of("hessian", product, (jax.tree_util.Partial(jnp.sum), jnp.ones(2)), jnp.ones(2))
    'forward over reverse'
    """
    known = _known(operands)
    key = _signature(product, operands) if known is not None else None
    if known is None or key not in known:
        found = _traced_mode(who, product, operands, like)
        if known is None:
            return found
        known[key] = found
    return known[key]


def loss_mode(who: str, product: Callable[[Mode], Product], operands: PyTree, like: PyTree) -> Mode:
    """`mode_of` for operands (loss, params, args), after a look at what the loss returns.

    >>> product = lambda mode: lambda operands, v: second_derivative(operands[0], operands[1], v, mode)
    >>> loss_mode("hessian", product, (jax.tree_util.Partial(jnp.sum), jnp.ones(2), ()), jnp.ones(2))
    'forward over reverse'
    """
    if not is_known(product, operands):
        loss, params, args = operands
        check_value(returned(loss, params, args, who), who)
    return mode_of(who, product, operands, like)


def is_known(product: Callable[[Mode], Product], operands: PyTree) -> bool:
    """Whether `mode_of` was asked before for these functions and shapes, so that what was checked then holds now.

    >>> is_known(lambda mode: None, (lambda w: w, jnp.ones(2)))
    False
    """
    known = _known(operands)
    return known is not None and _signature(product, operands) in known


@full_precision
def _traced_mode(who: str, product: Callable[[Mode], Product], operands: PyTree, like: PyTree) -> Mode:
    leaves, structure = jax.tree.flatten((operands, like))
    shapes = [_shape(leaf) for leaf in leaves]
    try:
        for mode in (FORWARD, REVERSE):

            def call(
                *leaves: Array, mode: Mode = mode
            ) -> PyTree:  # of leaves alone: JAX would keep the functions of a structure alive
                return product(mode)(*jax.tree.unflatten(structure, leaves))

            if not _lacks_rule(call, *shapes):
                return mode
    except Exception as error:  # whatever the person's rules of differentiation raise
        if UNHASHABLE in str(error):
            raise TypeError(f"{who}: {_STATIC}") from error
        raise TypeError(
            f"{who}: JAX cannot differentiate the function twice: {_first_line(error)} Expected operations of JAX that have derivatives; "
            "a loop needs a number of steps that is known: lax.scan, or lax.fori_loop with fixed bounds."
        ) from error
    raise TypeError(
        f"{who}: a jax.custom_vjp within the derivative of another one has no rule. Expected jax.custom_jvp there."
    )


def has_forward_rule(function: Callable[[PyTree], PyTree], at: PyTree) -> bool:
    """Whether `jax.jvp` of a function works; nothing is computed.

    >>> stated = jax.custom_vjp(jnp.sin)
    >>> stated.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))
    >>> has_forward_rule(jnp.sin, jnp.array(1.0)), has_forward_rule(stated, jnp.array(1.0))
    (True, False)
    """
    shapes = jax.tree.map(_shape, at)
    return not _lacks_rule(lambda at, along: jax.jvp(function, (at,), (along,)), shapes, shapes)


def _lacks_rule(call: Callable[..., Any], *shapes: Any) -> bool:
    """JAX leaves the missing rule of a custom_vjp in the traced program, to be found when it is compiled or vmapped."""
    return bool(re.search(r"\bcustom_lin\b", str(jax.make_jaxpr(call)(*shapes))))


def _shape(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "dtype") else leaf


# what is known of a function, or of a model and a criterion, lives as long as they do
_Known = weakref.WeakKeyDictionary[Any, dict[Hashable, Mode]]
_KNOWN: _Known = weakref.WeakKeyDictionary()
_KNOWN_PAIRS: weakref.WeakKeyDictionary[Any, _Known] = weakref.WeakKeyDictionary()


def _known(operands: PyTree) -> dict[Hashable, Mode] | None:
    head = operands[0]
    functions = [root(part) for part in (head if type(head) is tuple else (head,))]
    if not all(isinstance(function, types.FunctionType) for function in functions):
        return None
    *above, last = functions
    return (_KNOWN_PAIRS.setdefault(above[0], weakref.WeakKeyDictionary()) if above else _KNOWN).setdefault(last, {})


def _signature(product: object, operands: PyTree) -> Hashable:
    if isinstance(product, functools.partial):  # equal to itself alone
        product = (product.func, *product.args)
    leaves, structure = jax.tree.flatten(operands)
    shapes = tuple((np.shape(leaf), str(getattr(leaf, "dtype", type(leaf)))) for leaf in leaves)
    return product, shapes, str(structure), jax.dtypes.canonicalize_dtype(np.float64)


def _first_line(error: Exception) -> str:
    line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return line if line.endswith(".") else f"{line}."
