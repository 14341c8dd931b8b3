"""Lanczos from several random vectors at once, each with its own basis: what a quadrature is read from."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from curvexp.linalg.gram_schmidt import power_of_two
from curvexp.linalg.layout import Layout
from curvexp.types import FlatMatvec

NOISE = 4  # rounding of a product, in units of eps times its length


class Lanczos(NamedTuple):
    """What b runs have come to.

    Attributes:
        basis: orthonormal rows, zero after an early end. alphas, betas: the tridiagonal matrix's diagonal, and what is beside it.
        alive: whether the Krylov space goes on. scale: largest ‖Av‖ seen. made: products.

    >>> run = lambda keys: lanczos(lambda v: 2 * v, jnp.zeros((0, 5)), keys, layout=Layout(5), steps=3, always=True)
    >>> end = jax.eval_shape(run, jax.random.split(jax.random.key(0), 2))
    >>> end.basis.shape, end.alphas.shape, end.made.shape
    ((2, 4, 5), (2, 3), (2,))
    """

    basis: Float[Array, "b m+1 p"]
    alphas: Float[Array, "b m"]
    betas: Float[Array, "b m"]
    alive: Bool[Array, "b"]
    scale: Float[Array, "b"]
    made: Int[Array, "b"]


class _Loss(NamedTuple):
    """omega, omega_before: q'q_next and q'q as estimated; again: whether the next rows are mended too."""

    omega: Float[Array, "b m"]
    omega_before: Float[Array, "b m"]
    again: Bool[Array, ""]


class _Step(NamedTuple):
    """rows: to be multiplied next; the rows before and their betas, last; loss: a `_Loss`, or () where nothing is estimated."""

    run: Lanczos
    rows: Float[Array, "b n"]
    before: Float[Array, "b n"]
    last: Float[Array, "b"]
    loss: _Loss | tuple[()]


def lanczos(
    product: FlatMatvec,
    known: Float[Array, "k p"],
    keys: Key[Array, "b"],
    *,
    layout: Layout,
    steps: int,
    always: bool,
) -> Lanczos:
    """Runs of `steps` products from random unit vectors, in a loop of known trip count.

    Args:
        product: v -> Av. known: orthonormal rows that the Krylov spaces stay orthogonal to.
        keys: of the random vectors.
        always: every vector is orthogonalised against its whole basis, without a branch. Else only where a recurrence says that the loss
            of orthogonality passes √eps, and once more after that, against the rows that there are: until there the tridiagonal matrix
            is a projection of A to rounding, without copies of what has converged (Simon 1984, sec. 4 and 5).

    >>> product, known = lambda v: jnp.array([1.0, 3.0]) * v, jnp.zeros((0, 2))
    >>> run = lambda keys: lanczos(product, known, keys, layout=Layout(2), steps=2, always=True).alphas.sum()
    >>> round(float(jax.jit(run)(jax.random.split(jax.random.key(0), 1))), 3)  # the trace
    4.0
    """
    many = jax.vmap(product) if len(keys) > 1 else lambda rows: product(rows[0])[None]
    dtype, eps = known.dtype, jnp.finfo(known.dtype).eps
    rows = layout.parted(jax.vmap(lambda key: jax.random.normal(key, (layout.size,), dtype))(keys))
    rows = _beside(known, _beside(known, rows))
    rows = rows / _lengths(rows)[:, None]
    empty, zeros = jnp.zeros((len(keys), steps), dtype), jnp.zeros(len(keys), dtype)
    basis = layout.parted(jnp.zeros((len(keys), steps + 1, layout.length), dtype).at[:, 0].set(rows))
    start = Lanczos(basis, empty, empty, jnp.ones(len(keys), bool), zeros, jnp.zeros(len(keys), jnp.int32))
    loss: _Loss | tuple[()] = () if always else _Loss(empty.at[:, 0].set(1), empty, jnp.array(False))

    def step(i: Int[Array, ""], s: _Step) -> _Step:
        run = s.run
        image = layout.parted(many(layout.whole(s.rows)))
        length = _lengths(image)
        scale = jnp.maximum(run.scale, length)
        # the two neighbours first: what is then left along the rest of the basis is rounding, and one pass takes it
        rest = image - s.last[:, None] * s.before
        alpha = _dots(s.rows, rest)
        rest = _beside(known, rest - alpha[:, None] * s.rows)
        if always:
            loss, rest = s.loss, _beside_all(run.basis, rest)
            beta = _lengths(rest)
        else:
            loss, rest, beta = _mended(i, s, rest, alpha, length)
        goes = run.alive & (beta > 10 * eps * scale)
        after = jnp.where(goes[:, None], rest / jnp.where(beta > 0, beta, 1)[:, None], 0)
        beta = jnp.where(goes, beta, 0)
        basis = layout.parted(
            run.basis.at[:, i + 1].set(after)
        )  # after all that reads it, so that it is written in place
        alphas = run.alphas.at[:, i].set(jnp.where(run.alive, alpha, 0))
        made = run.made + run.alive
        run = Lanczos(basis, alphas, run.betas.at[:, i].set(beta), goes, scale, made)
        return _Step(run, after, s.rows, beta, loss)

    return jax.lax.fori_loop(0, steps, step, _Step(start, rows, jnp.zeros_like(rows), zeros, loss)).run


def _mended(
    i: Int[Array, ""], s: _Step, rest: Float[Array, "b n"], alpha: Float[Array, "b"], length: Float[Array, "b"]
) -> tuple[_Loss, Float[Array, "b n"], Float[Array, "b"]]:
    """What is lost after this step, by the recurrence of ω_k = q_k'q_next, k < i; the rest, mended where that is too much; its lengths."""
    run, loss = s.run, s.loss
    assert isinstance(loss, _Loss)
    eps, index = jnp.finfo(rest.dtype).eps, jnp.arange(run.alphas.shape[1])
    up = jnp.roll(loss.omega, -1, axis=1)
    down, left = (jnp.where(index > 0, jnp.roll(part, 1, axis=1), 0) for part in (loss.omega, run.betas))
    alpha, last = alpha[:, None], s.last[:, None]
    raised = run.betas * up + (run.alphas - alpha) * loss.omega + left * down - last * loss.omega_before
    noise = NOISE * eps * length[:, None]
    beta = _lengths(rest)
    divisor = jnp.where(beta > 0, beta, 1)[:, None]
    omega = jnp.where(index < i, (raised + jnp.where(raised < 0, -noise, noise)) / divisor, 0)
    omega = jnp.where(index == i, noise / divisor, omega)
    lost = jnp.any(run.alive[:, None] & (jnp.abs(omega) > jnp.sqrt(eps)))
    mends = lost | loss.again
    rest, beta = jax.lax.cond(mends, lambda: _beside_first(run.basis, i, rest), lambda: (rest, beta))
    omega = jnp.where(mends & (index <= i), NOISE * eps, omega)
    omega = jnp.where(index == i + 1, 1, omega)
    return _Loss(omega, loss.omega, lost & ~loss.again), rest, beta


def _beside_first(
    basis: Float[Array, "b m n"], i: Int[Array, ""], rest: Float[Array, "b n"]
) -> tuple[Float[Array, "b n"], Float[Array, "b"]]:
    """`_beside_all` of rows 0 to i, and its lengths: the rows above are zero, and not all of them are read."""
    steps = basis.shape[1] - 1
    ends = sorted({-(-steps * quarter // 4) for quarter in (1, 2, 3, 4)})
    branches = [lambda end=end: _beside_all(basis[:, :end], rest) for end in ends]
    rest = jax.lax.switch(jnp.searchsorted(np.array(ends), i + 1), branches)
    return rest, _lengths(rest)


def _beside_all(basis: Float[Array, "b m n"], rest: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """What is left of each row beside those of its basis."""
    if len(rest) == 1:
        return _beside(basis[0], rest)
    c = jnp.einsum("bmn,bn->bm", basis, rest, precision="highest")
    return rest - jnp.einsum("bm,bmn->bn", c, basis, precision="highest")


def _beside(known: Float[Array, "m n"], rows: Float[Array, "b n"]) -> Float[Array, "b n"]:
    """What is left of rows beside the orthonormal ones of `known`."""
    if len(known) == 0:
        return rows
    return rows - jnp.matmul(jnp.matmul(rows, known.T, precision="highest"), known, precision="highest")


def _lengths(rows: Float[Array, "b n"]) -> Float[Array, "b"]:
    """‖row‖, also where squares of entries are beyond the range of the dtype. Sums as inner products: of n = 8970 a CPU makes one in a
    tenth of the time of a maximum."""
    unit = jax.vmap(power_of_two)(_dots(rows, jnp.sign(rows)))
    rows = rows / unit[:, None]
    return unit * jnp.sqrt(_dots(rows, rows))


def _dots(left: Float[Array, "b n"], right: Float[Array, "b n"]) -> Float[Array, "b"]:
    """Inner products row by row."""
    return jnp.einsum("bn,bn->b", left, right, precision="highest")
