"""What a value of a problem's options may be: each check returns the value in plain Python, or raises ConfigError naming the key."""

import difflib
import math
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Float64

from curvexp.errors import ConfigError
from curvexp.numeric import is_number

LARGEST = 2**53  # whole numbers up to it are floats too


def whole(key: str, value: object, *, least: int = 1, most: int = LARGEST) -> int:
    """A whole number from `least` to `most`."""
    if isinstance(value, bool) or not isinstance(value, int | float) or value != value // 1 or value < least:
        raise ConfigError(f"{key}={value}: expected a whole number >= {least}. Change {key}.")
    if value > most:
        limit = "2^53" if most == LARGEST else most
        raise ConfigError(f"{key}={value}: expected a whole number <= {limit}. Change {key}.")
    return int(value)


def number(
    key: str, value: object, *, least: float = -math.inf, above: float = -math.inf, below: float = math.inf
) -> float:
    """A finite number with least <= value, above < value < below."""
    if not is_number(value) or not (math.isfinite(value) and least <= value and above < value < below):
        bounds = [f">= {least:g}"] * (least > -math.inf) + [f"> {above:g}"] * (above > -math.inf)
        bounds += [f"< {below:g}"] * (below < math.inf)
        raise ConfigError(
            f"{key}={value}: expected a finite number {' and '.join(bounds)}".rstrip() + f". Change {key}."
        )
    return float(value)


def choice(key: str, value: object, options: Iterable[str]) -> str:
    """One of `options`; the error names the nearest ones."""
    known = sorted(options)
    if value in known:
        return str(value)
    near = difflib.get_close_matches(str(value), known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    raise ConfigError(f"{key}={value}: expected one of {', '.join(known)}.{hint} Change {key}.")


def vector(key: str, value: object, *, size: int | None = None) -> Float64[np.ndarray, "n"]:
    """A list of finite numbers as a float64 vector, of length `size` where that is given."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray) or len(value) == 0:
        raise ConfigError(f"{key}={value}: expected a list of numbers. Change {key}.")
    found = np.array([number(f"{key}[{i}]", _plain(entry)) for i, entry in enumerate(value)])
    if size is not None and len(found) != size:
        raise ConfigError(f"{key}: {len(found)} numbers, expected {size}, the dimension. Change {key}.")
    return found


def symmetric(key: str, value: object) -> Float64[np.ndarray, "n n"]:
    """A list of lists as a symmetric float64 matrix; asymmetry beyond rounding is refused."""
    if isinstance(value, str) or not isinstance(value, Sequence | np.ndarray) or len(value) == 0:
        raise ConfigError(f"{key}={value}: expected a list of rows. Change {key}.")
    matrix = np.stack([vector(f"{key}[{i}]", row, size=len(value)) for i, row in enumerate(value)])
    asymmetry = np.abs(matrix - matrix.T)
    i, j = np.unravel_index(asymmetry.argmax(), asymmetry.shape)
    if asymmetry[i, j] > 1e-12 * np.abs(matrix).max():
        raise ConfigError(
            f"{key}: entry [{i}][{j}] is {matrix[i, j]:g} and [{j}][{i}] is {matrix[j, i]:g}; expected a symmetric matrix. "
            f"Change {key}, for instance to (A + A')/2, which is the same quadratic."
        )
    return (matrix + matrix.T) / 2


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value
