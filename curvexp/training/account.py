"""What the host keeps of one run while the device trains it: its bounds, its losses, its records."""

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Float, Float64

from curvexp import optim, theory
from curvexp import probe as probes
from curvexp.errors import ConfigError
from curvexp.linalg.lapack import fetch
from curvexp.linalg.precision import full_precision
from curvexp.linalg.vectors import random_key
from curvexp.numeric import is_number
from curvexp.optim import Optimizer
from curvexp.probe import Probe
from curvexp.problem import Problem
from curvexp.quantities import check_own
from curvexp.record import Outcome, Reading, Record
from curvexp.training.ending import Bounds, Stop, bounds, crossings, measured_rate, stop_of, verdict
from curvexp.training.loop import Carry, Kind, Seen, begin, draw_orders, initial, look, run_keys, seen_of
from curvexp.training.meter import Meter
from curvexp.training.rows import Start
from curvexp.training.state import LateState, Snapshot, State, state_of
from curvexp.training.structure import check_loss, kind_of, parameters
from curvexp.training.tune import tune
from curvexp.types import Params, RandomKey

MATMUL_PRECISIONS = (
    "highest",
    "tensorfloat32",
    "bfloat16",
)  # JAX's names: all bits, or fewer where the device has them


CALL = (1e-4, 1e-3)  # seconds that a call of a program takes beside its work, on a CPU and on an accelerator
NOT_FINITE = Stop(-math.inf, math.inf, -math.inf)  # stops where the loss is not finite, and only there


class Run(NamedTuple):
    """A run among those of `run_many`.

    Attributes:
        problem: what is minimised.
        optimizer: its `auto` numbers are chosen at the start, see `tune`; or any optax transformation, of which no theory is known.
        key: of initialization, batch order and probes: one key, one run; an integer is that of jax.random.key.
        probe: what is measured of the curvature; None measures nothing.
        target: where the minimum f* is known, a fraction of the initial loss − f*, else a loss; the run stops there. `auto` measures
            steps_to_target against 1e-3 (where f* is not known: 0.1) and does not stop.
        diverge_at: the run ends as `diverged` when loss − f* passes this multiple of its initial value.
        resume: the snapshot of a record of this same run: what follows that record is yielded, bit for bit on the same machine.
    """

    problem: Problem
    optimizer: Optimizer | optax.GradientTransformation
    key: RandomKey | int
    probe: Probe | None = None
    target: float | Literal["auto"] | None = "auto"
    diverge_at: float = 1e6
    resume: Snapshot | None = None


class Account:
    """One run: `start`; then for every block `follow`, and `passes` and `record` for each of its records."""

    def __init__(
        self,
        number: int,
        run: Run,
        *,
        steps: int,
        batch_size: int | None,
        matmul_precision: str,
        clock: Callable[[], float] | None,
    ) -> None:
        self.number, self.run, self.steps, self.minibatch = number, run, steps, batch_size is not None
        self.problem, self.optimizer = run.problem, optim.as_optimizer(run.optimizer)
        self.probe, self.key = probes.off() if run.probe is None else run.probe, as_key(run.key)
        self.batch_size, self.clock = batch_size, clock
        self.kind = kind_of(self.problem, self.optimizer, batch_size, matmul_precision)
        self.ended: tuple[Literal["completed", "diverged"], str] | None = None
        self.done, self.alive = 0, True
        self.last: int | None = None  # the step at which it stops, once that is known
        self.reaches: int | None = None  # the step that reaches the target, which may be ahead of the record at hand
        self.again: Callable[[], Any] | None = None

    def start(self) -> Record | None:
        """Makes the state before the first step, and its record; a resumed run has had that record: None."""
        run, kind = self.run, self.kind
        taken_up = run.resume
        if taken_up is None:
            params, order_key, tune_key, probe_key = initial(self.key, init=self.problem.init)
            self.optimizer, choice = tune(self.problem, self.optimizer, params, key=tune_key)
            orders = self._first_order(order_key)
            carry, shown = begin(
                params, self.optimizer.init(params), self.problem.data, self.problem.test, orders, kind=kind
            )
            self.seen = seen_of(shown)
            shown = fetch(shown)
            self.again = functools.partial(
                begin, params, carry.opt_state, self.problem.data, self.problem.test, orders, kind=kind
            )
            self.first = float(shown["loss"])
            state: State | LateState = state_of(carry, orders[0] if self.minibatch else (), order_key)
        else:
            *_, probe_key = run_keys(self.key)
            self.optimizer = self.optimizer._replace(hyper=dict(taken_up.hyper))
            self.first, state = taken_up.first, taken_up.state
            carry = Carry(state.params, state.opt_state, state.step, state.loss, state.gradient)
            self.seen = _shapes_seen(carry, self.problem, kind)
        self.limits = bounds(
            self.first,
            minimum=self.problem.known.minimum,
            lower_bound=self.problem.lower_bound,
            target=run.target,
            diverge_at=run.diverge_at,
        )
        self.stop = stop_of(self.limits, at_target=run.target not in ("auto", None), dtype=carry.loss.dtype)
        self.begun = Start(carry, self.problem.data, self.problem.test, state.key)
        self.meter = Meter(self.problem, self.optimizer, self.probe, probe_key, self.batch_size, self.clock)
        self.keeps = not self.minibatch and self.limits.minimum is not None and math.isfinite(self.limits.minimum)
        self.losses = [np.array([self.first])] if self.keeps else []  # for the rate
        self.reached = 0 if self.first <= self.limits.target else None
        self.counted = len(self.losses)
        if taken_up is None:
            scalars, reading = self.meter(state, shown, probed=True)
            choice = "; ".join(filter(None, (choice, self._absent(reading)))) or None
            return Record(0, scalars, reading, state, note=choice, snapshot=self.snapshot(state), row=self.number)
        self.meter.probe_state, self.meter.read = taken_up.probe_state, taken_up.read
        self.meter.since = taken_up.since
        self.losses, self.done = list(taken_up.losses[: taken_up.blocks]), int(state.step)
        self.reached = taken_up.reached if taken_up.reached is not None else self.reached
        self.counted = len(self.losses)
        return None

    def _absent(self, reading: Reading | None) -> str | None:
        """Why the run has no sharpness, in a sentence; None where it has one, or measures nothing."""
        if self.probe.measure is None:
            return None
        if self.optimizer.operator is None:
            why = self.optimizer.unknown or f"of {self.optimizer.name} neither threshold nor preconditioner is given"
            return f"no sharpness and no threshold: {why}"
        measured = "hessian" if reading is None else probes.operator_name(reading)
        if measured == "hessian":
            return None
        return f"no sharpness and no ledger: the probe measures operator={measured}, and the Hessian decides stability"

    def seconds(self) -> float | None:
        """What a step takes in a loop, about, by the loss, its gradient and the scalars of a record in a call; None of a resumed run."""
        again, self.again = self.again, None  # the parameters of the start are kept no longer
        if again is None:
            return None
        took: list[float] = []
        while len(took) < 5 and sum(took) < 0.01:  # the quickest: the first call after others is slower
            begun = time.perf_counter()
            jax.block_until_ready(again())
            took.append(time.perf_counter() - begun)
        call = CALL[jax.default_backend() != "cpu"]
        return max(min(took) - call, min(took) / 10)

    def follow(
        self,
        losses: Float[np.ndarray, "steps"],
        loss: Float[np.ndarray, "records"],
        ends: Sequence[int],
        *,
        recorded: bool,
    ) -> int | None:
        """Judges the losses of a block, before its records are made; the step at which the run stops in it, or None.

        Args:
            losses: after each step of the block. loss: on all data, at each of `ends`, the steps of its records. Both in the run's
                precision. recorded: whether a record is due at the last of them.
        """
        begun, wide = self.done, (loss if self.minibatch else losses).astype(np.float64)
        # of a minibatch only what is not finite tells of the whole loss, which a record judges
        broken = np.logical_or.reduce(crossings(losses, NOT_FINITE if self.minibatch else self.stop))
        self.last = begun + 1 + int(broken.argmax()) if broken.any() else None
        if self.minibatch:
            judged = np.logical_or.reduce(crossings(loss, self.stop))[: None if recorded else -1]
            if judged.any():
                self.last = min(self.last or self.steps, ends[int(judged.argmax())])
        reached = wide <= self.limits.target
        if self.reached is None and reached.any():
            first = int(reached.argmax())
            self.reaches = ends[first] if self.minibatch else begun + 1 + first
        self.blocks = len(self.losses)
        if self.keeps:
            places = [0, *(end - begun for end in ends)]
            kept = wide if self.last is None else wide[: self.last - begun]
            self.losses += [kept[a:b] for a, b in itertools.pairwise(places) if a < len(kept)]
        return self.last

    def passes(self, number: int, step: int) -> None:
        """Comes to record `number` of the block, at this step."""
        self.done = step
        self.counted = self.blocks + number + 1 if self.keeps else 0
        if self.reached is None and self.reaches is not None and self.reaches <= step:
            self.reached = self.reaches

    def stops(self, shown: dict[str, Any]) -> None:
        """Ends the run at the step that it stands at, for what the record there shows."""
        loss, step = shown["loss"], self.done
        self.ended = verdict(loss, self.limits, self.stop, step=step)
        if self.reached is None and loss <= self.limits.target:
            self.reached = step
        if self.ended is None:
            self.ended = "diverged", f"the loss of a minibatch is {shown['batch_loss']} at step {step}"

    def record(self, state: State | LateState, shown: dict[str, Any], *, due: bool) -> Record:
        """The record of the step that the run stands at. due: whether the probe is; at the run's end it always is."""
        last = self.ended is not None or self.done == self.steps
        scalars, reading = self.meter(state, shown, probed=last or due, last=last)
        outcome = self._outcome(state, shown) if last else None
        self.alive = not last
        snapshot = self.snapshot(state)
        return Record(self.done, scalars, reading, state, outcome=outcome, snapshot=snapshot, row=self.number)

    def snapshot(self, state: State | LateState) -> Snapshot:
        """What the run goes on from after a record."""
        meter, hyper, blocks = self.meter, dict(self.optimizer.hyper), self.counted
        return Snapshot(
            state, hyper, meter.probe_state, meter.read, self.losses, blocks, self.first, self.reached, meter.since
        )

    def _first_order(self, key: RandomKey) -> Any:
        if not self.minibatch:
            return ()
        return draw_orders(key, np.int32(0), examples=self.kind.examples, count=1)

    def _outcome(self, state: State | LateState, shown: dict[str, Any]) -> Outcome:
        status, reason = self.ended or ("completed", None)
        losses = np.concatenate(self.losses) if self.keeps else None
        return Outcome(
            status=status,
            reason=reason,
            steps=self.done,
            loss_start=self.first,
            loss=shown["loss"],
            target_loss=self.limits.target if math.isfinite(self.limits.target) else None,
            steps_to_target=None if self.reached is None else int(self.reached),
            **_rates(self.problem, self.optimizer, state, shown["numbers"], losses, self.limits),
        )


def start(problem: Problem, key: RandomKey | int) -> Params:
    """The parameters with which a run of this key begins."""
    return initial(as_key(key), init=problem.init)[0]


def as_key(key: RandomKey | int) -> RandomKey:
    """A JAX key, of an integer too.

    Raises:
        ConfigError: neither; an integer out of the range that JAX tells apart.
    """
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        try:
            return random_key(key)
        except ValueError as error:
            raise ConfigError(str(error)) from None
    if isinstance(key, jax.Array) and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == jnp.uint32):
        return key
    raise ConfigError(f"key={key!r:.60}: expected an integer, or a key of jax.random.key. Change key.")


def check_run(run: Run, **settings: Any) -> None:
    """Refuses a run that cannot be made of what it is given; nothing is computed.

    Args:
        settings: those of `check` that all runs share.

    Raises:
        ConfigError: naming the key.
    """
    probe = probes.off() if run.probe is None else run.probe
    for name, value, wanted in (("problem", run.problem, Problem), ("probe", probe, Probe)):
        if not isinstance(value, wanted):
            makers = f"the functions of curvexp.{name}"
            raise ConfigError(
                f"{name}={value!r:.60}: expected a curvexp.{wanted.__name__}, as {makers} make. Change {name}."
            )
    optimizer, _ = optim.as_optimizer(run.optimizer), as_key(run.key)
    check(run.problem, probe, target=run.target, diverge_at=run.diverge_at, **settings)
    if optimizer.operator is None:
        optim.check_step(optimizer, run.problem.init)


def check(
    problem: Problem,
    probe: Probe,
    *,
    steps: int,
    batch_size: int | None,
    record_every: int,
    target: float | Literal["auto"] | None,
    diverge_at: float,
    matmul_precision: str = "highest",
) -> int:
    """Number of parameters, after refusing every setting that this problem cannot serve; nothing is computed.

    Raises:
        ConfigError: naming the key.
    """
    for name, value in (("steps", steps), ("record_every", record_every)):
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10**9:
            raise ConfigError(f"{name}={value}: expected an integer from 1 to 10^9. Change {name}.")
    if batch_size is not None:
        if problem.examples is None:
            raise ConfigError(
                f"batch_size={batch_size}: problem={problem.name} has no examples to draw from. Set batch_size=null."
            )
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or not 1 <= batch_size <= problem.examples:
            raise ConfigError(
                f"batch_size={batch_size}: expected an integer from 1 to {problem.examples}, the number of training examples, or "
                "null for all of them. Change batch_size."
            )
    if target not in ("auto", None) and not (is_number(target) and math.isfinite(target) and target > 0):
        raise ConfigError(f"target={target}: expected a positive number, auto, or null. Change target.")
    if not is_number(diverge_at) or not diverge_at > 1:
        raise ConfigError(f"diverge_at={diverge_at}: expected a number above 1. Change diverge_at.")
    check_own(probe.quantities)
    if matmul_precision not in MATMUL_PRECISIONS:
        raise ConfigError(
            f"matmul_precision={matmul_precision}: expected {', '.join(MATMUL_PRECISIONS)}. Change matmul_precision."
        )
    check_loss(problem)
    size = parameters(problem.init)
    probe.check(size, problem)
    return size


def template(problem: Problem, optimizer: Optimizer, *, batch_size: int | None) -> State:
    """The shapes of a run's training state; nothing is computed. `optimizer` has its numbers, see `Snapshot.hyper`."""
    kind = kind_of(problem, optimizer, batch_size, MATMUL_PRECISIONS[0])  # of no account for shapes

    def start(key: RandomKey) -> State:
        params = problem.init(key)
        orders: Any = () if batch_size is None else draw_orders.function(key, 0, examples=kind.examples, count=1)
        carry, _ = begin.function(params, optimizer.init(params), problem.data, problem.test, orders, kind=kind)
        return state_of(carry, orders[0] if batch_size else (), key)

    return jax.eval_shape(full_precision(start), jax.random.key(0))


def _shapes_seen(carry: Carry, problem: Problem, kind: Kind) -> Seen:
    return seen_of(
        jax.eval_shape(full_precision(functools.partial(look, kind=kind)), carry, problem.data, problem.test)
    )


def _rates(
    problem: Problem,
    optimizer: Optimizer,
    state: State | LateState,
    hyper: dict[str, float],
    losses: Float64[np.ndarray, "steps"] | None,
    limits: Bounds,
) -> dict[str, float | None]:
    """Measured and theoretical contraction a step; None where they have no meaning: minibatches, or no known minimum or spectrum."""
    rate = theory_rate = None
    if losses is not None:
        eps = probes.eps_of(state.params)
        rate = measured_rate(losses, minimum=limits.minimum, eps=eps, double_root=hyper.get("momentum", 0) > 0)
        values = problem.known.eigenvalues
        if values is not None and optimizer.rate is not None and optimizer.schedule is None:
            nonzero = theory.above_rounding(values, eps=eps)
            theory_rate = float(optimizer.rate(hyper, nonzero).max()) if len(nonzero) else None
    return {"rate": rate, "rate_theory": theory_rate}
