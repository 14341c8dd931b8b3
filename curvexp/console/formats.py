"""Numbers and ratios as a person reads them."""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from curvexp.console.streams import printable


def is_number(value: Any) -> bool:
    """Whether it is a number that a float holds."""
    if isinstance(value, int):
        return not isinstance(value, bool) and abs(value) < 2**1023
    return isinstance(value, numbers.Real)


def number(value: Any, digits: int = 4) -> str:
    """A number in a few digits; – where there is none."""
    if value is None:
        return "–"
    return "∞" if value == math.inf else "-∞" if value == -math.inf else f"{value:.{digits}g}"


def figures(scalars: Mapping[str, Any]) -> str:
    """Loss, sharpness beside its threshold, condition number: as far as they were measured."""
    parts = [f"loss {number(scalars.get('loss'))}"]
    if scalars.get("sharpness") is not None:
        parts.append(f"sharpness {ratio(scalars)}")
    condition, operator = condition_number(scalars), scalars.get("operator")
    whose = "" if operator in (None, "hessian") else f" of {printable(operator)}"
    return "  ".join([*parts, f"κ{whose} {condition}"] if condition else parts)


def ratio(scalars: Mapping[str, Any]) -> str:
    """sharpness/threshold as the two numbers; how far over, where it is."""
    excess = over(scalars)
    return f"{number(scalars.get('sharpness'))}/{number(scalars.get('threshold'))}" + (f" ({excess})" if excess else "")


def condition_number(scalars: Mapping[str, Any]) -> str:
    """The condition number as it is known: exact, infinite with that of the positive part, or a lower bound named as one."""
    value, positive, bound = (scalars.get(f"condition_number{suffix}") for suffix in ("", "_positive", "_bound"))
    if value is not None:
        infinite = math.isinf(value) and positive is not None and math.isfinite(positive)
        return f"∞ ({number(positive)} above rounding)" if infinite else number(value)
    return f"≥ {number(bound)}" if bound is not None else ""


def over(scalars: Mapping[str, Any]) -> str:
    """`1.3× over the threshold`, where the sharpness stands above it by more than a rounding of the number shown."""
    margin = scalars.get("stability_margin")
    return f"{number(margin, 3)}× over the threshold" if margin is not None and margin >= 1.005 else ""
