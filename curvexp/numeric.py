"""What counts as a number where a person gives one; its range is asked for after that."""

import sys
from typing import TypeGuard


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is an int or a float that a float holds: no bool, no whole number beyond the largest float, of which `float` raises."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max
