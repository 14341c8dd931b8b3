"""How a run ends and how fast it converged, judged from its losses.

The stop rule stands here once: `crossings` compares losses with the same numbers, in the run's precision.
"""

import math
from typing import Literal, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Bool, Float
from numpy.typing import DTypeLike

DEFAULT_TARGET_FRACTION = 1e-3  # of the initial distance from the minimum, where the problem knows its minimum
DEFAULT_TARGET_LOSS = 0.1  # where it does not


class Bounds(NamedTuple):
    """The losses that decide over a run.

    Attributes:
        minimum: f*, -inf where the loss is unbounded below, None where it is not known.
        base: the value that distances are taken from: f* where finite, else the known lower bound, else the first loss.
        target: the loss that counts as reached, -inf for none. ceiling, floor: beyond these the run has diverged.
        start: the loss at the first step.
    """

    minimum: float | None
    base: float
    target: float
    ceiling: float
    floor: float
    start: float


def bounds(
    start: float,
    *,
    minimum: float | None,
    lower_bound: float | None,
    target: float | Literal["auto"] | None,
    diverge_at: float,
) -> Bounds:
    """Bounds of a run that starts at loss `start`.

    Args:
        minimum: f* where known, -inf where the loss is unbounded below. lower_bound: what the loss cannot go below, where f* is not known.
        target: fraction of start − f* where f* is known and finite, else a loss; `auto` for the defaults, None for no target.
        diverge_at: multiple of the initial distance from the minimum (from the lower bound, where that is all that is known).
    """
    known = minimum is not None and math.isfinite(minimum)
    base = minimum if known else lower_bound if lower_bound is not None else start
    assert base is not None
    if minimum == -math.inf or (not known and lower_bound is None):
        width = diverge_at * max(abs(start), 1.0)
        ceiling, floor = start + width, start - width
    else:
        distance = start - base
        ceiling = base + diverge_at * distance if distance > 0 else math.inf
        floor = -math.inf
    if target is None:
        wanted = -math.inf
    elif known:
        wanted = base + (DEFAULT_TARGET_FRACTION if target == "auto" else target) * (start - base)
    else:
        wanted = DEFAULT_TARGET_LOSS if target == "auto" else target
    if minimum == -math.inf:
        wanted = -math.inf if target == "auto" or target is None else target
    return Bounds(minimum, base, wanted, ceiling, floor, start)


Flags: TypeAlias = Bool[np.ndarray | np.bool, "..."]


class Stop(NamedTuple):
    """Losses at which a run stops, in its precision; -inf or inf for none.

    Attributes:
        target: stops a run that came down to it. ceiling, floor: beyond them it has diverged.
    """

    target: float | Float[np.ndarray, ""]
    ceiling: float | Float[np.ndarray, ""]
    floor: float | Float[np.ndarray, ""]


def stop_of(limits: Bounds, *, at_target: bool, dtype: DTypeLike = np.float64) -> Stop:
    """The losses of these bounds that stop a run whose losses have this precision.

    Args:
        at_target: whether the target is one of them.
    """
    with np.errstate(over="ignore"):  # beyond float32 a ceiling is infinite
        values = (limits.target if at_target else -math.inf, limits.ceiling, limits.floor)
        return Stop(*(np.asarray(value, dtype) for value in values))


def crossings(loss: Float[np.ndarray | np.floating, "..."], stop: Stop) -> tuple[Flags, Flags, Flags, Flags]:
    """Whether a loss, or each of an array, is not finite, above the ceiling, below the floor, at the target: a run stops at any."""
    return ~np.isfinite(loss), loss > stop.ceiling, loss < stop.floor, loss <= stop.target


def verdict(
    loss: float, limits: Bounds, stop: Stop, *, step: int
) -> tuple[Literal["completed", "diverged"], str] | None:
    """Status and reason if a run at this loss is to stop, else None."""
    broken, above, below, reached = crossings(np.float64(loss), stop)
    if broken:
        return "diverged", f"the loss is {loss} at step {step}"
    if above:
        return "diverged", f"the loss {loss:.6g} passed {limits.ceiling:.6g} (diverge_at) at step {step}"
    if below:
        why = "the loss is unbounded below" if limits.minimum == -math.inf else "the loss falls without a known bound"
        return "diverged", f"{why}: it passed {limits.floor:.6g} (diverge_at) at step {step}"
    if reached:
        return "completed", f"the target loss {limits.target:.6g} was reached at step {step}"
    return None


def measured_rate(
    losses: Float[np.ndarray, "steps"], *, minimum: float | None, eps: float, double_root: bool
) -> float | None:
    """Contraction a step of the distance √(loss − f*), by least squares of its logarithm on the step.

    The fit takes the second half of the steps before the loss comes within 1000·eps·|f*| of f*, where rounding begins. Where a
    method's iteration has a double root (heavy ball and Nesterov at their best momentum) a component decays as (a + bk)·rᵏ: then
    log k is a second regressor, without which the fit would be off by about 1/k.

    Args:
        losses: of every step from 0 on.
        minimum: f*; None or -inf gives None.
        eps: machine epsilon of the losses' precision.
        double_root: whether the method has such an iteration.

    Returns:
        The rate, or None with fewer than 6 steps to fit.
    """
    if minimum is None or not math.isfinite(minimum):
        return None
    gaps = np.asarray(losses, np.float64) - minimum
    floor = max(1e3 * eps * abs(minimum), 1e10 * np.finfo(np.float64).tiny)
    usable = ~(np.isfinite(gaps) & (gaps > floor))
    end = int(usable.argmax()) if usable.any() else len(gaps)
    steps = np.arange(max(end // 2, 1), end)
    if len(steps) < 6:
        return None
    columns = [np.ones(len(steps)), steps - steps.mean()]
    if double_root:
        columns.append(np.log(steps))
    solution, *_ = np.linalg.lstsq(np.stack(columns, axis=1), np.log(gaps[steps]) / 2, rcond=None)
    return float(np.exp(solution[1]))
