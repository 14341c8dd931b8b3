"""How numbers and kinds of runs are written, on the terminal and on the page."""

import math

KINDS = {
    "failed": "failed",
    "diverged": "diverged",
    "skipped": "skipped",
    "interrupted": "interrupted",
    "running": "not finished",
    "unreadable": "unreadable",
}


def number(value: float, digits: int = 3) -> str:
    """A number in a few digits: 1.2e3, ∞, – where there is none."""
    if math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    mantissa, _, exponent = f"{value:.{digits}g}".partition("e")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def rate(value: float) -> str:
    """A contraction a step with three digits of its distance from 1, which tells slow rates apart: 0.9802, 0.9999727."""
    if not 0 < value < 1:
        return number(value, 5)
    return f"{value:.{min(2 - math.floor(math.log10(1 - value)), 7)}f}"


def cut(text: object, longest: int = 300) -> str:
    """A text of at most so many characters, the last one … where more are left out."""
    shown = str(text)
    return shown if len(shown) <= longest else shown[: longest - 1] + "…"


def brief(value: object) -> str:
    """A name or a number of a run in at most 60 characters, ? where there is none."""
    if isinstance(value, float):
        return "?" if math.isnan(value) else f"{value:.6g}"
    return cut("?" if value is None else value, 60)
