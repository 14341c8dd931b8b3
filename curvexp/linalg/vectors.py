"""Vectors of a pytree's space as flat arrays, and the linear maps between them."""

import contextlib
import functools
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import PyTreeDef
from jaxtyping import Array, Float, Int, PyTree

from curvexp.linalg.layout import Layout
from curvexp.linalg.precision import full_precision
from curvexp.programs import compiled
from curvexp.types import Flat, FlatMatvec, KeyLike, Matvec, RandomKey, Vector

SEEDS = 2**32  # that differ: without 64-bit numbers 2^40 would be the key of 0
HELD = 2**31  # bytes that are kept of a linearization


class Space(NamedTuple):
    """The vector space of a pytree of real arrays; hashable.

    Attributes:
        treedef: structure. shapes: of the leaves. dtypes: names of the leaves' dtypes.

    >>> import jax.numpy as jnp
    >>> space = space_of({"weight": jnp.ones((2, 2)), "bias": jnp.zeros(1)})
    >>> space.size, [leaf.shape for leaf in jax.tree.leaves(space.like())]
    (5, [(1,), (2, 2)])
    """

    treedef: PyTreeDef
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]

    @property
    def size(self) -> int:
        """Dimension n."""
        return sum(int(np.prod(shape)) for shape in self.shapes)

    @property
    def dtype(self) -> np.dtype:
        """The floating dtype that flat vectors have, and all that is computed with them: the widest of the leaves', at least float32."""
        return np.result_type(np.float32, *(np.dtype(name) for name in self.dtypes))

    def flat(self, tree: Vector) -> Flat:
        """The pytree's entries in one array.

        >>> space_of((jnp.ones(1), jnp.zeros(2))).flat((jnp.ones(1), jnp.zeros(2))).tolist()
        [1.0, 0.0, 0.0]
        """
        return jnp.concatenate([jnp.ravel(leaf).astype(self.dtype) for leaf in jax.tree.leaves(tree)])

    def tree(self, vector: Flat) -> Vector:
        """The pytree with the entries of `vector`.

        >>> [leaf.tolist() for leaf in space_of((jnp.ones(1), jnp.zeros(2))).tree(jnp.array([1.0, 2.0, 3.0]))]
        [[1.0], [2.0, 3.0]]
        """
        leaves, offset = [], 0
        for shape, dtype in zip(self.shapes, self.dtypes, strict=True):
            size = int(np.prod(shape))
            leaves.append(vector[offset : offset + size].reshape(shape).astype(dtype))
            offset += size
        return jax.tree.unflatten(self.treedef, leaves)

    def trees(self, rows: Float[Array, "k p"], layout: Layout) -> Vector:
        """The pytree, each leaf with a leading axis, with the entries of the rows, as the layout has them."""
        return layout.spread(jax.vmap(self.tree)(layout.whole(rows)))

    def like(self) -> PyTree[jax.ShapeDtypeStruct]:
        """Pytree of jax.ShapeDtypeStruct."""
        structs = [jax.ShapeDtypeStruct(s, np.dtype(d)) for s, d in zip(self.shapes, self.dtypes, strict=True)]
        return jax.tree.unflatten(self.treedef, structs)


def random_key(key: KeyLike) -> RandomKey:
    """A key of jax.random: jax.random.key(0) for None, jax.random.key(key) for an integer.

    Raises:
        TypeError: neither a key nor an integer. ValueError: an integer out of range: of more bits JAX takes the last 32 alone.

    >>> bool(random_key(7) == jax.random.key(7))
    True
    """
    if key is None or (isinstance(key, int | np.integer) and not isinstance(key, bool)):
        seed = 0 if key is None else int(key)
        if not 0 <= seed < SEEDS:
            raise ValueError(
                f"key={seed}: expected an integer from 0 to 2^32 - 1, or a key of jax.random.key. Change key."
            )
        return jax.random.key(seed)
    if isinstance(key, jax.Array | np.ndarray) and (
        jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or (key.dtype == np.uint32 and key.ndim > 0)
    ):
        return key
    raise TypeError(f"key={key!r:.60}: expected a key of jax.random.key, or an integer.")


def space_of(tree: PyTree) -> Space:
    """The space that a pytree of arrays or shapes lives in.

    Raises:
        ValueError: no entries at all. TypeError: a leaf that is integer, complex or a random key, by its path.

    >>> space_of(jnp.zeros((2, 3))).shapes
    ((2, 3),)
    """
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    shapes, dtypes = [], []
    for path, leaf in leaves:
        dtype = leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype
        where = jax.tree_util.keystr(path) or "the vector"
        if not jnp.issubdtype(dtype, jnp.floating):
            raise TypeError(
                f"{where} has dtype {dtype}: expected real floating point. Take it out of the parameters (pass it to the loss as an "
                "argument), or cast it."
            )
        shapes.append(tuple(np.shape(leaf)))
        dtypes.append(np.dtype(dtype).name)
    space = Space(jax.tree.structure(tree), tuple(shapes), tuple(dtypes))
    if space.size == 0:
        raise ValueError("the domain has no entries: expected at least one parameter.")
    return space


def forward_only(tree: PyTree, sentence: str) -> PyTree:
    """The arrays, through which jax.jvp goes, while jax.grad raises a TypeError of this sentence.

    >>> float(jax.jvp(lambda x: forward_only(x, "no"), (1.0,), (2.0,))[1])
    2.0
    """
    if not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(tree)):
        return tree

    def refuse(_: PyTree, cotangent: PyTree) -> NoReturn:
        raise TypeError(sentence)

    @jax.custom_jvp
    def same(leaf: Array) -> Array:
        return leaf

    @same.defjvp
    def _(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
        return primals[0], jax.custom_derivatives.linear_call(lambda _, part: part, refuse, (), tangents[0])

    return jax.tree.map(same, tree)


def domain(op: Matvec, like: PyTree | None) -> tuple[Matvec, Space]:
    """The operator as a pytree that jit takes as an argument, and its space.

    Args:
        op: has `like`, or is a function of a pytree.
        like: pytree of the domain (arrays or shapes); None where `op` says it.

    Raises:
        TypeError: no domain is known, or `op` cannot be called.

    >>> op, space = domain(lambda v: 2 * v, jnp.zeros(3))
    >>> space.size, op(jnp.ones(3)).tolist()
    (3, [2.0, 2.0, 2.0])
    """
    if not callable(op):
        raise TypeError(
            f"{op!r} cannot be called: expected an Operator or a function v -> Av. For a matrix A pass lambda v: A @ v."
        )
    if like is None:
        like = getattr(op, "like", None)
    if like is None:
        raise TypeError(
            "like=None: a bare function does not say what vectors it takes. Give like=, a vector or pytree of the domain."
        )
    if not _is_node(op):
        op = jax.tree_util.Partial(op)
    return op, space_of(like)


def flat_product(op: Callable[[Vector], Vector], space: Space) -> FlatMatvec:
    """x -> Ax on flat vectors.

    Raises:
        TypeError: A's result does not have the domain's structure and shapes.

    >>> params = {"one": jnp.zeros(1), "two": jnp.zeros(2)}
    >>> flat_product(lambda v: {"one": 2 * v["one"], "two": v["two"]}, space_of(params))(jnp.ones(3)).tolist()
    [2.0, 1.0, 1.0]
    """

    @full_precision
    def product(x: Flat) -> Flat:
        result = op(space.tree(x))
        if (
            jax.tree.structure(result) != space.treedef
            or tuple(map(jnp.shape, jax.tree.leaves(result))) != space.shapes
        ):
            raise TypeError(
                f"the operator maps {space.like()} to {jax.tree.map(jnp.shape, result)}: expected the same structure and shapes, a "
                "symmetric map of a space into itself."
            )
        return space.flat(result)

    return product


def linearized(op: Callable[[Vector], Vector], space: Space) -> FlatMatvec | None:
    """x -> Ax on flat vectors, with what does not depend on x computed now, as a pytree that can be called.

    An accelerator's compiler leaves that in the loop: a product of networks of 9 000 and 300 000 parameters takes twice as long there.

    Returns:
        None where more than HELD bytes would be kept, or where `op` has no rule to be linearized by.

    >>> linearized(lambda v: 2 * v, space_of(jnp.zeros(3)))(jnp.ones(3)).tolist()
    [2.0, 2.0, 2.0]
    """
    with contextlib.suppress(Exception):  # whatever a function of a person's raises, it may still be multiplied by
        found = jax.linearize(flat_product(op, space), jnp.ones(space.size, space.dtype))[1]
        if sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(found)) <= HELD:
            return found
    return None


def dense_matrix(op: Matvec, space: Space, *, chunk: int | None = None) -> Float[Array, "n n"]:
    """The matrix of a symmetric map, from n products; its asymmetry is their rounding.

    Args:
        chunk: columns computed at once; default: as many as keep the temporary memory near 64 MB of vectors, at most 128.

    >>> op, space = domain(lambda v: v[::-1], jnp.zeros(2))
    >>> dense_matrix(op, space).tolist()
    [[0.0, 1.0], [1.0, 0.0]]
    """
    width = min(space.size, chunk or max(1, min(128, 2**26 // (8 * space.size))))
    return _columns(op, space=space, width=width)


@functools.partial(compiled, static=("space", "width"), tells=True)
def _columns(op: Matvec, *, space: Space, width: int) -> Float[Array, "n n"]:
    n, product = space.size, flat_product(op, space)

    def columns(first: Int[Array, ""]) -> Float[Array, "m n"]:
        return jax.vmap(product)((jnp.arange(n)[None, :] == first + jnp.arange(width)[:, None]).astype(space.dtype))

    return jax.lax.map(columns, jnp.arange(0, n, width)).reshape(-1, n)[:n].T


def _is_node(op: PyTree) -> bool:
    """Whether JAX takes the object apart as a pytree."""
    return not jax.tree_util.all_leaves([op])
