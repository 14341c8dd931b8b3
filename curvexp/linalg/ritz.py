"""Ritz pairs of a Krylov space: in the order of what is wanted, and the levels beyond which one was missed."""

from typing import Any

import jax.numpy as jnp

from curvexp.linalg.gram_schmidt import power_of_two
from curvexp.linalg.krylov_state import Wanted


def ritz_pairs(matrix: Any, first: Any, last: Any, wanted: Wanted) -> tuple[Any, Any, Any, Any]:
    """Eigenpairs of matrix[first:last, first:last]: ascending first, then sentinels; indices in order of wish; and
    ‖matrix y − θy‖, the eigensolver's own rounding."""
    size = wanted.size
    index = jnp.arange(size)
    active = (index >= first) & (index < last)
    inside = active[:, None] & active[None, :]
    core = jnp.where(inside, (matrix + matrix.T) / 2, 0)
    unit = power_of_two(jnp.max(jnp.abs(core)))
    core = core / unit
    sentinel = 2 * jnp.linalg.norm(core) + 1e-30
    theta, y = jnp.linalg.eigh(core + jnp.diag(jnp.where(active, 0, sentinel)))
    y = jnp.where(active[:, None], y, 0)
    length = jnp.linalg.norm(
        y, axis=0
    )  # a float32 eigensolver's y and θ have errors of some ten eps, which restarts would add up
    y = y / jnp.where(length > 0, length, 1)
    image = core @ y
    theta = jnp.where(index < last - first, jnp.sum(y * image, axis=0), theta)
    off = unit * jnp.linalg.norm(image - y * theta, axis=0)
    theta = unit * theta
    count = last - first
    if wanted.which == "LM":
        order = jnp.argsort(-jnp.where(index < count, jnp.abs(theta), -1), stable=True)
    else:
        down = count - 1 - index
        turns = jnp.where(index % 2 == 0, count - 1 - index // 2, index // 2)  # top, bottom, next to top, ...
        order = jnp.where(index < count, {"LA": down, "SA": index, "BE": turns}[wanted.which], index)
    return theta, y, order, off


def wanted_ends(wanted: Wanted) -> tuple[bool, bool]:
    """Whether the lower and the upper end of the spectrum are wanted."""
    return wanted.which != "LA" and (wanted.which != "BE" or wanted.k > 1), wanted.which != "SA"


def levels_of(values: Any, margin: Any, wanted: Wanted) -> Any:
    """Beyond which an eigenvalue that was not found would have been wanted: below the first, above the second; and would have been the
    outermost of its end: below the third, above the fourth, (4,)."""
    k, none = wanted.k, jnp.full_like(margin, jnp.inf)
    if wanted.which == "LA":
        return jnp.stack([-none, values.min() + margin, -none, values.max() + margin])
    if wanted.which == "SA":
        return jnp.stack([values.max() - margin, none, values.min() - margin, none])
    if wanted.which == "LM":
        edge, last = jnp.abs(values).min() + margin, jnp.abs(values).max() + margin
        return jnp.stack([-edge, edge, -last, last])
    low, high = values[1::2], values[::2]  # as ritz_pairs has them
    below = jnp.stack([low.max() - margin, low.min() - margin]) if k > 1 else jnp.stack([-none, -none])
    return jnp.stack([below[0], high.min() + margin, below[1], high.max() + margin])
