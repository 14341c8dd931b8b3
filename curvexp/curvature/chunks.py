"""Examples taken in chunks, where the loss is a mean over them, which is measured before the first product."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from curvexp.curvature.functions import is_traced
from curvexp.curvature.modes import REVERSE, Mode, derivative, has_forward_rule
from curvexp.curvature.objective import Loss, WeightedMean, sum_and_weight
from curvexp.linalg.gram_schmidt import norm
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import space_of
from curvexp.programs import compiled
from curvexp.types import AnyArray, AnyFlag, AnyReal, Model, Params, Product, Scalar, Vector

NOISES = (0.1, 1e-3, 0.0)  # relative perturbations of the parameters: the first at which the loss is finite
ROUNDING = 1e3  # machine epsilons between a whole and its parts, of the sum of their sizes: sums over many examples, twice differentiated


@dataclasses.dataclass(frozen=True)
class Chunked:
    """The sum of a product over chunks of the examples, over the sum of their weights; the last chunk may be smaller.

    Attributes:
        product: of the mean over a chunk's examples; or, where `sums`, of the sum over them.

    >>> product = lambda operands, v: jnp.mean(operands[2][0]) * v  # the mean over a chunk's examples
    >>> whole = Whole(weight=jnp.array(3.0), valid=jnp.array(True))
    >>> Chunked(product, chunk=2)((None, jnp.ones(1), (jnp.array([1.0, 2.0, 6.0]),), whole), jnp.ones(1)).tolist()
    [3.0]
    """

    product: Product
    chunk: int
    sums: bool = False

    @property
    def mode(self) -> Mode | None:
        """How the product is differentiated."""
        return getattr(self.product, "mode", None)

    def __call__(self, operands: PyTree, v: Vector) -> Vector:
        head, params, args, whole = operands
        count = count_examples(args)
        size = min(self.chunk, count)
        full = count // size
        stacked = jax.tree.map(lambda a: a[: full * size].reshape(full, size, *a.shape[1:]), args)

        def added(total: Vector, part: PyTree, examples: int) -> Vector:
            share = 1 / whole.weight if self.sums else examples / count
            piece = self.product((head, params, part), v)
            return jax.tree.map(lambda t, p: t + jnp.asarray(share, p.dtype) * p, total, piece)

        total, _ = jax.lax.scan(
            lambda total, part: (added(total, part, size), None), jax.tree.map(jnp.zeros_like, v), stacked
        )
        rest = count - full * size
        if rest:
            total = added(total, jax.tree.map(lambda a: a[full * size :], args), rest)
        return jax.tree.map(lambda t: jnp.where(whole.valid, t, jnp.nan), total)


class Whole(NamedTuple):
    """What chunks add up to.

    Attributes:
        weight: sum of the examples' weights.
        valid: whether the loss is the mean over its chunks; else products are nan: under jit, where nothing can be raised, and
            where the loss is not finite, so that nothing can be compared.

    >>> Whole(weight=jnp.array(3.0), valid=jnp.array(True)).valid.item()
    True
    """

    weight: Scalar
    valid: Bool[Array, ""]


def count_examples(args: PyTree, *, name: str = "chunk") -> int:
    """Length of the leading axis that all arrays share; name: what asks for it, for the message.

    >>> count_examples({"inputs": np.ones((3, 2)), "targets": np.ones(3)})
    3
    """
    lengths = {jnp.shape(leaf)[0] if jnp.ndim(leaf) else 0 for leaf in jax.tree.leaves(args)}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"{name}: the arrays in args have leading axes {sorted(lengths)}: expected one length, the number of examples. Pass what is no "
            "example by keyword, or bind it with jax.tree_util.Partial."
        )
    return lengths.pop()


def check_chunk(chunk: object, args: PyTree, *, name: str = "chunk") -> int:
    """The number of examples; refuses a chunk that is no positive integer, and arrays of unequal length.

    >>> check_chunk(2, np.ones((3, 2)))
    3
    """
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"{name}={chunk!r}: expected a positive integer, the number of examples taken at once.")
    return count_examples(args, name=name)


def checked(
    loss: Loss | None,
    params: Params,
    args: PyTree,
    chunk: int,
    *,
    model: Model | None = None,
    name: str = "chunk",
    at_once: int = 1,
    cure: str | None = None,
) -> Whole:
    """The weight of all examples, after a comparison of the whole loss with its chunks.

    Sums over chunks a and b have to add up to the sum over both: S(a∪b) = S(a) + S(b), and the weights likewise, at parameters that are
    perturbed by a tenth, with the derivative along a random direction. All examples take part once, in pairs of chunks of shuffled
    examples; the last, smaller chunk once more. The cost is about that of two gradients of the whole loss, in the memory of two chunks.

    A product that goes through a model's outputs needs more: J'J of coupled outputs is no sum over chunks, although a loss of them may be,
    as the mean of batch-normalized outputs is the same number in every chunk. So the outputs of both chunks together are compared with
    those of each, entry by entry, and so is their derivative along the direction.

    Args:
        loss: (params, *args) -> scalar, the mean over the examples, or WeightedMean; None where the model's outputs say all.
        chunk: examples taken at once. model: (params, first of args) -> outputs that the product goes through.
        name: of `chunk`, for messages. at_once: pairs of chunks held at once. cure: what to do, where no number of examples can be changed.

    Returns:
        Whole; under jit `valid` is the comparison's result.

    Raises:
        ValueError: chunk below 1; arrays of unequal length; a loss whose chunks do not add up: batch normalization couples the
            examples of a batch, a sum is no mean; a model whose outputs are not its outputs on the chunks. Differences below 1e3 eps
            count as rounding. Where the whole is finite and a part is not, they differ.

    >>> loss = jax.tree_util.Partial(lambda w, x: jnp.mean(w * x))
    >>> whole = checked(loss, jnp.ones(()), (jnp.ones(4),), chunk=4)
    >>> float(whole.weight), bool(whole.valid)
    (4.0, True)
    """
    count = check_chunk(chunk, args, name=name)
    chunk = min(chunk, count)
    weight = _weight(loss, params, args, chunk=chunk)
    if chunk == count:
        return Whole(weight, jnp.array(True))
    compare = functools.partial(_compare, loss, model, params, args, chunk=chunk, at_once=at_once)
    found = compare(NOISES[0])
    if is_traced(found):
        last = compare(NOISES[-1])
        return Whole(weight, jnp.where(found.finite, found.equal, last.finite & last.equal))
    for noise in NOISES[1:]:
        if found.finite:
            break
        found = compare(noise)
    found = jax.device_get(found)
    if found.finite and not found.equal:
        raise ValueError(_refusal(found, chunk, count, name, cure))
    return Whole(weight, jnp.array(bool(found.finite)))


class Comparison(NamedTuple):
    """Of the whole with its parts.

    Attributes:
        finite: whether all of the whole is. equal: whether the whole is the sum of its parts.
        apart: largest difference of sum and weight, and of their derivatives, relative to the parts' sizes.
        both, parts: mean loss of the examples of one pair of chunks, and that of its chunks.
        bends: whether the weight depends on the parameters.
        outputs: largest distance of the model's outputs from those of the parts, and of their derivatives, relative to their size.
        rows_equal: whether these are rounding.

    >>> loss = jax.tree_util.Partial(lambda w, x: jnp.sum(w * x))  # no mean
    >>> try:
    ...     checked(loss, jnp.ones(()), (jnp.array([1.0, 2.0]),), chunk=1)
    ... except ValueError as error:
    ...     print(str(error)[:8])
    chunk=1:
    """

    finite: AnyFlag
    equal: AnyFlag
    apart: Float[AnyArray, "2 2"]
    both: AnyReal
    parts: AnyReal
    bends: AnyFlag
    outputs: Float[AnyArray, "2"]
    rows_equal: AnyFlag


class _Part(NamedTuple):
    """Of some examples: sum and weight of the loss with their derivatives, and outputs of the model with theirs."""

    numbers: Float[Array, "2 2"]
    outputs: tuple[PyTree, PyTree]


class _Pair(NamedTuple):
    """Of the examples of two chunks: what is apart, and sizes, of numbers and of outputs; losses of the whole and of the parts."""

    apart: Float[Array, "2 2"]
    size: Float[Array, "2 2"]
    values: Float[Array, "2 2"]
    outputs: Float[Array, "2"]
    outputs_size: Float[Array, "2"]
    finite: Bool[Array, ""]


@functools.partial(compiled, static=("chunk", "at_once"))
@full_precision
def _compare(
    loss: Loss | None,
    model: Model | None,
    params: Params,
    args: PyTree,
    noise: float,
    *,
    chunk: int,
    at_once: int,
) -> Comparison:
    count = count_examples(args)
    along = _uniform(0, params)
    at = jax.tree.map(lambda leaf, step: leaf + (noise * step).astype(leaf.dtype), params, _steps(1, params))
    order = np.random.default_rng(0).permutation(count)

    def number(p: Params, part: PyTree, examples: int) -> Float[Array, "2"]:
        """Sum and weight over some of the examples."""
        if loss is None:
            return jnp.zeros(2, space_of(p).dtype)
        found = sum_and_weight(loss(p, *part), examples)
        return jnp.stack([jnp.asarray(part, jnp.promote_types(part.dtype, jnp.float32)) for part in found])

    def on(rows: Int[AnyArray, "m"], *, derived: bool = True) -> _Part:
        part = jax.tree.map(lambda a: jnp.asarray(a)[rows], args)

        def of(p: Params) -> Float[Array, "2"]:
            return number(p, part, len(rows))

        def outputs(p: Params) -> PyTree:
            return () if model is None else model(p, part[0])

        if not derived:
            value, found = of(at), outputs(at)
            return _Part(jnp.stack([value, jnp.zeros_like(value)]), (found, jax.tree.map(jnp.zeros_like, found)))
        if has_forward_rule(
            lambda p: (of(p), outputs(p)), at
        ):  # a loss may have none where its stated gradient has one
            (value, found), (slope, moved) = jax.jvp(lambda p: (of(p), outputs(p)), (at,), (along,))
            return _Part(jnp.stack([value, slope]), (found, moved))
        value, pull = jax.vjp(of, at)
        slope = jnp.stack([_dot(pull(one)[0], along) for one in jnp.eye(2, dtype=value.dtype)])
        return _Part(jnp.stack([value, slope]), derivative(outputs, at, along, REVERSE))

    def pair(rows: Int[Array, "m"]) -> _Pair:
        if len(rows) == 2 * chunk:
            both = jax.lax.map(on, rows.reshape(2, chunk))  # compiled once for both
            return _compared(on(rows), *(jax.tree.map(lambda leaf, i=i: leaf[i], both) for i in (0, 1)))
        return _compared(on(rows), on(rows[:chunk]), on(rows[chunk:]))

    width = min(2 * chunk, count)
    pairs = jax.lax.map(
        pair, np.resize(order, (-(-count // width), width)), batch_size=at_once if at_once > 1 else None
    )
    last = count % chunk
    if last and count > width:  # their values alone
        rows = slice(chunk + last), slice(chunk), slice(chunk, chunk + last)
        more = _compared(*(on(order[some], derived=False) for some in rows))
        pairs = jax.tree.map(lambda many, one: jnp.concatenate([many, one[None]]), pairs, more)
    return _judged(pairs, _tolerance(loss, model, params, args))


def _judged(pairs: _Pair, tolerance: float) -> Comparison:
    """What all pairs together say; each array of `pairs` has a leading axis, of the pairs."""
    bends = jnp.any(pairs.size[:, 1, 1] > tolerance * pairs.size[:, 0, 1])
    tiny = jnp.finfo(pairs.size.dtype).tiny
    relative = pairs.apart.max(axis=0) / jnp.maximum(pairs.size.max(axis=0), tiny)
    outputs = pairs.outputs.max(axis=0) / jnp.maximum(pairs.outputs_size.max(axis=0), tiny)
    worst = jnp.argmax(pairs.apart[:, 0, 0])
    total = jnp.where(pairs.values[worst, :, 1] == 0, 1, pairs.values[worst, :, 1])  # of padding alone
    means = pairs.values[worst, :, 0] / total
    rows_equal = jnp.all(outputs <= tolerance)
    equal = jnp.all(relative <= tolerance) & rows_equal & ~bends
    return Comparison(jnp.all(pairs.finite), equal, relative, means[0], means[1], bends, outputs, rows_equal)


def _compared(whole: _Part, first: _Part, second: _Part) -> _Pair:
    """The whole beside its two parts."""
    added = first.numbers + second.numbers
    apart, size = jnp.abs(whole.numbers - added), jnp.abs(first.numbers) + jnp.abs(second.numbers)
    dtype = size.dtype
    distances, sizes = [], []
    for joint, *parts in zip(whole.outputs, first.outputs, second.outputs, strict=True):
        leaves = [_beside(*some) for some in zip(*map(jax.tree.leaves, (joint, *parts)), strict=True)]
        distances.append(jnp.max(jnp.stack([jnp.zeros((), dtype), *(jnp.asarray(leaf[0], dtype) for leaf in leaves)])))
        sizes.append(jnp.max(jnp.stack([jnp.zeros((), dtype), *(jnp.asarray(leaf[1], dtype) for leaf in leaves)])))
    finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(whole)]))
    values = jnp.stack([whole.numbers[0], added[0]])
    return _Pair(apart, size, values, jnp.stack(distances), jnp.stack(sizes), finite)


def _beside(
    whole: Float[Array, "..."], first: Float[Array, "..."], second: Float[Array, "..."]
) -> tuple[Scalar, Scalar]:
    """Distance of an array from its parts, joined along the axis of the examples, and its size; inf where they do not join to it.

    >>> _beside(jnp.arange(3.0), jnp.array([0.0]), jnp.array([1.0, 5.0]))[0].item()
    3.0
    """
    away = jnp.array(jnp.inf, whole.dtype)
    if first.shape == second.shape == whole.shape:  # of the parameters alone
        away = jnp.maximum(norm(jnp.ravel(whole - first)), norm(jnp.ravel(whole - second)))
    elif first.ndim == second.ndim == whole.ndim:
        axes = [axis for axis in range(whole.ndim) if first.shape[axis] != whole.shape[axis]]
        others = [
            {part.shape[axis] for part in (first, second, whole)} for axis in range(whole.ndim) if axis not in axes
        ]
        if len(axes) == 1 and all(len(sizes) == 1 for sizes in others):
            joined = jnp.concatenate([first, second], axis=axes[0])
            away = norm(jnp.ravel(whole - joined)) if joined.shape == whole.shape else away
    return away, norm(jnp.ravel(whole))


def _tolerance(loss: Loss | None, model: Model | None, params: Params, args: PyTree) -> float:
    """Relative difference up to which it is rounding."""
    result = None if loss is None else jax.eval_shape(lambda: loss(params, *args))
    outputs = None if model is None else jax.eval_shape(lambda: model(params, args[0]))
    own = result.sum if isinstance(result, WeightedMean) else result
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves((own, outputs, params)))
    return ROUNDING * eps if eps < 1e-6 else 8 * eps  # half precision: all but the last three bits


@functools.partial(compiled, static=("chunk",))
@full_precision
def _weight(loss: Callable[..., Any] | None, params: Params, args: PyTree, *, chunk: int) -> Scalar:
    """The sum of the weights of all examples."""
    count = count_examples(args)
    dtype = space_of(params).dtype
    if loss is None or not isinstance(jax.eval_shape(lambda: loss(params, *args)), WeightedMean):
        return jnp.full((), count, dtype)

    def of(part: PyTree) -> Any:
        return sum_and_weight(loss(params, *part), 1)[1]

    full = count // chunk
    stacked = jax.tree.map(lambda a: a[: full * chunk].reshape(full, chunk, *a.shape[1:]), args)
    total = jnp.sum(jax.lax.map(of, stacked))
    if count - full * chunk:
        total += of(jax.tree.map(lambda a: a[full * chunk :], args))
    return total


def _refusal(found: Comparison, chunk: int, count: int, name: str, cure: str | None) -> str:
    examples = min(2 * chunk, count)
    asked = f"{name}={chunk}" if cure is None else name
    if found.bends:
        return (
            f"{asked}: the weight of the loss's WeightedMean depends on the parameters: expected weights of the data alone. Leave "
            f"{name} out: the Hessian of the whole ratio is exact."
        )
    ghosts = "normalize by ghost batches, groups that a chunk is a multiple of, which is another loss."
    if not found.rows_equal:
        return (
            f"{asked}: near the parameters the model's outputs for {examples} examples together differ from those for chunks of {chunk} by "
            f"{found.outputs[0]:.2g} of their size, their derivatives by {found.outputs[1]:.2g}: expected one row of outputs for each "
            f"example, from that example alone. The examples are coupled (batch normalization). {cure or f'Leave {name} out; or {ghosts}'}"
        )
    means = "return curvexp.WeightedMean(sum, weight) for a mean over tokens"
    return (
        f"{asked}: near the parameters the loss of {examples} examples is {found.both:.9g}, that of its chunks of {chunk} "
        f"{found.parts:.9g}; their derivatives differ by {found.apart[1].max():.2g} of their size. The examples are coupled (batch "
        f"normalization; a mean over something else than the examples), or the loss is a sum. "
        f"{cure or f'Leave {name} out; or divide by the number of examples; or {means}; or {ghosts}'}"
    )


def _uniform(seed: int, params: Params) -> Params:
    """Numbers of mean 0 and variance 1, like params: hashes of the entries' positions, which compile far faster than jax.random does."""
    leaves, structure = jax.tree.flatten(params)
    drawn, offset = [], seed * 0x9E3779B9
    for leaf in leaves:
        bits = jax.lax.iota(jnp.uint32, leaf.size) + np.uint32(offset % 2**32)
        for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # MurmurHash3's last steps
            bits = (bits ^ (bits >> shift)) * np.uint32(factor)
        unit = (bits ^ (bits >> 16)).astype(jnp.float32) / 2.0**31 - 1
        drawn.append((np.sqrt(3) * unit).astype(leaf.dtype).reshape(leaf.shape))
        offset += leaf.size
    return jax.tree.unflatten(structure, drawn)


def _steps(seed: int, params: Params) -> Params:
    """Random steps of each leaf's root mean square; where that is 0, of all parameters'; 1 where all are 0."""
    sizes = [(jnp.sum(jnp.square(leaf)), leaf.size) for leaf in jax.tree.leaves(params)]
    overall = jnp.sqrt(sum(square for square, _ in sizes) / sum(size for _, size in sizes))
    overall = jnp.where(overall > 0, overall, 1)

    def step(leaf: Array, drawn: Array) -> Array:
        own = jnp.sqrt(jnp.mean(jnp.square(leaf))) if leaf.size else 0
        return jnp.where(own > 0, own, overall.astype(leaf.dtype)) * drawn

    return jax.tree.map(step, params, _uniform(seed, params))


def _dot(left: Vector, right: Vector) -> Any:
    return sum(map(jnp.vdot, jax.tree.leaves(left), jax.tree.leaves(right)))
