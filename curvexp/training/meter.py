"""What a record holds: the scalars of its step, and the probe's reading where one is due."""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from curvexp.linalg.precision import at_least_float32, is_half
from curvexp.optim import Optimizer
from curvexp.probe import Probe, ledger
from curvexp.problem import Problem
from curvexp.record import Reading
from curvexp.training.loop import folded
from curvexp.training.state import LateState, State
from curvexp.training.tune import over_all_data
from curvexp.types import RandomKey


class Meter:
    """What a record holds: it keeps the probe's warm starts between readings."""

    def __init__(
        self,
        problem: Problem,
        optimizer: Optimizer,
        probe: Probe,
        key: RandomKey,
        batch_size: int | None,
        clock: Callable[[], float] | None,
    ) -> None:
        self.problem, self.optimizer, self.probe, self.key = problem, optimizer, probe, key
        self.batch_size, self.clock = batch_size, clock
        self.whole, self.base = over_all_data(problem), _base(problem)
        self.probe_state, self.read = probe.state, ledger.Past()
        self.since: Callable[[ledger.Past], ledger.Past] | None = None
        self.numbers: dict[str, Any] | None = None

    def _read_numbers(self, numbers: dict[str, Any]) -> None:
        """Keeps the optimizer's numbers, and what follows from them; most stay the same from record to record."""
        self.numbers = numbers
        self.hyper = {name: float(value) for name, value in numbers.items()}
        names = (("lr", self.optimizer.lr_name), ("momentum", "momentum"))
        self.named = {name: self.hyper[key] for name, key in names if key in self.hyper}
        self.threshold: dict[str, float] = {}
        if self.optimizer.threshold is not None:
            with np.errstate(divide="ignore"):  # a schedule that ends at 0 leaves every curvature stable
                self.threshold["threshold"] = float(self.optimizer.threshold(self.hyper))

    def __call__(
        self, state: State | LateState, shown: dict[str, Any], *, probed: bool, last: bool = False
    ) -> tuple[dict[str, Any], Reading | None]:
        """The record's scalars and reading; where the loss is not finite there is no curvature to read."""
        if shown["numbers"] != self.numbers:
            self._read_numbers(shown["numbers"])
        scalars: dict[str, Any] = {"loss": float(shown["loss"]), "grad_norm": float(shown["grad_norm"]), **self.named}
        for name, value in shown["metrics"].items():
            scalars[name] = float(value)
        scalars |= self.threshold
        if self.probe.measure is None:
            return scalars, None
        if not probed or not math.isfinite(scalars["loss"]):
            if self.batch_size is None:  # else the state's gradient is that of a minibatch
                self.since = functools.partial(_since, self.optimizer, state)
            return scalars, None
        begun = self.clock() if self.clock else 0.0
        key = folded(self.key, state.step)
        params, past = at_least_float32(state.params), self.since(self.read) if self.since else self.read
        measure = self.probe.measure_last if last and self.probe.measure_last else self.probe.measure
        reading, self.probe_state = measure(self.whole, params, self.probe_state, key)
        half = sorted({leaf.dtype.name for leaf in jax.tree.leaves(state.params) if is_half(leaf)})
        if half:
            reading = reading._replace(extra={**reading.extra, "upcast": f"{', '.join(half)} measured in float32"})
        if self.problem.batchnorm:
            reading = reading._replace(extra={**reading.extra, "batchnorm": str(self.problem.batchnorm)})
        found, reading, self.read = ledger.enter(
            self.whole,
            self.optimizer,
            reading,
            past,
            ledger.Now(state, self.hyper, scalars["loss"], self.base, self.problem.known.optimum),
            batch_size=self.batch_size,
            tol=self.probe.tol,
            full=last or past.readings % self.probe.check_every == 0,
            key=key,
        )
        self.since = None
        scalars |= {**reading.scalars, **found}
        if self.clock:
            scalars["probe_seconds"] = round(self.clock() - begun, 6)
        return scalars, reading


def _since(optimizer: Optimizer, state: State | LateState, read: ledger.Past) -> ledger.Past:
    """What a reading looks back at: this state of the record before, and the last reading."""
    momentum = ledger.momentum(optimizer, state)
    return read._replace(step=state.step, gradient=state.gradient, momentum=momentum)


def _base(problem: Problem) -> float | None:
    """The minimum of the loss, else what it cannot go below, else None."""
    minimum = problem.known.minimum
    if minimum is not None:
        return minimum if math.isfinite(minimum) else None
    return problem.lower_bound
