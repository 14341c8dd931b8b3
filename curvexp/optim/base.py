"""An Optimizer: an optax transformation whose numbers are arrays in its state, and beside it the theory that goes with it."""

import functools
from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

import jax
import numpy as np
import optax
from jaxtyping import Float64
from numpy.typing import ArrayLike

from curvexp import theory
from curvexp.errors import ConfigError
from curvexp.linalg.lapack import fetch
from curvexp.optim.injected import Injected, Schedule, numbers_dtype
from curvexp.optim.state import numbers_of
from curvexp.programs import compiled
from curvexp.types import AnyReal, OptState, Params

Hyper: TypeAlias = Mapping[str, Any]  # numbers, or `auto`
StepMatrix: TypeAlias = Float64[np.ndarray, "... d d"]  # of a step on (gradient, momentum); d is 1 or 2
Number = float | Literal["auto"]


class Optimizer(NamedTuple):
    """An optax transformation with its numbers and its theory.

    Attributes:
        name: the option's name.
        transform: the same object for every optimizer of this kind; its state holds `hyper` as arrays.
        hyper: the numbers, `auto` where theory or a measurement is to choose them (see `resolve`).
        fraction: share of the stability threshold that lr=auto takes where no best step is known.
        schedule: step -> multiplier of lr, or None.
        best: (smallest, largest, momentum or None) -> theory.Optimum on a quadratic, or None.
        threshold: hyper -> largest stable curvature, or None.
        rate: (hyper, eigenvalues) -> contraction along each eigenvector, or None.
        preconditioner: state after an update -> the diagonal P that the update divided by, or None.
        iteration: (hyper, eigenvalues) -> the step as a matrix on the components of (gradient, momentum) along each eigenvector,
            of the preconditioned Hessian where there is a preconditioner; or None.
        unknown: why there is neither threshold nor preconditioner, in a sentence, or None.
    """

    name: str
    transform: optax.GradientTransformationExtraArgs
    hyper: Hyper
    fraction: float = 0.5
    schedule: Schedule | None = None
    best: Callable[[float, float, float | None], theory.Optimum] | None = None
    threshold: Callable[[Hyper], float | Float64[np.ndarray, ""]] | None = None
    rate: Callable[[Hyper, ArrayLike], Float64[np.ndarray, "..."]] | None = None
    preconditioner: Callable[[OptState], Params] | None = None
    iteration: Callable[[Hyper, ArrayLike], StepMatrix] | None = None
    unknown: str | None = None

    def init(self, params: Params) -> OptState:
        """Optax state at `params`, holding this optimizer's numbers as arrays; `auto` numbers are to be resolved before."""
        unresolved = [name for name, value in self.hyper.items() if value == "auto"]
        if unresolved:
            raise ConfigError(
                f"optim.{unresolved[0]}=auto: expected a number by now; call curvexp.optim.resolve first."
            )
        dtype = numbers_dtype(params)
        with np.errstate(over="ignore"):  # beyond float32 a number is infinite
            numbers = {name: np.asarray(value, dtype) for name, value in self.hyper.items()}
        return _begun(params, numbers, init=self.transform.init)

    @property
    def operator(self) -> Literal["hessian", "preconditioned"] | None:
        """Whose largest eigenvalue decides stability: what theory is given for; None where that is not known."""
        if self.preconditioner is not None:
            return "preconditioned"
        theory = (self.threshold, self.rate, self.iteration)
        return "hessian" if any(form is not None for form in theory) else None

    @property
    def numbers(self) -> Callable[[OptState], dict[str, AnyReal]]:
        """state -> the numbers that its next update uses, as arrays, `lr` multiplied by the schedule; the same object for one kind."""
        return _numbers(self.lr_name, self.schedule)

    def hyper_at(self, state: OptState) -> dict[str, float]:
        """The numbers that the next update of `state` uses, on the host."""
        return {name: float(value) for name, value in fetch(self.numbers(state)).items()}

    def hyper_before(self, state: OptState, steps: int) -> dict[str, Float64[np.ndarray | np.float64, "..."]]:
        """The numbers that the last `steps` updates up to `state` used; for the lr of a schedule one of each."""
        numbers, count = numbers_of(state)
        found: dict[str, Any] = {name: np.float64(value) for name, value in fetch(numbers).items()}
        if self.schedule is not None and count is not None and self.lr_name in found:
            counts = int(count) - np.arange(steps, 0, -1)
            factors = _over(np.asarray(counts, np.int32), schedule=self.schedule)
            found[self.lr_name] = found[self.lr_name] * np.asarray(factors, np.float64)
        return found

    @property
    def lr_name(self) -> str:
        """Name of the step size among the numbers: `lr` in ours, `learning_rate` in optax's own."""
        return "lr" if "lr" in self.hyper else "learning_rate"


def theory_of(
    iteration: Callable[[Hyper, ArrayLike], StepMatrix], *, lr: str = "lr", preconditioned: bool = False
) -> dict[str, Any]:
    """Fields of an Optimizer that follow from its iteration: threshold and, but for a preconditioned one, rate.

    Args:
        iteration: as the field of that name, its entries linear in the eigenvalue. lr: name of the step size.
        preconditioned: whether P moves along a run, so that no eigenvalues of the problem are those of the steps.

    >>> form = theory_of(lambda hyper, values: theory.gradient_descent_iteration(values, lr=hyper["lr"]))
    >>> float(form["threshold"]({"lr": 0.5})), form["rate"]({"lr": 0.5}, [1.0, 3.0]).tolist()
    (4.0, [0.5, 0.5])
    """

    def threshold(hyper: Hyper) -> Float64[np.ndarray, ""]:
        return theory.iteration_threshold(lambda value: iteration(hyper, value), lr=hyper[lr])

    def rate(hyper: Hyper, eigenvalues: ArrayLike) -> Float64[np.ndarray, "..."]:
        return theory.iteration_contraction(iteration(hyper, eigenvalues))

    found: dict[str, Any] = {"threshold": threshold, "iteration": iteration}
    return found if preconditioned else {**found, "rate": rate}


@functools.partial(compiled, static=("init",))
def _begun(params: Params, numbers: dict[str, AnyReal], *, init: Callable[[Params], OptState]) -> OptState:
    """The state at `params`, with the numbers in their place."""
    state = init(params)
    if isinstance(state, Injected):
        return state.made.start(params, numbers)
    # a person's own, of optax.inject_hyperparams, alone or first in a chain
    if numbers and hasattr(state, "hyperparams"):
        return state._replace(hyperparams={**state.hyperparams, **numbers})
    if numbers and type(state) is tuple and hasattr(state[0], "hyperparams"):
        return (state[0]._replace(hyperparams={**state[0].hyperparams, **numbers}), *state[1:])
    return state


@functools.cache
def _numbers(lr_name: str, schedule: Schedule | None) -> Callable[[OptState], dict[str, AnyReal]]:
    def numbers(state: OptState) -> dict[str, AnyReal]:
        found, count = numbers_of(state)
        if schedule is not None and count is not None and lr_name in found:
            found[lr_name] = found[lr_name] * schedule(count)
        return found

    return numbers


_over = jax.jit(lambda counts, schedule: jax.vmap(schedule)(counts), static_argnames="schedule")
