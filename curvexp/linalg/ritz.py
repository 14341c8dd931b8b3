"""Ritz pairs of a Krylov space: in the order of what is wanted, and the levels beyond which one was missed."""

import contextlib
from typing import Any

import jax.numpy as jnp
import numpy as np

from curvexp.linalg.gram_schmidt import power_of_two
from curvexp.linalg.krylov_state import Wanted


def ritz_pairs(matrix: Any, first: Any, last: Any, wanted: Wanted, xp: Any = jnp) -> tuple[Any, Any, Any, Any]:
    """Eigenpairs of matrix[first:last, first:last]: ascending first, then sentinels; indices in order of wish; and
    ‖matrix y − θy‖, the eigensolver's own rounding."""
    size = wanted.size
    index = xp.arange(size)
    active = (index >= first) & (index < last)
    inside = active[:, None] & active[None, :]
    core = xp.where(inside, (matrix + matrix.T) / 2, 0)
    unit = power_of_two(xp.max(xp.abs(core)), xp)
    core = core / unit
    sentinel = 2 * xp.linalg.norm(core) + 1e-30
    if xp is np:  # of the rows alone
        count, theta, y = int(last - first), np.full(size, sentinel, core.dtype), np.zeros_like(core)
        with contextlib.suppress(np.linalg.LinAlgError):  # of what is not finite
            theta[:count], y[first:last, :count] = np.linalg.eigh(core[first:last, first:last])
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
    """Whether the lower and the upper end of the spectrum are wanted."""
    return wanted.which != "LA" and (wanted.which != "BE" or wanted.k > 1), wanted.which != "SA"


def levels_of(values: Any, margin: Any, wanted: Wanted, xp: Any = jnp) -> Any:
    """Beyond which an eigenvalue that was not found would have been wanted: below the first, above the second; and would have been the
    outermost of its end: below the third, above the fourth, (4,)."""
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
