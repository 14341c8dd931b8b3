"""Ritz pairs of a Krylov space: in the order of what is wanted, and the levels beyond which one was missed."""

import contextlib
from types import ModuleType

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from curvexp.linalg.gram_schmidt import power_of_two
from curvexp.linalg.krylov_state import Wanted
from curvexp.types import AnyArray, AnyCount, AnyReal


def ritz_pairs(
    matrix: Float[AnyArray, "size size"], first: AnyCount | int, last: AnyCount, wanted: Wanted, xp: ModuleType = jnp
) -> tuple[Float[AnyArray, "size"], Float[AnyArray, "size size"], Int[AnyArray, "size"], Float[AnyArray, "size"]]:
    """Eigenpairs of matrix[first:last, first:last]: ascending first, then sentinels; indices in order of wish; and
    ‖matrix y − θy‖, the eigensolver's own rounding.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=1, which="LA", size=3, stride=1, layout=Layout(3))
    >>> matrix = np.diag([1.0, 5.0, 0.0])  # of which two rows are known
    >>> values, _, order, _ = ritz_pairs(matrix, 0, 2, wanted, np)
    >>> values[order[:2]].tolist()
    [5.0, 1.0]
    """
    size = wanted.size
    index = xp.arange(size)
    active = (index >= first) & (index < last)
    inside = active[:, None] & active[None, :]
    core = xp.where(inside, (matrix + matrix.T) / 2, 0)
    unit = power_of_two(xp.max(xp.abs(core)), xp)
    core = core / unit
    sentinel = 2 * xp.linalg.norm(core) + 1e-30
    if xp is np:  # of the rows alone
        rows, theta, y = int(last - first), np.full(size, sentinel, core.dtype), np.zeros_like(core)
        with contextlib.suppress(np.linalg.LinAlgError):  # of what is not finite
            theta[:rows], y[first:last, :rows] = np.linalg.eigh(core[first:last, first:last])
    else:
        theta, y = xp.linalg.eigh(core + xp.diag(xp.where(active, 0, sentinel)))
        y = xp.where(active[:, None], y, 0)
    length = xp.linalg.norm(
        y, axis=0
    )  # a float32 eigensolver's y and θ have errors of some ten eps, which restarts would add up
    y = y / xp.where(length > 0, length, 1)
    image = core @ y
    theta = xp.where(index < last - first, xp.sum(y * image, axis=0), theta)
    off = unit * xp.linalg.norm(image - y * theta, axis=0)
    theta = unit * theta
    count = last - first
    if wanted.which == "LM":
        order = xp.argsort(-xp.where(index < count, xp.abs(theta), -1), stable=True)
    else:
        down = count - 1 - index
        turns = xp.where(index % 2 == 0, count - 1 - index // 2, index // 2)  # top, bottom, next to top, ...
        order = xp.where(index < count, {"LA": down, "SA": index, "BE": turns}[wanted.which], index)
    return theta, y, order, off


def wanted_ends(wanted: Wanted) -> tuple[bool, bool]:
    """Whether the lower and the upper end of the spectrum are wanted.

    >>> from curvexp.linalg.layout import Layout
    >>> [wanted_ends(Wanted(2, which, 3, 1, Layout(3))) for which in ("LA", "SA", "BE")]
    [(False, True), (True, False), (True, True)]
    """
    return wanted.which != "LA" and (wanted.which != "BE" or wanted.k > 1), wanted.which != "SA"


def levels_of(
    values: Float[AnyArray, "k"], margin: AnyReal, wanted: Wanted, xp: ModuleType = jnp
) -> Float[AnyArray, "4"]:
    """Beyond which an eigenvalue that was not found would have been wanted: below the first, above the second; and would have been the
    outermost of its end: below the third, above the fourth.

    >>> from curvexp.linalg.layout import Layout
    >>> wanted = Wanted(k=2, which="LA", size=3, stride=1, layout=Layout(3))
    >>> levels_of(np.array([5.0, 1.0]), np.array(0.5), wanted, np).tolist()
    [-inf, 1.5, -inf, 5.5]
    """
    k, none = wanted.k, xp.full_like(margin, xp.inf)
    if wanted.which == "LA":
        return xp.stack([-none, values.min() + margin, -none, values.max() + margin])
    if wanted.which == "SA":
        return xp.stack([values.max() - margin, none, values.min() - margin, none])
    if wanted.which == "LM":
        edge, last = xp.abs(values).min() + margin, xp.abs(values).max() + margin
        return xp.stack([-edge, edge, -last, last])
    low, high = values[1::2], values[::2]  # as ritz_pairs has them
    below = xp.stack([low.max() - margin, low.min() - margin]) if k > 1 else xp.stack([-none, -none])
    return xp.stack([below[0], high.min() + margin, below[1], high.max() + margin])
