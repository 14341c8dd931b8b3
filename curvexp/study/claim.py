"""Claim: one statement with its prediction, its measurement and its verdict."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

PASS, FAIL, NOT_APPLICABLE = "pass", "fail", "not applicable"


class Claim(NamedTuple):
    """One line of a study's table.

    Attributes:
        statement: what theory says, with its conditions.
        prediction, measurement: of many values those that lie furthest apart, in units of what is allowed.
        allowed: the largest deviation that passes, absolute.
        relation: `=`, `≤` or `≥`: how the measurement should stand to the prediction.
        tolerance: why so much is allowed, in words.
        verdict: pass, fail, or not applicable where the statement's condition was not met.
        interval: 95 % interval of the measurement where there is chance in it, else None.
        values: how many values were compared.
    """

    statement: str
    prediction: float | None
    measurement: float | None
    allowed: float | None
    relation: str
    tolerance: str
    verdict: str
    interval: tuple[float, float] | None = None
    values: int = 1


class Result(NamedTuple):
    """What a study's function returns: claims, and arrays {name: array} that its figures show."""

    claims: Sequence[Claim]
    data: Mapping[str, Any]


class Finding(NamedTuple):
    """What a study came to: JSON-ready with `_asdict`, `claims` being dicts."""

    study: str
    number: int | None
    statement: str
    source: str
    verdict: str
    claims: list[dict[str, Any]]
    seconds: float
    options: dict[str, Any]


def equal(
    statement: str,
    prediction: ArrayLike,
    measurement: ArrayLike,
    *,
    relative: float = 0.0,
    absolute: float = 0.0,
    because: str,
    interval: tuple[float, float] | None = None,
) -> Claim:
    """Passes where |measurement − prediction| <= absolute + relative·|prediction| for every value; NaN fails.

    Args:
        prediction, measurement: broadcast against each other.
    """
    return _worst(statement, prediction, measurement, "=", relative, absolute, because, interval)


def at_most(
    statement: str,
    bound: ArrayLike,
    measurement: ArrayLike,
    *,
    because: str,
    interval: tuple[float, float] | None = None,
) -> Claim:
    """Passes where every measurement <= bound; with an interval, where the whole interval is."""
    return _worst(statement, bound, measurement, "≤", 0.0, 0.0, because, interval)


def at_least(
    statement: str,
    bound: ArrayLike,
    measurement: ArrayLike,
    *,
    because: str,
    interval: tuple[float, float] | None = None,
) -> Claim:
    """Passes where every measurement >= bound; with an interval, where the whole interval is."""
    return _worst(statement, bound, measurement, "≥", 0.0, 0.0, because, interval)


def not_applicable(statement: str, *, because: str, measurement: float | None = None) -> Claim:
    """The statement's condition was not met: neither pass nor fail."""
    return Claim(statement, None, measurement, None, "=", because, NOT_APPLICABLE)


def verdict(claims: Sequence[Claim]) -> str:
    """fail where one claim failed, pass where one passed and none failed, else not applicable."""
    found = {claim.verdict for claim in claims}
    return FAIL if FAIL in found else PASS if PASS in found else NOT_APPLICABLE


def mean_interval(values: ArrayLike) -> tuple[float, float]:
    """95 % t-interval of the mean of independent values (n,), n >= 2."""
    import scipy.stats  # 0.4 s that no run shall wait for

    found = np.asarray(values, np.float64)
    half = float(scipy.stats.t.ppf(0.975, len(found) - 1) * found.std(ddof=1) / math.sqrt(len(found)))
    return float(found.mean()) - half, float(found.mean()) + half


def _worst(
    statement: str,
    prediction: ArrayLike,
    measurement: ArrayLike,
    relation: str,
    relative: float,
    absolute: float,
    because: str,
    interval: tuple[float, float] | None,
) -> Claim:
    p, m = np.broadcast_arrays(np.asarray(prediction, np.float64), np.asarray(measurement, np.float64))
    if not p.size:
        raise ValueError(f"{statement}: expected at least one value to compare.")
    p, m = p.ravel(), m.ravel()
    allowed = absolute + relative * np.abs(p)
    with np.errstate(invalid="ignore"):
        excess = m - p
    excess = np.where(p == m, 0.0, excess)
    deviation = {"=": np.abs(excess), "≤": excess, "≥": -excess}[relation]
    lost = np.isnan(deviation)
    i = int(np.argmax(np.where(lost, np.inf, deviation - allowed)))
    passed = bool((deviation <= allowed).all())
    if interval is not None and relation != "=":
        passed &= interval[1] <= p[i] if relation == "≤" else interval[0] >= p[i]
    return Claim(
        statement,
        float(p[i]),
        float(m[i]),
        float(allowed[i]) if relation == "=" else None,
        relation,
        because,
        PASS if passed else FAIL,
        interval,
        p.size,
    )
