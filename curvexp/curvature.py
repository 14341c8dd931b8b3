"""Curvature of a loss as symmetric operators on its parameters' space: products, never matrices, unless asked for.

With f the model's outputs, L = c(f) the loss, J = ∂f/∂θ:

    Hessian      H = ∇²L = J'(∇²c)J + Σ ∂c/∂f_i ∇²f_i
    GGN          G = J'(∇²c)J                 (Schraudolph 2002); H − G is the residual part
    Fisher       F = Σ E_y[∇log p ∇log p']    = G for softmax cross-entropy and squared error (Martens 2020, sec. 9)

An Operator is a pytree: what it is made of (parameters, data) are arrays that jit takes as arguments, what it does is static. So one
compiled program serves all parameters and all data of the same shapes.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from curvexp.linalg import Estimate
from curvexp.linalg.precision import at_least_float32, full_precision
from curvexp.linalg.vectors import Space, dense_matrix, space_of


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

    def many(self, vectors: Any) -> Any:
        """Products with several vectors at once: each leaf has a leading axis, and so has the result."""
        return jax.vmap(self)(vectors)

    def dense(self, *, chunk: int | None = None) -> Any:
        """The matrix, (n, n), as computed: its asymmetry is the products' rounding.

        Args:
            chunk: columns computed at once; default: as many as keep the temporary memory near 64 MB of vectors, at most n.
        """
        return dense_matrix(self, self.space, chunk=chunk)


def hessian(loss: Any, params: Any, *args: Any, chunk: int | None = None) -> Operator:
    """Hessian of `loss` at `params`: v -> ∂/∂ε ∇loss(params + εv), exact to rounding, 1 to 1.5 gradients each inside a loop.

    Args:
        loss: loss(params, *args) -> scalar; a function, or a jax.tree_util.Partial, whose arrays then stay arguments of jit.
        params: pytree of real arrays; those of 16 bits are taken in float32, and so are then the vectors of the operator. What the loss
            itself casts to fewer bits stays its own.
        args: further arguments: arrays, data.
        chunk: examples taken at once. The loss is then a mean over the examples, the leading axis of every array in `args`, and
            is computed in chunks whose weighted mean is the whole loss; memory is that of one chunk.

    Raises:
        TypeError: integer or complex parameters. ValueError: no parameters; chunk below 1; a loss that is no mean over its examples.
    """
    loss, params = _partial(loss), at_least_float32(params)
    if chunk is None:
        return Operator(_hessian_product, space_of(params), (loss, params, args))
    _check_mean(loss, params, args, chunk)
    return Operator(_Chunked(_hessian_product, chunk), space_of(params), (loss, params, args))


def ggn(
    model: Callable[..., Any],
    criterion: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    targets: Any,
    *,
    chunk: int | None = None,
) -> Operator:
    """Generalized Gauss-Newton matrix J'(∇²c)J of criterion(model(params, inputs), targets).

    Positive semidefinite where the criterion is convex. Args as for `hessian`.

    Source: Schraudolph 2002, sec. 3.
    """
    head, params = (_partial(model), _partial(criterion)), at_least_float32(params)
    if chunk is None:
        return Operator(_ggn_product, space_of(params), (head, params, (inputs, targets)))
    _check_mean(jax.tree_util.Partial(_composed, head), params, (inputs, targets), chunk)
    return Operator(_Chunked(_ggn_product, chunk), space_of(params), (head, params, (inputs, targets)))


@full_precision
def fisher(
    model: Callable[..., Any],
    log_likelihood: Literal["softmax", "gaussian"],
    params: Any,
    inputs: Any,
    *,
    kind: Literal["true", "sampled", "empirical"] = "true",
    targets: Any = None,
    samples: int = 1,
    key: Any = None,
    chunk: int | None = None,
) -> Operator:
    """Fisher information of a model's predictive distribution, a mean over the examples; positive semidefinite.

    Args:
        model: model(params, inputs) -> (P, K): logits for "softmax"; means of a unit-variance normal for "gaussian" (½ squared error).
        inputs: (P, ...).
        kind: true, E_y over the model's own distribution, exact; sampled, `samples` labels drawn from it for each example with `key`,
            unbiased; empirical, with the data's `targets` ((P,) integer, or (P, K)), which is no Fisher but the second moment of the
            examples' gradients.
        chunk: examples taken at once.

    Raises:
        ValueError: a kind without what it needs.

    Source: Martens 2020, sec. 9 to 11; Kunstner et al. 2019 on the empirical one.
    """
    if log_likelihood not in ("softmax", "gaussian"):
        raise ValueError(f"log_likelihood={log_likelihood!r}: expected 'softmax' or 'gaussian'.")
    bound, params = _partial(model), at_least_float32(params)
    if kind == "true":
        examples: Any = (inputs,)
        product: Callable[[Any, Any], Any] = _TrueFisher(log_likelihood)
    elif kind == "sampled":
        if key is None:
            raise ValueError("fisher(kind='sampled') draws labels: expected key=jax.random.key(...).")
        examples = (inputs, _scores(bound, params, inputs, key, samples=samples, family=log_likelihood))
        product = _outer_product
    elif kind == "empirical":
        if targets is None:
            raise ValueError("fisher(kind='empirical') takes the data's labels: expected targets=.")
        outputs = bound(params, inputs)
        at = jax.nn.one_hot(targets, outputs.shape[-1]) if log_likelihood == "softmax" else targets
        mean = jax.nn.softmax(outputs) if log_likelihood == "softmax" else outputs
        examples = (inputs, (mean - at)[:, None])
        product = _outer_product
    else:
        raise ValueError(f"kind={kind!r}: expected 'true', 'sampled' or 'empirical'.")
    if chunk is not None:
        product = _Chunked(product, chunk)
    return Operator(product, space_of(params), (bound, params, examples))


def gradient_covariance(
    model: Callable[..., Any],
    criterion: Callable[[Any, Any], Any],
    params: Any,
    inputs: Any,
    targets: Any,
) -> Operator:
    """Covariance of the single examples' gradients: their second moment less the outer product of their mean.

    Args:
        criterion: mean over the examples; each example's own loss is taken as criterion on that example alone.

    Source: Jastrzębski et al. 2020, sec. 2.
    """
    head, params = (_partial(model), _partial(criterion)), at_least_float32(params)
    return Operator(_covariance_product, space_of(params), (head, params, (inputs, targets)))


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


def block(op: Operator, chosen: Callable[[str], bool] | str) -> Operator:
    """The diagonal block of A on some of the parameters: rows and columns of the leaves that are chosen.

    Args:
        chosen: a predicate on a leaf's path, written as "layer/kernel"; or a prefix of paths, "layer".

    Returns:
        Operator on a dict {path: array}.

    Raises:
        ValueError: no leaf is chosen; the message lists the paths.
    """
    paths = _paths(op.space)

    def takes(path: str) -> bool:
        return path == chosen or path.startswith(f"{chosen}/") if isinstance(chosen, str) else bool(chosen(path))

    picked = tuple(i for i, path in enumerate(paths) if takes(path))
    if not picked:
        raise ValueError(f"block: no parameter is chosen; expected some of {', '.join(paths)}.")
    leaves = jax.tree.leaves(op.like)
    domain = {paths[i]: leaves[i] for i in picked}
    return Operator(_Block(tuple(paths), tuple(paths[i] for i in picked)), space_of(domain), op)


def layers(op: Operator) -> dict[str, Operator]:
    """The diagonal blocks by layer: {the path without its last name: block}."""
    paths = _paths(op.space)
    names = dict.fromkeys(path.rpartition("/")[0] or path for path in paths)
    return {name: block(op, name) for name in names}


def preconditioned(op: Operator, preconditioner: Any) -> Operator:
    """P^(-1/2) A P^(-1/2): what decides the stability of an adaptive optimizer that divides its step by P.

    Args:
        preconditioner: P's diagonal, a positive pytree of the domain. Where it is not positive the products are not finite.

    Source: Cohen et al. 2022, sec. 3.
    """
    _same_space(op, preconditioner, "preconditioner")
    return Operator(_preconditioned_product, op.space, (op, preconditioner))


class Objective(NamedTuple):
    """A loss with all its data, as a function of the parameters: a pytree, so that under jit the data stays an argument.

    Attributes:
        loss: a jax.tree_util.Partial, (params, data) -> scalar. data: pytree.
    """

    loss: Any
    data: Any

    @full_precision
    def __call__(self, params: Any) -> Any:
        """The loss at params; its products have all bits of their dtype."""
        return self.loss(params, self.data)


def sampling_error(
    loss: Callable[..., Any], params: Any, *args: Any, vectors: Any, groups: int = 20, population: int | None = None
) -> Estimate:
    """v'Hv over a sample of the examples, for each of some vectors, with its standard error as an estimate of that over all examples.

    From the spread of v'Hv over equal groups of the sample, which need not be as many as examples: a product a group and vector. For v an
    eigenvector of the sample's own Hessian this is the noise of its eigenvalue; the largest eigenvalue of a sample is biased upwards
    besides, as it is the largest of noisy ones.

    Args:
        loss, params, args: as for `hessian`: the mean over the examples, the leading axis of every array in `args`.
        vectors: pytree of unit vectors, each leaf with a leading axis m.
        groups: at least 2; examples that do not fill the last one are left out.
        population: examples that the sample was drawn from, without replacement; None: infinitely many.

    Returns:
        mean, stderr (m,).

    Raises:
        ValueError: groups below 2, or more than examples; a population smaller than the sample.

    Source: Cochran 1977, sec. 2.4 (the finite population correction) and 2.14.
    """
    count = _examples(args)
    if isinstance(groups, bool) or not isinstance(groups, int) or not 2 <= groups <= count:
        raise ValueError(f"groups={groups!r}: expected an integer from 2 to {count}, the number of examples.")
    if population is not None and population < count:
        raise ValueError(f"population={population!r}: expected at least {count}, the size of the sample.")
    forms = _quadratic_forms(_partial(loss), params, args, vectors, groups=groups)
    left = 1.0 if population is None else 1 - count / population
    stderr = forms.std(axis=0, ddof=1) * np.sqrt(left / groups)
    return Estimate(forms.mean(axis=0), stderr, forms.shape[1])


@functools.partial(jax.jit, static_argnames="groups")
@full_precision
def _quadratic_forms(loss: Any, params: Any, args: Any, vectors: Any, *, groups: int) -> Any:
    """v'H_g v, (groups, m)."""
    size = _examples(args) // groups
    parts = jax.tree.map(lambda a: a[: groups * size].reshape(groups, size, *a.shape[1:]), args)

    def one(part: Any) -> Any:
        op = hessian(loss, params, *part)
        return jax.lax.map(lambda v: sum(map(jnp.vdot, jax.tree.leaves(v), jax.tree.leaves(op(v)))), vectors)

    return jax.lax.map(one, parts)


# ---- products: (operands, v) -> Av ----------------------------------------------------------------------------------------------


def _hessian_product(operands: Any, v: Any) -> Any:
    loss, params, args = operands
    return jax.jvp(jax.grad(lambda p: loss(p, *args)), (params,), (v,))[1]


def _ggn_product(operands: Any, v: Any) -> Any:
    (model, criterion), params, (inputs, targets) = operands

    def forward(p: Any) -> Any:
        return model(p, inputs)

    outputs, tangent = jax.jvp(forward, (params,), (v,))
    curved = jax.jvp(jax.grad(lambda f: criterion(f, targets)), (outputs,), (tangent,))[1]
    return jax.vjp(forward, params)[1](curved)[0]


@dataclasses.dataclass(frozen=True)
class _TrueFisher:
    """J' E[∇²(−log p)] J: diag(p) − pp' for softmax, I for a unit normal, over the number of examples."""

    family: str

    def __call__(self, operands: Any, v: Any) -> Any:
        model, params, (inputs,) = operands
        outputs, tangent = jax.jvp(lambda p: model(p, inputs), (params,), (v,))
        if self.family == "softmax":
            p = jax.nn.softmax(outputs)
            tangent = p * (tangent - jnp.sum(p * tangent, axis=-1, keepdims=True))
        return jax.vjp(lambda p: model(p, inputs), params)[1](tangent / len(inputs))[0]


def _outer_product(operands: Any, v: Any) -> Any:
    """Mean over examples and samples of J's s'J v, with the scores s = ∂(−log p)/∂outputs, (P, samples, K)."""
    model, params, (inputs, scores) = operands
    _, tangent = jax.jvp(lambda p: model(p, inputs), (params,), (v,))
    along = jnp.einsum("psk,pk->ps", scores, tangent)
    weighted = jnp.einsum("ps,psk->pk", along, scores) / (scores.shape[0] * scores.shape[1])
    return jax.vjp(lambda p: model(p, inputs), params)[1](weighted)[0]


@functools.partial(jax.jit, static_argnames=("samples", "family"))
@full_precision
def _scores(model: Any, params: Any, inputs: Any, key: Any, *, samples: int, family: str) -> Any:
    outputs = model(params, inputs)
    shape = (outputs.shape[0], samples, outputs.shape[-1])
    if family == "gaussian":
        return -jax.random.normal(key, shape, outputs.dtype)
    labels = jax.random.categorical(key, outputs[:, None, :], shape=shape[:2])
    return jax.nn.softmax(outputs)[:, None] - jax.nn.one_hot(labels, shape[-1], dtype=outputs.dtype)


def _covariance_product(operands: Any, v: Any) -> Any:
    (model, criterion), params, (inputs, targets) = operands

    def each(p: Any) -> Any:
        one = jax.vmap(lambda x, y: criterion(model(p, x[None]), y[None]))
        return one(inputs, targets)

    losses, tangent = jax.jvp(each, (params,), (v,))
    return jax.vjp(each, params)[1]((tangent - tangent.mean()) / len(losses))[0]


def _scaled_product(operands: Any, v: Any) -> Any:
    op, factor = operands
    return jax.tree.map(lambda a: factor.astype(a.dtype) * a, op(v))


def _shifted_product(operands: Any, v: Any) -> Any:
    op, shift = operands
    return jax.tree.map(lambda a, b: a + shift.astype(b.dtype) * b, op(v), v)


def _difference_product(operands: Any, v: Any) -> Any:
    left, right = operands
    return jax.tree.map(jnp.subtract, left(v), right(v))


@dataclasses.dataclass(frozen=True)
class _Block:
    """Zero-padded to the whole space, multiplied, and cut out again."""

    paths: tuple[str, ...]
    chosen: tuple[str, ...]

    def __call__(self, operands: Any, v: Any) -> Any:
        op = operands
        zeros = [jnp.zeros(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(op.like)]
        padded = [v.get(path, zero) for path, zero in zip(self.paths, zeros, strict=True)]
        image = jax.tree.leaves(op(jax.tree.unflatten(op.space.treedef, padded)))
        return {path: leaf for path, leaf in zip(self.paths, image, strict=True) if path in self.chosen}


def _preconditioned_product(operands: Any, v: Any) -> Any:
    op, preconditioner = operands
    roots = jax.tree.map(jnp.sqrt, preconditioner)
    return jax.tree.map(jnp.divide, op(jax.tree.map(jnp.divide, v, roots)), roots)


@dataclasses.dataclass(frozen=True)
class _Chunked:
    """The mean over chunks of the examples, weighted by their sizes; the last one may be smaller."""

    product: Callable[[Any, Any], Any]
    chunk: int

    def __call__(self, operands: Any, v: Any) -> Any:
        head, params, args = operands
        count = _examples(args)
        size = min(self.chunk, count)
        whole = count // size
        stacked = jax.tree.map(lambda a: a[: whole * size].reshape(whole, size, *a.shape[1:]), args)

        def add(total: Any, part: Any) -> tuple[Any, None]:
            piece = self.product((head, params, part), v)
            return jax.tree.map(lambda t, p: t + (size / count) * p, total, piece), None

        total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, v), stacked)
        rest = count - whole * size
        if rest:
            piece = self.product((head, params, jax.tree.map(lambda a: a[whole * size :], args)), v)
            total = jax.tree.map(lambda t, p: t + (rest / count) * p, total, piece)
        return total


@functools.partial(jax.jit, inline=True)
@full_precision
def _applied(op: Operator, v: Any) -> Any:
    return op.product(op.operands, at_least_float32(v))


# ---- helpers --------------------------------------------------------------------------------------------------------------------


def _partial(function: Any) -> Any:
    if not jax.tree_util.all_leaves([function]):  # a Partial, or another pytree that can be called
        return function
    return jax.tree_util.Partial(function)


def _paths(space: Space) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(space.like())
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]


def _composed(head: Any, params: Any, inputs: Any, targets: Any) -> Any:
    model, criterion = head
    return criterion(model(params, inputs), targets)


def _examples(args: Any) -> int:
    """Length of the leading axis that all arrays share."""
    lengths = {leaf.shape[0] if jnp.ndim(leaf) else 0 for leaf in map(jnp.asarray, jax.tree.leaves(args))}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            f"chunk: the arrays in args have leading axes {sorted(lengths)}: expected one length, the number of examples. Bind what is no "
            "example with jax.tree_util.Partial."
        )
    return lengths.pop()


def _check_mean(loss: Any, params: Any, args: Any, chunk: int) -> None:
    """Refuse a loss that is not the mean over its chunks: batch normalization couples the examples of a batch, a sum is no mean."""
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ValueError(f"chunk={chunk!r}: expected a positive integer, the number of examples taken at once.")
    both = min(2 * chunk, _examples(args))
    if both <= chunk or any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves((params, args))):
        return
    whole, mean = (float(value) for value in _two_chunks(loss, params, args, chunk=chunk, both=both))
    eps = float(jnp.finfo(space_of(params).dtype).eps)
    if abs(whole - mean) > 1e3 * eps * max(abs(whole), abs(mean), eps):
        raise ValueError(
            f"chunk={chunk}: the loss of {both} examples is {whole:.9g}, the mean over its chunks {mean:.9g}: the examples are coupled "
            "(batch normalization), or the loss is a sum. Leave chunk out, or divide by the number of examples, or normalize by ghost "
            "batches, groups that a chunk is a multiple of, which is another loss."
        )


@functools.partial(jax.jit, static_argnames=("chunk", "both"))
@full_precision
def _two_chunks(loss: Any, params: Any, args: Any, *, chunk: int, both: int) -> tuple[Any, Any]:
    def on(low: int, high: int) -> Any:
        return (high - low) / both * loss(params, *jax.tree.map(lambda a: a[low:high], args))

    return on(0, both), on(0, chunk) + on(chunk, both)


def _same_space(op: Operator, tree: Any, name: str) -> None:
    space = space_of(tree)
    if space.treedef != op.space.treedef or space.shapes != op.space.shapes:
        raise ValueError(f"{name} has the form {space.like()}: expected that of the operator's domain, {op.like}.")
