"""The contract of a study."""

import inspect
import json
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from curvexp.study.claim import FAIL, NOT_APPLICABLE, PASS, Claim, Result
from curvexp.study.recorded import GIVEN
from curvexp.testing.promises import ContractError, holds


def check_study(study: Callable[..., Result], **options: Any) -> Result:
    """Checks that the function of a study does what `python -m curvexp +study=NAME` builds on; what it returned.

    The promises: every parameter but `runs` and `folder` has a default and goes by its name; the function returns a Result with at least
    one claim; a claim has a statement, a reason for its tolerance, and a verdict that follows from its numbers; the same numbers give the
    same claims; JSON can hold the data of the figures; JAX's settings are as before.

    Args:
        study: the function. options: what it is called with, such as small numbers, or `runs=load_runs(FOLDER)` of a study with runs.

    Raises:
        ContractError: naming the promise that is broken.

    >>> from curvexp.study import equal
    >>> def half(*, times=2):
    ...     return Result([equal("half of two is one", 1.0, 0.5 * times, absolute=1e-12, because="rounding")], {})
    >>> len(check_study(half).claims)
    1
    >>> check_study(lambda *, times=2: [])
    Traceback (most recent call last):
    curvexp.testing.promises.ContractError: broken promise: a study returns a curvexp.study.Result, and returned list.
    """
    _check_parameters(study)
    before = dict(jax.config.values)
    result = study(**options)
    changed = [name for name, value in jax.config.values.items() if before.get(name) != value]
    holds(not changed, f"JAX's settings are as before, and {', '.join(changed)} changed")
    holds(isinstance(result, Result), f"a study returns a curvexp.study.Result, and returned {type(result).__name__}")
    holds(len(result.claims) > 0, "a study has at least one claim")
    for claim in result.claims:
        _check_claim(claim)
    again = study(**options)
    # by their texts: NaN is no equal of itself
    holds(repr(list(result.claims)) == repr(list(again.claims)), "the same numbers give the same claims")
    try:
        json.dumps({str(name): np.asarray(values).tolist() for name, values in result.data.items()})
    except (TypeError, ValueError) as error:
        raise ContractError(f"broken promise: JSON holds the data of the figures; {error}.") from error
    return result


def _check_parameters(study: Callable[..., Result]) -> None:
    for name, parameter in inspect.signature(study).parameters.items():
        if parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        holds(parameter.kind is not parameter.POSITIONAL_ONLY, f"a parameter goes by its name, and {name} does not")
        holds(
            name in GIVEN or parameter.default is not parameter.empty,
            f"{name} has a default, as its kind is read from that",
        )


def _check_claim(claim: Claim) -> None:
    holds(isinstance(claim, Claim), f"a claim is a curvexp.study.Claim, and one is {type(claim).__name__}")
    holds(bool(claim.statement.strip()), "a claim has a statement")
    where = f"the claim {claim.statement!r}"
    holds(bool(claim.tolerance.strip()), f"{where} says why so much is allowed (because=)")
    holds(
        claim.verdict in (PASS, FAIL, NOT_APPLICABLE),
        f"{where} has one of the three verdicts, and has {claim.verdict!r}",
    )
    if claim.verdict == PASS:
        holds(_stands(claim), f"{where} passes by its numbers: {claim.measurement} {claim.relation} {claim.prediction}")


def _stands(claim: Claim) -> bool:
    """Whether a claim's numbers stand to each other as it says."""
    if claim.prediction is None or claim.measurement is None:
        return False
    apart, allowed = claim.measurement - claim.prediction, claim.allowed or 0.0
    if math.isnan(apart):  # both infinite
        return claim.measurement == claim.prediction
    return {"=": abs(apart), "≤": apart, "≥": -apart}[claim.relation] <= allowed * (1 + 1e-12)
