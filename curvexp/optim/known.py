"""What theory says of optax's own optimizers; of the others, why it says nothing."""

import functools
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import optax
from jaxtyping import Float64
from numpy.typing import ArrayLike

from curvexp import theory
from curvexp.optim.base import Hyper, StepMatrix, theory_of
from curvexp.optim.divisor import preconditioner
from curvexp.types import OptState, Params

LR = "learning_rate"  # as optax names it


class Known(NamedTuple):
    """Fields of an Optimizer of the same names; facts: options of the steps that the function does not take."""

    threshold: Callable[[Hyper], float | Float64[np.ndarray, ""]] | None = None
    rate: Callable[[Hyper, ArrayLike], Float64[np.ndarray, "..."]] | None = None
    preconditioner: Callable[[OptState], Params] | None = None
    iteration: Callable[[Hyper, ArrayLike], StepMatrix] | None = None
    unknown: str | None = None
    facts: Mapping[str, object] = MappingProxyType({})


def known(function: object, options: Mapping[str, Any]) -> Known:
    """What theory says of the steps of function(**options).

    Args:
        function: of optax, or anything else, of which nothing is known. options: all that it takes, defaults included.
    """
    while isinstance(function, functools.partial):  # optax.nadam is one of optax.adam
        options, function = {**function.keywords, **options}, function.func
    name = getattr(function, "__name__", str(function))
    if function is optax.sgd:
        return _sgd(options)
    if function in (optax.adam, optax.adamw, optax.amsgrad, optax.adabelief, optax.yogi):
        if options.get("nesterov"):
            return _not(
                f"with nesterov={options['nesterov']} {name} divides a mean of gradient and momentum, not the momentum"
            )
        found = _adam(options, decays=function is optax.adamw)
        return found._replace(facts={"eps_root": 0.0}) if function is optax.yogi else found
    if function in (optax.rmsprop, optax.adagrad):
        if options.get("momentum") is not None:
            return _not(f"with momentum {name} keeps a momentum of divided steps, not of gradients")
        return Known(preconditioner=preconditioner, **theory_of(_plain, lr=LR, preconditioned=True))
    return _not(f"of {name} no operator is known whose largest eigenvalue decides stability")


def _not(reason: str) -> Known:
    return Known(unknown=reason)


def _plain(hyper: Hyper, values: ArrayLike) -> StepMatrix:
    return theory.gradient_descent_iteration(values, lr=hyper[LR])


def _sgd(options: Hyper) -> Known:
    if options.get("momentum") is None:
        return Known(**theory_of(_plain, lr=LR))
    iteration = theory.nesterov_iteration if options.get("nesterov") else theory.heavy_ball_iteration

    def with_momentum(hyper: Hyper, values: ArrayLike) -> StepMatrix:
        return iteration(values, lr=hyper[LR], momentum=hyper.get("momentum", options["momentum"]))

    return Known(**theory_of(with_momentum, lr=LR))


def _adam(options: Hyper, *, decays: bool) -> Known:
    decay = options.get("weight_decay", 0.0) if decays else 0.0
    if decay != 0 and options.get("mask") is not None:
        return _not("of adamw with a mask no threshold is known: the weight decay is another for each parameter")

    def iteration(hyper: Hyper, values: ArrayLike) -> StepMatrix:
        two = {"lr": hyper[LR], "b1": hyper.get("b1", options["b1"])}
        if not decays:
            return theory.adam_iteration(values, **two)
        return theory.adamw_iteration(values, **two, weight_decay=hyper.get("weight_decay", decay))

    found = Known(preconditioner=preconditioner, **theory_of(iteration, lr=LR, preconditioned=True))
    # a decay moves the fixed point to where the gradient is not zero: its components do not contract by this iteration
    return found if decay == 0 else found._replace(iteration=None)
