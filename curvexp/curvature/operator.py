"""An operator: a symmetric linear map of a pytree's space into itself, and operators made of others."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from curvexp.linalg.precision import at_least_float32, full_precision
from curvexp.linalg.vectors import Space, dense_matrix, space_of
from curvexp.programs import compiled
from curvexp.types import Product, Scalar, Vector


@functools.partial(jax.tree_util.register_dataclass, data_fields=("operands",), meta_fields=("product", "space"))
@dataclasses.dataclass(frozen=True)
class Operator:
    """A symmetric linear map of a pytree's space into itself; op(v) is the product.

    Attributes:
        product: static: two operators with equal products and shapes share their compiled programs.
        space: of v.
        operands: pytree of arrays and Operators that the product is made of.

    >>> op = Operator(lambda matrix, v: matrix @ v, space_of(jnp.zeros(2)), jnp.array([[2.0, 1.0], [1.0, 2.0]]))
    >>> op.size, op(jnp.ones(2)).tolist()
    (2, [3.0, 3.0])
    """

    product: Product
    space: Space
    operands: PyTree

    def __call__(self, v: Vector) -> Vector:
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
    def like(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Pytree of jax.ShapeDtypeStruct: what v looks like."""
        return self.space.like()

    @property
    def mode(self) -> str | None:
        """How products are differentiated: forward over reverse; or reverse over reverse, where a function has no rule for forward mode:
        products are then as exact as the gradient that its rule states. None: the operator is made of others."""
        return getattr(self.product, "mode", None)

    def many(self, vectors: PyTree[Float[Array, "m ..."]]) -> PyTree[Float[Array, "m ..."]]:
        """Products with several vectors at once: each leaf has a leading axis, and so has the result.

        >>> op = Operator(lambda factor, v: factor * v, space_of(jnp.zeros(2)), jnp.array(3.0))
        >>> op.many(jnp.array([[1.0, 0.0], [0.0, 1.0]])).tolist()
        [[3.0, 0.0], [0.0, 3.0]]
        """
        return jax.vmap(self)(vectors)

    def dense(self, *, chunk: int | None = None) -> Float[Array, "n n"]:
        """The matrix, as computed: its asymmetry is the products' rounding.

        Args:
            chunk: columns computed at once; default: as many as keep the temporary memory near 64 MB of vectors, at most n.

        >>> Operator(lambda factor, v: factor * v, space_of(jnp.zeros(2)), jnp.array(3.0)).dense().tolist()
        [[3.0, 0.0], [0.0, 3.0]]
        """
        return dense_matrix(self, self.space, chunk=chunk)


def scaled(op: Operator, factor: float | Scalar) -> Operator:
    """factor·A; negated for factor −1. The factor is an array for jit: one program serves all.

    >>> op = Operator(lambda factor, v: factor * v, space_of(jnp.zeros(2)), jnp.array(3.0))
    >>> scaled(op, -1)(jnp.ones(2)).tolist()
    [-3.0, -3.0]
    """
    return Operator(_scaled_product, op.space, (op, jnp.asarray(factor, op.dtype)))


def shifted(op: Operator, shift: float | Scalar) -> Operator:
    """A + shift·I.

    >>> op = Operator(lambda factor, v: factor * v, space_of(jnp.zeros(2)), jnp.array(3.0))
    >>> shifted(op, 0.5)(jnp.ones(2)).tolist()
    [3.5, 3.5]
    """
    return Operator(_shifted_product, op.space, (op, jnp.asarray(shift, op.dtype)))


def difference(left: Operator, right: Operator) -> Operator:
    """A − B on one space; the residual part of the Hessian is difference(hessian, ggn).

    >>> op = Operator(lambda factor, v: factor * v, space_of(jnp.zeros(2)), jnp.array(3.0))
    >>> difference(op, scaled(op, 0.5))(jnp.ones(2)).tolist()
    [1.5, 1.5]
    """
    _same_space(left, right.like, "right")
    return Operator(_difference_product, left.space, (left, right))


def preconditioned(op: Operator, preconditioner: PyTree) -> Operator:
    """P^(-1/2) A P^(-1/2): what decides the stability of an adaptive optimizer that divides its step by P.

    Args:
        preconditioner: P's diagonal, a positive pytree of the domain. Where it is not positive the products are not finite.

    Source: Cohen et al. 2022, sec. 3.

    >>> op = Operator(lambda factor, v: factor * v, space_of(jnp.zeros(2)), jnp.array(3.0))
    >>> preconditioned(op, jnp.array([1.0, 4.0]))(jnp.ones(2)).tolist()
    [3.0, 0.75]
    """
    _same_space(op, preconditioner, "preconditioner")
    return Operator(_preconditioned_product, op.space, (op, preconditioner))


def _scaled_product(operands: tuple[Operator, Array], v: Vector) -> Vector:
    op, factor = operands
    return jax.tree.map(lambda a: factor.astype(a.dtype) * a, op(v))


def _shifted_product(operands: tuple[Operator, Array], v: Vector) -> Vector:
    op, shift = operands
    return jax.tree.map(lambda a, b: a + shift.astype(b.dtype) * b, op(v), v)


def _difference_product(operands: tuple[Operator, Operator], v: Vector) -> Vector:
    left, right = operands
    return jax.tree.map(jnp.subtract, left(v), right(v))


def _preconditioned_product(operands: tuple[Operator, PyTree], v: Vector) -> Vector:
    op, preconditioner = operands
    roots = jax.tree.map(jnp.sqrt, preconditioner)
    return jax.tree.map(jnp.divide, op(jax.tree.map(jnp.divide, v, roots)), roots)


@functools.partial(compiled, inline=True)
@full_precision
def _applied(op: Operator, v: Vector) -> Vector:
    return op.product(op.operands, at_least_float32(v))


def _same_space(op: Operator, tree: PyTree, name: str) -> None:
    space = space_of(tree)
    if space.treedef != op.space.treedef or space.shapes != op.space.shapes:
        raise ValueError(f"{name} has the form {space.like()}: expected that of the operator's domain, {op.like}.")
