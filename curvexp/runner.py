"""The training loop: yields records. It sees no file, no W&B, no config and no clock.

Between two records all steps run on the device in one compiled loop whose trip count is an argument: one program serves blocks of
every length, every learning rate and every seed. The state carries loss and gradient at its own parameters, so that a step costs one
gradient, and the loop stops at the very step where the loss ends the run.
"""

import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from curvexp import ledger, optim, theory
from curvexp import probe as probes
from curvexp.curvature import Objective, hessian, preconditioned
from curvexp.errors import ConfigError
from curvexp.host import fetch
from curvexp.linalg.precision import at_least_float32, full_precision, is_half
from curvexp.lockstep import program
from curvexp.number import is_number
from curvexp.optim import Optimizer
from curvexp.outcome import Bounds, Outcome, bounds, measured_rate, verdict
from curvexp.probe import Probe
from curvexp.problem import Problem
from curvexp.quantities import check_own
from curvexp.record import Reading, Record

MATMUL_PRECISIONS = (
    "highest",
    "tensorfloat32",
    "bfloat16",
)  # JAX's names: all bits of the dtype, or fewer where the device has them


class State(NamedTuple):
    """Everything that the next step depends on.

    Attributes:
        params: pytree. opt_state: optax's. step: updates made, int32.
        loss, gradient: at params, on this step's batch (on all data where there are no minibatches).
        order: this epoch's permutation of the examples, (P,), or (). key: of the permutations.
    """

    params: Any
    opt_state: Any
    step: Any
    loss: Any
    gradient: Any
    order: Any
    key: Any


class Snapshot(NamedTuple):
    """What a run goes on from after a record, as if it had never stopped; arrays are not copied.

    Attributes:
        state: the training's. hyper: the optimizer's numbers, `auto` resolved.
        probe_state, past: what the next reading starts from.
        losses, blocks: of the list of losses after each step, in float64 blocks, the first so many are this snapshot's; empty where no rate
            will be fitted to them. The list is the run's own, and grows.
        first: loss at the start. reached: steps to the target, or None.
    """

    state: State
    hyper: dict[str, float]
    probe_state: Any
    past: ledger.Past
    losses: list[np.ndarray]
    blocks: int
    first: float
    reached: int | None


class Kind(NamedTuple):
    """What a compiled training program is specialised to: its functions by identity, its sizes by value."""

    loss: Callable[[Any, Any], Any]
    update: Callable[..., Any]
    numbers: Callable[[Any], dict[str, Any]]
    evaluate: Callable[[Any, Any, Any], dict[str, Any]] | None
    examples: int | None
    batch_size: int | None
    matmul_precision: str


def run(
    problem: Problem,
    optimizer: Optimizer | optax.GradientTransformation,
    probe: Probe | None = None,
    *,
    steps: int,
    key: Any,
    batch_size: int | None = None,
    record_every: int = 10,
    target: float | Literal["auto"] | None = "auto",
    diverge_at: float = 1e6,
    matmul_precision: str = "highest",
    clock: Callable[[], float] | None = None,
    resume: Snapshot | None = None,
) -> Iterator[Record]:
    """Records of a training run; the last one carries its `Outcome`.

    Args:
        problem: what is minimised.
        optimizer: its `auto` numbers are chosen here, see `tune`; or any optax transformation, of which no theory is known.
        probe: what is measured of the curvature; None measures nothing.
        steps: most updates made.
        key: of initialization, batch order and probes: one key, one run; an integer is that of jax.random.key.
        batch_size: examples a step, drawn without replacement in epochs; None takes them all.
        record_every: steps between records; the first, the last and every probed step have one too.
        target: where the minimum f* is known, a fraction of the initial loss − f*, else a loss; the run stops there. `auto` measures
            steps_to_target against 1e-3 (where f* is not known: 0.1) and does not stop.
        diverge_at: the run ends as `diverged` when loss − f* passes this multiple of its initial value.
        matmul_precision: of the training's matrix products and convolutions, whatever `jax_default_matmul_precision` says: "highest", all
            bits of the dtype on every device; "tensorfloat32" or "bfloat16", fewer on a device that has them, the same bits on a CPU.
            The curvature is always measured with all bits.
        clock: seconds, such as time.perf_counter: what a reading takes of them is recorded as probe_seconds; None records none.
        resume: the snapshot of a record of this same run: what follows that record is yielded, bit for bit on the same machine.

    Yields:
        Record at step 0 (a resumed run has had it), at every multiple of `record_every` and `probe.every`, and at the end; `state` is
        the training state there.

    Raises:
        ConfigError: a value outside its range, or of another kind, before any compute.
    """
    probe = probes.off() if probe is None else probe
    for name, value, wanted in (("problem", problem, Problem), ("probe", probe, Probe)):
        if not isinstance(value, wanted):
            makers = f"the functions of curvexp.{name}"
            raise ConfigError(
                f"{name}={value!r:.60}: expected a curvexp.{wanted.__name__}, as {makers} make. Change {name}."
            )
    optimizer, key = optim.as_optimizer(optimizer), _as_key(key)
    check(
        problem,
        probe,
        steps=steps,
        batch_size=batch_size,
        record_every=record_every,
        target=target,
        diverge_at=diverge_at,
        matmul_precision=matmul_precision,
    )
    if optimizer.operator is None:
        optim.check_step(optimizer, problem.init)
    minibatch = batch_size is not None
    if resume is None:
        params, order_key, tune_key, probe_key = _init(key, init=problem.init)
        optimizer, choice = tune(problem, optimizer, params, key=tune_key)
        kind = _kind(problem, optimizer, batch_size, matmul_precision)
        state, seen = _start(params, optimizer.init(params), problem.data, problem.test, order_key, kind=kind)
        first = float(seen["loss"])
    else:
        probe_key = _keys(key)[-1]
        optimizer = optimizer._replace(hyper=dict(resume.hyper))
        kind, state, first = _kind(problem, optimizer, batch_size, matmul_precision), resume.state, resume.first
    limits = bounds(
        first, minimum=problem.known.minimum, lower_bound=problem.lower_bound, target=target, diverge_at=diverge_at
    )
    stop_at_target = target not in ("auto", None)
    stop = limits.target if stop_at_target and not minibatch else -math.inf
    with np.errstate(over="ignore"):  # beyond float32 a ceiling is infinite
        device_limits = tuple(np.asarray(value, state.loss.dtype) for value in (stop, limits.ceiling, limits.floor))
    meter = _Meter(problem, optimizer, probe, probe_key, batch_size, clock)
    keeps = not minibatch and limits.minimum is not None and math.isfinite(limits.minimum)  # losses, for the rate
    losses, reached, done, ended = [np.array([first])] if keeps else [], 0 if first <= limits.target else None, 0, None

    def snapshot() -> Snapshot:
        hyper, blocks = dict(optimizer.hyper), len(losses)
        return Snapshot(state, hyper, meter.probe_state, meter.past, losses, blocks, first, reached)

    if resume is None:
        scalars, reading = meter(state, fetch(seen), probed=True)
        if probe.measure is not None and optimizer.operator is None:
            why = optimizer.unknown or f"of {optimizer.name} neither threshold nor preconditioner is given"
            choice = "; ".join(filter(None, (choice, f"no sharpness and no threshold: {why}")))
        yield Record(step=0, scalars=scalars, reading=reading, state=state, note=choice, snapshot=snapshot())
    else:
        meter.probe_state, meter.past = resume.probe_state, resume.past
        losses, done = list(resume.losses[: resume.blocks]), int(resume.state.step)
        reached = resume.reached if resume.reached is not None else reached

    def advance(state: State, done: int) -> tuple[int, Any]:
        until = min(steps, _next(done, record_every), _next(done, probe.every) if probe.measure else steps)
        capacity = min(record_every, steps)
        return until, _advance(
            state, problem.data, problem.test, device_limits, until - done, kind=kind, capacity=capacity
        )

    ahead = None
    while done < steps and ended is None:
        until, (state, *found) = ahead or advance(state, done)
        due = probe.measure is not None and until % probe.every == 0
        # the device goes on while the host reads this block; where the block turns out to be the last, that work is dropped
        ahead = None if due or until == steps else advance(state, until)
        block, made, seen = fetch(found)
        loss = float(seen["loss"])
        block = np.array([loss]) if minibatch else block[:made].astype(np.float64)
        if keeps:
            losses.append(block)
        if reached is None and (block <= limits.target).any():
            reached = done + (int(made) if minibatch else 1 + int((block <= limits.target).argmax()))
        done += int(made)
        ended = verdict(loss, limits, step=done, stop_at_target=stop_at_target)
        if ended is None and not math.isfinite(seen["batch_loss"]):
            ended = "diverged", f"the loss of a minibatch is {seen['batch_loss']} at step {done}"
        last = ended is not None or done == steps
        scalars, reading = meter(state, seen, probed=last or due, last=last)
        outcome = None
        if last:
            status, reason = ended or ("completed", None)
            outcome = Outcome(
                status=status,
                reason=reason,
                steps=done,
                loss_start=first,
                loss=loss,
                target_loss=limits.target if math.isfinite(limits.target) else None,
                steps_to_target=None if reached is None else int(reached),
                **_rates(problem, optimizer, state, np.concatenate(losses) if keeps else None, limits),
            )
        yield Record(step=done, scalars=scalars, reading=reading, state=state, outcome=outcome, snapshot=snapshot())


def _as_key(key: Any) -> Any:
    """A JAX key, of an integer too."""
    if isinstance(key, int | np.integer) and not isinstance(key, bool):
        return jax.random.key(int(key))
    if isinstance(key, jax.Array) and (jnp.issubdtype(key.dtype, jax.dtypes.prng_key) or key.dtype == jnp.uint32):
        return key
    raise ConfigError(f"key={key!r:.60}: expected an integer, or a key of jax.random.key. Change key.")


def template(problem: Problem, optimizer: Optimizer, *, batch_size: int | None) -> State:
    """The shapes of a run's training state; nothing is computed. `optimizer` has its numbers, see `Snapshot.hyper`."""
    kind = _kind(problem, optimizer, batch_size, MATMUL_PRECISIONS[0])  # of no account for shapes

    def start(key: Any) -> State:
        params = problem.init(key)
        return _start.function(params, optimizer.init(params), problem.data, problem.test, key, kind=kind)[0]

    return jax.eval_shape(start, jax.random.key(0))


def _kind(problem: Problem, optimizer: Optimizer, batch_size: int | None, matmul_precision: str) -> Kind:
    transform = optimizer.transform
    functions = (problem.loss, transform.update, optimizer.numbers, problem.evaluate)
    return Kind(*functions, problem.examples, batch_size, matmul_precision)


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
    size = _size(problem.init)
    probe.check(size, problem)
    return size


@functools.lru_cache(maxsize=8)
@full_precision
def _size(init: Callable[[Any], Any]) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))))


def tune(problem: Problem, optimizer: Optimizer, params: Any, *, key: Any) -> tuple[Optimizer, str | None]:
    """The optimizer with its `auto` numbers chosen, and how, in a sentence (None where nothing was auto).

    Theory's best where the problem knows its spectrum; else a fraction of the stability threshold for the sharpness at `params`, the
    preconditioned one for an adaptive optimizer, measured to 1 %; for the largest |λ| where no curvature is positive.
    """
    if "auto" not in optimizer.hyper.values():
        return optimizer, None
    known = problem.known.eigenvalues
    if known is not None and optimizer.best is not None:
        return optim.resolve(optimizer, eigenvalues=known, eps=probes.eps_of(params))
    if optimizer.threshold is None or optimizer.hyper[optimizer.lr_name] != "auto":
        return optim.resolve(optimizer)
    whole = over_all_data(problem)
    op = hessian(whole, params)
    if optimizer.preconditioner is not None:
        trial = optimizer._replace(hyper={**optimizer.hyper, optimizer.lr_name: 1.0})
        _, stepped = optimizer.transform.update(probes.gradient(whole, params), trial.init(params), params)
        op = preconditioned(op, optimizer.preconditioner(stepped))
    else:
        op = probes.undivided(op)
    return optim.resolve(optimizer, sharpness=probes.sharpness(op, tol=1e-2, key=key))


class _Meter:
    """What a record holds: it keeps the probe's warm starts between readings."""

    def __init__(
        self,
        problem: Problem,
        optimizer: Optimizer,
        probe: Probe,
        key: Any,
        batch_size: int | None,
        clock: Callable[[], float] | None,
    ) -> None:
        self.problem, self.optimizer, self.probe, self.key = problem, optimizer, probe, key
        self.batch_size, self.clock = batch_size, clock
        self.whole, self.base = over_all_data(problem), _base(problem)
        self.probe_state, self.past = probe.state, ledger.Past()

    def __call__(
        self, state: State, seen: dict[str, Any], *, probed: bool, last: bool = False
    ) -> tuple[dict[str, Any], Reading | None]:
        """The record's scalars and reading; where the loss is not finite there is no curvature to read."""
        hyper = {name: float(value) for name, value in seen["numbers"].items()}
        scalars: dict[str, Any] = {"loss": float(seen["loss"]), "grad_norm": float(seen["grad_norm"])}
        names = (("lr", self.optimizer.lr_name), ("momentum", "momentum"))
        scalars |= {name: hyper[key] for name, key in names if key in hyper}
        scalars |= {name: float(value) for name, value in seen["metrics"].items()}
        if self.optimizer.threshold is not None:
            with np.errstate(divide="ignore"):  # a schedule that ends at 0 leaves every curvature stable
                scalars["threshold"] = float(self.optimizer.threshold(hyper))
        if self.probe.measure is None:
            return scalars, None
        if not probed or not math.isfinite(scalars["loss"]):
            if self.batch_size is None:  # else the state's gradient is that of a minibatch
                momentum = ledger.momentum(self.optimizer, state)
                self.past = self.past._replace(step=state.step, gradient=state.gradient, momentum=momentum)
            return scalars, None
        begun = self.clock() if self.clock else 0.0
        key = _fold_in(self.key, state.step)
        params = at_least_float32(state.params)
        measure = self.probe.measure_last if last and self.probe.measure_last else self.probe.measure
        reading, self.probe_state = measure(self.whole, params, self.probe_state, key)
        half = sorted({leaf.dtype.name for leaf in jax.tree.leaves(state.params) if is_half(leaf)})
        if half:
            reading = reading._replace(extra={**reading.extra, "upcast": f"{', '.join(half)} measured in float32"})
        if self.problem.batchnorm:
            reading = reading._replace(extra={**reading.extra, "batchnorm": str(self.problem.batchnorm)})
        found, reading, self.past = ledger.enter(
            self.whole,
            self.optimizer,
            reading,
            self.past,
            state=state,
            hyper=hyper,
            loss=scalars["loss"],
            base=self.base,
            optimum=self.problem.known.optimum,
            batch_size=self.batch_size,
            tol=self.probe.tol,
            full=last or self.past.readings % self.probe.check_every == 0,
            key=key,
        )
        scalars |= {**reading.scalars, **found}
        if self.clock:
            scalars["probe_seconds"] = round(self.clock() - begun, 6)
        return scalars, reading


def _base(problem: Problem) -> float | None:
    """The minimum of the loss, else what it cannot go below, else None."""
    minimum = problem.known.minimum
    if minimum is not None:
        return minimum if math.isfinite(minimum) else None
    return problem.lower_bound


def _rates(
    problem: Problem, optimizer: Optimizer, state: State, losses: np.ndarray | None, limits: Bounds
) -> dict[str, float | None]:
    """Measured and theoretical contraction a step; None where they have no meaning: minibatches, or no known minimum or spectrum."""
    hyper, eps = optimizer.hyper_at(state.opt_state), probes.eps_of(state.params)
    rate = theory_rate = None
    if losses is not None:
        rate = measured_rate(losses, minimum=limits.minimum, eps=eps, double_root=hyper.get("momentum", 0) > 0)
        values = problem.known.eigenvalues
        if values is not None and optimizer.rate is not None and optimizer.schedule is None:
            nonzero = theory.above_rounding(values, eps=eps)
            theory_rate = float(optimizer.rate(hyper, nonzero).max()) if len(nonzero) else None
    return {"rate": rate, "rate_theory": theory_rate}


def over_all_data(problem: Problem) -> Objective:
    """The loss over all training data, as a function of params alone."""
    return Objective(jax.tree_util.Partial(problem.loss), problem.data)


# ---- compiled programs ----------------------------------------------------------------------------------------------------------


def _in_its_precision(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, traced with the kind's precision of matrix products."""

    @functools.wraps(function)
    def traced(*args: Any, kind: Kind, **static: Any) -> Any:
        with jax.default_matmul_precision(kind.matmul_precision):
            return function(*args, kind=kind, **static)

    return traced


@_in_its_precision
def _advance_many(
    present: Any, axes: Any, state: State, data: Any, test: Any, limits: Any, steps: Any, *, kind: Kind, capacity: int
) -> tuple[State, Any, Any, Any]:
    """`_advance` for several runs that stand at one step: leaves have a leading axis where `axes` has 0; a run that ends is frozen.

    The step number is one for all, so that only at an epoch's end is an order drawn.
    """
    target, ceiling, floor = limits
    keys, begun = state.key, jnp.max(jnp.where(present, state.step, 0))
    state = state._replace(key=())

    def one(state: State, data: Any, key: Any, number: Any) -> State:
        return _step(state._replace(key=key), data, number, kind)._replace(key=())

    def goes_on(carry: Any) -> Any:
        _, _, _, count, alive = carry
        return (count < steps) & alive.any()

    def step(carry: Any) -> Any:
        state, losses, made, count, alive = carry
        stepped = jax.vmap(one, in_axes=(0, axes[1], axes[0].key, None))(state, data, keys, begun + count + 1)
        state = jax.tree.map(lambda new, old: jnp.where(_column(alive, new), new, old), stepped, state)
        losses = losses.at[:, count].set(state.loss)
        ended = ~jnp.isfinite(state.loss) | (state.loss > ceiling) | (state.loss < floor) | (state.loss <= target)
        return state, losses, made + alive, count + 1, alive & ~ended

    rows = len(present)
    state = jax.tree.map(
        lambda leaf, axis: leaf if axis == 0 else jnp.broadcast_to(leaf, (rows, *jnp.shape(leaf))),
        state,
        axes[0]._replace(key=()),
        is_leaf=lambda leaf: leaf is None,
    )
    start = (state, jnp.zeros((rows, capacity), state.loss.dtype), jnp.zeros(rows, jnp.int32), jnp.int32(0), present)
    state, losses, made, _, _ = jax.lax.while_loop(goes_on, step, start)
    look = jax.vmap(functools.partial(_look, kind=kind), in_axes=(0, axes[1], axes[2]))(state, data, test)
    keys = keys if axes[0].key == 0 else jax.vmap(lambda _: keys)(present)
    return state._replace(key=keys), losses, made, look


def _column(alive: Any, leaf: Any) -> Any:
    return alive.reshape(-1, *[1] * (leaf.ndim - 1))


@functools.partial(program, static=("kind", "capacity"), many=_advance_many, apart=lambda state, *rest: int(state.step))
@_in_its_precision
def _advance(
    state: State, data: Any, test: Any, limits: Any, steps: Any, *, kind: Kind, capacity: int
) -> tuple[State, Any, Any, Any]:
    """The state after `steps` updates (fewer where the loss ends the run), the loss after each, (capacity,), their number, `_look`."""
    target, ceiling, floor = limits

    def goes_on(carry: tuple[State, Any, Any]) -> Any:
        state, _, made = carry
        ended = ~jnp.isfinite(state.loss) | (state.loss > ceiling) | (state.loss < floor) | (state.loss <= target)
        return (made < steps) & ~((made > 0) & ended)

    def step(carry: tuple[State, Any, Any]) -> tuple[State, Any, Any]:
        state, losses, made = carry
        state = _step(state, data, state.step + 1, kind)
        return state, losses.at[made].set(state.loss), made + 1

    state, losses, made = jax.lax.while_loop(goes_on, step, (state, jnp.zeros(capacity, state.loss.dtype), 0))
    return state, losses, made, _look(state, data, test, kind)


def _step(state: State, data: Any, number: Any, kind: Kind) -> State:
    """The state after update `number`."""
    updates, opt_state = kind.update(state.gradient, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    batch, order = _batch(data, state.order, state.key, number, kind)
    loss, gradient = jax.value_and_grad(kind.loss)(params, batch)
    return State(params, opt_state, number, loss, gradient, order, state.key)


@functools.partial(program, static=("kind",))
@_in_its_precision
def _start(params: Any, opt_state: Any, data: Any, test: Any, key: Any, *, kind: Kind) -> tuple[State, Any]:
    order = jnp.arange(kind.examples) if kind.batch_size else ()
    batch, order = _batch(data, order, key, jnp.int32(0), kind)
    loss, gradient = jax.value_and_grad(kind.loss)(params, batch)
    state = State(params, opt_state, jnp.int32(0), loss, gradient, order, key)
    return state, _look(state, data, test, kind)


def _look(state: State, data: Any, test: Any, kind: Kind) -> dict[str, Any]:
    """What a record shows of a state without its curvature, computed in the program that made the state."""
    return {
        "loss": kind.loss(state.params, data) if kind.batch_size else state.loss,
        "batch_loss": state.loss,
        "grad_norm": optax.tree.norm(state.gradient),
        "numbers": kind.numbers(state.opt_state),
        "metrics": kind.evaluate(state.params, data, test) if kind.evaluate else {},
    }


def _batch(data: Any, order: Any, key: Any, step: Any, kind: Kind) -> tuple[Any, Any]:
    """The examples of this step, and the epoch's order; an epoch drops the examples that do not fill its last batch."""
    if not kind.batch_size:
        return data, order
    assert kind.examples is not None
    epoch, position = jnp.divmod(step, kind.examples // kind.batch_size)
    order = jax.lax.cond(
        position == 0,
        lambda: jax.random.permutation(jax.random.fold_in(key, epoch), order.size).astype(order.dtype),
        lambda: order,
    )
    chosen = jax.lax.dynamic_slice_in_dim(order, position * kind.batch_size, kind.batch_size)
    return jax.tree.map(lambda leaf: leaf[chosen], data), order


@functools.partial(program, static=("init",))
@full_precision
def _init(key: Any, *, init: Callable[[Any], Any]) -> tuple[Any, ...]:
    """The parameters at the start; the keys of batch order, tuning and probes."""
    first, *others = jax.random.split(key, 4)
    return init(first), *others


@program
def _keys(key: Any) -> tuple[Any, ...]:
    """Those of `_init`, of a run that has its parameters."""
    return tuple(jax.random.split(key, 4)[1:])


@program
def _fold_in(key: Any, number: Any) -> Any:
    return jax.random.fold_in(key, number)


def _next(done: int, every: int) -> int:
    return (done // every + 1) * every
