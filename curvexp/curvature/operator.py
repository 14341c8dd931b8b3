"""An operator: a symmetric linear map of a pytree's space into itself, and operators made of others."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.linalg.precision import at_least_float32, full_precision
from curvexp.linalg.vectors import Space, dense_matrix, space_of
from curvexp.programs import compiled


@functools.partial(jax.tree_util.register_dataclass, data_fields=("operands",), meta_fields=("product", "space"))
@dataclasses.dataclass(frozen=True)
class Operator:
    """A symmetric linear map of a pytree's space into itself; op(v) is the product.

    Attributes:
        product: (operands, v) -> Av, static: two operators with equal products and shapes share their compiled programs.
        space: of v.
        operands: pytree of arrays and Operators that the product is made of.
    """

    product: Callable[[Any, Any], Any]
    space: Space
    operands: Any

    def __call__(self, v: Any) -> Any:
        """Av, a pytree like v; compiled once for operators of equal products and shapes."""
        return _applied(self, v)

    @property
    def size(self) -> int:
        """Dimension n of the space."""
        return self.space.size

    @property
    def dtype(self) -> np.dtype:
        """Dtype of flat vectors."""
        return self.space.dtype

    @property
    def like(self) -> Any:
        """Pytree of jax.ShapeDtypeStruct: what v looks like."""
        return self.space.like()

    @property
    def mode(self) -> str | None:
        """How products are differentiated: forward over reverse; or reverse over reverse, where a function has no rule for forward mode:
        products are then as exact as the gradient that its rule states. None: the operator is made of others."""
        return getattr(self.product, "mode", None)

    def many(self, vectors: Any) -> Any:
        """Products with several vectors at once: each leaf has a leading axis, and so has the result."""
        return jax.vmap(self)(vectors)

    def dense(self, *, chunk: int | None = None) -> Any:
        """The matrix, (n, n), as computed: its asymmetry is the products' rounding.

        Args:
            chunk: columns computed at once; default: as many as keep the temporary memory near 64 MB of vectors, at most n.
        """
        return dense_matrix(self, self.space, chunk=chunk)


def scaled(op: Operator, factor: Any) -> Operator:
    """factor·A; negated for factor −1. The factor is an array for jit: one program serves all."""
    return Operator(_scaled_product, op.space, (op, jnp.asarray(factor, op.dtype)))


def shifted(op: Operator, shift: Any) -> Operator:
    """A + shift·I."""
    return Operator(_shifted_product, op.space, (op, jnp.asarray(shift, op.dtype)))


def difference(left: Operator, right: Operator) -> Operator:
    """A − B on one space; the residual part of the Hessian is difference(hessian, ggn)."""
    _same_space(left, right.like, "right")
    return Operator(_difference_product, left.space, (left, right))


def preconditioned(op: Operator, preconditioner: Any) -> Operator:
    """P^(-1/2) A P^(-1/2): what decides the stability of an adaptive optimizer that divides its step by P.

    Args:
        preconditioner: P's diagonal, a positive pytree of the domain. Where it is not positive the products are not finite.

    Source: Cohen et al. 2022, sec. 3.
    """
    _same_space(op, preconditioner, "preconditioner")
    return Operator(_preconditioned_product, op.space, (op, preconditioner))


def _scaled_product(operands: Any, v: Any) -> Any:
    op, factor = operands
    return jax.tree.map(lambda a: factor.astype(a.dtype) * a, op(v))


def _shifted_product(operands: Any, v: Any) -> Any:
    op, shift = operands
    return jax.tree.map(lambda a, b: a + shift.astype(b.dtype) * b, op(v), v)


def _difference_product(operands: Any, v: Any) -> Any:
    left, right = operands
    return jax.tree.map(jnp.subtract, left(v), right(v))


def _preconditioned_product(operands: Any, v: Any) -> Any:
    op, preconditioner = operands
    roots = jax.tree.map(jnp.sqrt, preconditioner)
    return jax.tree.map(jnp.divide, op(jax.tree.map(jnp.divide, v, roots)), roots)


@functools.partial(compiled, inline=True)
@full_precision
def _applied(op: Operator, v: Any) -> Any:
    return op.product(op.operands, at_least_float32(v))


def _same_space(op: Operator, tree: Any, name: str) -> None:
    space = space_of(tree)
    if space.treedef != op.space.treedef or space.shapes != op.space.shapes:
        raise ValueError(f"{name} has the form {space.like()}: expected that of the operator's domain, {op.like}.")
