"""Contract checks for parts that a person writes: a problem, an optimizer, a probe, a sink.

Each check calls the part as a run would, and compares what comes back with what the part promises. A broken promise raises
`ContractError`, an AssertionError that names the promise, so the checks serve in a test:

    def test_my_problem():
        curvexp.testing.check_problem(my_problem())

The parts that ship with curvexp pass the same checks. In 64-bit mode (`jax.config.update("jax_enable_x64", True)`) the checks are
sharper, as their tolerances follow the rounding of the parameters' dtype.
"""

import copy
import functools
import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree

from curvexp import optim, quantities, theory
from curvexp.curvature import Objective, Operator, hessian
from curvexp.optim import Optimizer, momentum_of
from curvexp.probe import Probe, eps_of, exact, operator_name, operator_of
from curvexp.problem import Problem, bowl
from curvexp.record import Reading, Record
from curvexp.sink import RunEnd, RunStart, Sink
from curvexp.training import over_all_data, run

SMALL = 500  # parameters up to which a dense Hessian is the reference


class ContractError(AssertionError):
    """A part does not do what it promises; the text names the promise."""


def check_problem(problem: Problem, *, seed: int = 0) -> None:
    """Checks that a problem does what `Problem` promises.

    The promises: `init` is a function of its key; the loss is a finite real scalar and a pure function; its gradient agrees with
    central differences; its Hessian is symmetric; with examples the loss is their mean (batch normalization apart); model and criterion
    make up the loss; what `known` states holds.

    Raises:
        ContractError: naming the promise that is broken.
    """
    key, other = jax.random.key(seed), jax.random.key(seed + 1)
    params = problem.init(key)
    leaves = jax.tree.leaves(params)
    _holds(bool(leaves), "init(key) returns a pytree with at least one array")
    for leaf in leaves:
        _holds(jnp.issubdtype(leaf.dtype, jnp.floating), f"parameters are real floating point, and one is {leaf.dtype}")
    _holds(_equal(params, problem.init(key)), "init gives the same parameters for the same key")
    _holds(_shapes(params) == _shapes(problem.init(other)), "init gives the same shapes for every key")

    def loss(p: Any) -> Any:
        return problem.loss(p, problem.data)

    value = loss(params)
    _holds(jnp.shape(value) == (), f"the loss is a scalar, and has the shape {jnp.shape(value)}")
    _holds(jnp.issubdtype(value.dtype, jnp.floating), f"the loss is real floating point, and is {value.dtype}")
    _holds(bool(jnp.isfinite(value)), f"the loss is finite at the start, and is {value}")
    _holds(_equal(value, loss(params)), "the loss is a pure function: called twice it gives one value")
    eps = eps_of(params)
    _close(jax.jit(loss)(params), value, 1e3 * eps, "the loss gives the same value under jax.jit")
    _check_derivatives(loss, params, key, eps)
    _check_examples(problem, params, value, eps)
    _check_known(problem, params, loss, other, eps)
    if problem.evaluate is not None:
        for name, scalar in problem.evaluate(params, problem.data, problem.test).items():
            _holds(jnp.shape(scalar) == (), f"evaluate returns scalars, and {name} has the shape {jnp.shape(scalar)}")


def check_optimizer(optimizer: Optimizer) -> None:
    """Checks that an optimizer does what `Optimizer` promises.

    The promises: `init` and the update run under jax.jit and keep structure, shapes and dtypes; the numbers stand in the state; threshold
    and rate are those of the iteration; without a preconditioner the iteration is that of the update itself; with one the update is
    −lr·m/P, m the momentum (the gradient without momentum).

    Args:
        optimizer: with numbers for `auto`, see `curvexp.optim.resolve`.

    Raises:
        ContractError: naming the promise that is broken.
    """
    params = {"a": jnp.array([1.0, -2.0]), "b": jnp.array(0.5)}
    gradient = {"a": jnp.array([0.3, -0.7]), "b": jnp.array(-0.2)}
    eps = eps_of(params)
    state = optimizer.init(params)
    update = jax.jit(optimizer.transform.update)
    for _ in range(3):
        step, after = update(gradient, state, params)
        _holds(_shapes(step) == _shapes(params), "an update has the structure, shapes and dtypes of the parameters")
        _holds(_shapes(after) == _shapes(state), "the state keeps its structure, shapes and dtypes")
        before, state = state, after
    hyper = optimizer.hyper_at(before)
    for name, number in optimizer.hyper.items():
        if name != optimizer.lr_name:  # which a schedule multiplies
            _close(hyper[name], number, 10 * eps, f"{name} stands in the state")
    if optimizer.preconditioner is not None:
        divisor = optimizer.preconditioner(state)
        momentum = momentum_of(state)
        moved = gradient if momentum is None else momentum
        expected = jax.tree.map(lambda m, p: -hyper[optimizer.lr_name] * m / p, moved, divisor)
        _close(expected, step, 1e3 * eps, "the update is −lr·m/P")
    if optimizer.iteration is not None:
        _check_theory(optimizer, hyper)


def check_probe(probe: Probe, problem: Problem, *, seed: int = 0) -> None:
    """Checks that a probe does what `Probe` promises, on a small problem.

    The promises: a reading is a function of the key; its arrays are float64, ascending, of equal lengths; some eigenvalue of the measured
    operator (the Hessian, unless the reading's extra["operator"] is ggn or fisher) lies within each residual; a complete reading has all
    eigenvalues; overlaps with the gradient are shares; the state serves the next call; each scalar is a number or None and is described,
    by curvexp or by `probe.quantities`.

    Raises:
        ContractError: naming the promise that is broken.
    """
    if probe.measure is None:
        return
    key = jax.random.key(seed)
    params = problem.init(key)
    whole = over_all_data(problem)
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    probe.check(size, problem)
    quantities.check_own(probe.quantities)
    reading, state = probe.measure(whole, params, probe.state, key)
    again, _ = probe.measure(whole, params, probe.state, key)
    _holds(isinstance(reading, Reading), f"measure returns (Reading, state), and returned {type(reading).__name__}")
    _holds(np.array_equal(reading.eigenvalues, again.eigenvalues, equal_nan=True), "one key gives one reading")
    _check_reading(reading, probe, whole, params, size)
    moved = jax.tree.map(lambda leaf: leaf * 1.01, params)
    second, _ = probe.measure(whole, moved, state, key)
    _check_reading(second, probe, whole, moved, size)


def check_sink(sink: Sink, *, status: str = "completed", folder: str | Path | None = None) -> None:
    """Checks that a sink does what `Sink` promises, over one run.

    The promises: it takes the start, every record and the end without raising, also records with a reading, with a note, and with scalars
    that are absent or not finite; it leaves config, summary and records as they are, which other sinks get too; what it adds to the
    summary JSON can hold.

    Args:
        sink: a new one, for it serves one run. status: how the run ends; `failed` and `skipped` end it before its first record.
        folder: of the run; None: a temporary one.

    Raises:
        ContractError: naming the promise that is broken.
    """
    with tempfile.TemporaryDirectory() as own:
        where = Path(own if folder is None else folder)
        added: dict[str, Any] = {}
        records = [] if status in ("failed", "skipped") else _records(diverged=status == "diverged")
        if status == "interrupted":
            records = records[:-1]
        start = RunStart(
            where,
            copy.deepcopy(RUN_CONFIG),
            "contract check",
            names={"problem": "bowl", "preprocess": "raw", "optim": "sgd", "probe": "exact", "track": "off"},
            parameters=2,
            figures={"loss": 1.0},
            note=lambda text: None,
            add=added.update,
        )
        summary = {"status": status, "reason": None, "loss": 0.5, "condition_number": math.inf, "accuracy": None}
        outcome = RunEnd(status, None, summary, dict)
        for name, arguments in (("start", [start]), ("append", records), ("finish", [outcome])):
            for argument in arguments:
                _gives(sink, name, argument)
        try:
            json.dumps(added)
        except (TypeError, ValueError) as error:
            raise ContractError(f"broken promise: JSON holds what it adds to the summary; {error}") from error


RUN_CONFIG: dict[str, Any] = {  # of the run that a sink is given
    **{"seed": 0, "steps": 4, "record_every": 2, "landscape": "auto", "keep_params": True, "precision": "float32"},
    "checkpoint": {"every": 2, "seconds": None, "keep": 2},
}


def _gives(sink: Sink, name: str, argument: Any) -> None:
    """Calls a method of a sink as a run does."""
    method = getattr(sink, name, None)
    _holds(callable(method), f"a sink has the method {name}")
    parts = [getattr(argument, part, None) for part in ("config", "scalars", "summary")]
    before = [copy.deepcopy(part) for part in parts]
    try:
        method(argument)  # type: ignore[misc]
    except Exception as error:
        raise ContractError(f"broken promise: {name} raises nothing; {type(error).__name__}: {error}.") from error
    # by their texts: NaN is no equal of itself
    _holds(repr(parts) == repr(before), f"{name} leaves what it is given as it is")


def _records(*, diverged: bool) -> list[Record]:
    """Records of a small run; a note, a scalar that is absent and one that is not finite are added."""
    found = [
        record._replace(seconds=0.1 * record.step, scalars=dict(record.scalars)) for record in _small_run(diverged)
    ]
    found[0].scalars.update({"absent": None, "infinite": math.inf, "undefined": math.nan})
    return [found[0]._replace(note="a note"), *found[1:]]


@functools.cache
def _small_run(diverged: bool) -> list[Record]:
    optimizer, settings = optim.sgd(lr=1.0 if diverged else 0.1), {"steps": 4, "record_every": 2, "diverge_at": 1e3}
    return list(run(bowl(), optimizer, exact(every=2), key=jax.random.key(0), **settings))  # type: ignore[arg-type]


def _check_derivatives(loss: Callable[[Any], Any], params: Any, key: Any, eps: float) -> None:
    flat, tree = ravel_pytree(params)
    u, v = (vector / jnp.linalg.norm(vector) for vector in jax.random.normal(key, (2, flat.size), flat.dtype))

    def along(t: Any) -> Any:
        return loss(tree(flat + t * u))

    step = eps ** (1 / 3) * max(1.0, float(jnp.linalg.norm(flat)))
    slope = float((along(step) - along(-step)) / (2 * step))
    gradient = jax.grad(loss)(params)
    scale = float(jnp.linalg.norm(ravel_pytree(gradient)[0])) + abs(float(loss(params)))
    # truncation and rounding of a central difference are both of the order eps^(2/3); 1e3 leaves room for third derivatives
    _close(
        jnp.vdot(ravel_pytree(gradient)[0], u),
        slope,
        1e3 * eps ** (2 / 3) * scale,
        "the gradient is the loss's slope",
        relative=False,
    )
    op = hessian(loss, params)
    hu, hv = (ravel_pytree(op(tree(w)))[0] for w in (u, v))
    largest = max(float(jnp.linalg.norm(hu)), float(jnp.linalg.norm(hv)))
    _close(jnp.vdot(u, hv), jnp.vdot(v, hu), 1e3 * eps * largest + 1e-30, "the Hessian is symmetric", relative=False)


def _check_examples(problem: Problem, params: Any, value: Any, eps: float) -> None:
    if problem.model is not None and problem.criterion is not None:
        found = problem.criterion(problem.model(params, problem.data.inputs), problem.data.targets)
        _close(found, value, 1e3 * eps, "the loss is criterion(model(params, inputs), targets)")
        if problem.log_likelihood is not None:
            whole, along = over_all_data(problem), jax.grad(problem.loss)(params, problem.data)
            own, other = (operator_of(whole, params, operator=name)(along) for name in ("fisher", "ggn"))
            # of a criterion whose outputs are the natural parameters the two agree: Martens 2020, sec. 9
            _close(own, other, 1e4 * eps, "the criterion is the negative log-likelihood of log_likelihood")
    if problem.examples is None or problem.batchnorm is not None:
        return
    lengths = {jnp.shape(leaf)[0] for leaf in jax.tree.leaves(problem.data)}
    _holds(
        lengths == {problem.examples}, f"`examples` is the data's leading axis: {problem.examples}, {sorted(lengths)}"
    )
    cut = max(1, problem.examples // 3)
    parts = [jax.tree.map(lambda leaf, s=s: leaf[s], problem.data) for s in (slice(cut), slice(cut, None))]
    shares = [cut / problem.examples, 1 - cut / problem.examples]
    mean = sum(share * problem.loss(params, part) for share, part in zip(shares, parts, strict=True))
    _close(mean, value, 1e3 * eps, "the loss is the mean over the examples")


def _check_known(problem: Problem, params: Any, loss: Callable[[Any], Any], key: Any, eps: float) -> None:
    known, value = problem.known, float(loss(params))
    close = functools.partial(_close, relative=False)
    for name, bound in (("known.minimum", known.minimum), ("lower_bound", problem.lower_bound)):
        if bound is not None:
            _holds(
                value >= bound - 1e3 * eps * max(1, abs(bound)),
                f"no loss lies under {name}={bound}, and one is {value}",
            )
    if known.optimum is not None:
        gradient = ravel_pytree(jax.grad(loss)(known.optimum))[0]
        start = ravel_pytree(jax.grad(loss)(problem.init(key)))[0]
        close(
            jnp.linalg.norm(gradient),
            0.0,
            math.sqrt(eps) * float(jnp.linalg.norm(start)) + eps,
            "the gradient is 0 at known.optimum",
        )
        if known.minimum is not None and math.isfinite(known.minimum):
            scale = max(abs(known.minimum), abs(value))
            close(
                loss(known.optimum),
                known.minimum,
                1e3 * eps * scale + eps,
                "known.minimum is the loss at known.optimum",
            )
    if known.eigenvalues is not None and len(known.eigenvalues) <= SMALL:
        exact = np.linalg.eigvalsh(np.asarray(hessian(loss, params).dense(), np.float64))
        scale = float(np.abs(exact).max())
        close(exact, known.eigenvalues, 1e3 * eps * scale, "known.eigenvalues are those of the Hessian", relative=False)


def _check_theory(optimizer: Optimizer, hyper: dict[str, float]) -> None:
    assert optimizer.iteration is not None
    unit = 1 / hyper[optimizer.lr_name]
    values = np.array([0.01, 0.3, 0.9, 1.5]) * unit
    radius = theory.iteration_contraction(optimizer.iteration(hyper, values))
    if optimizer.rate is not None:
        _close(optimizer.rate(hyper, values), radius, 1e-9, "rate is the spectral radius of the iteration")
    if optimizer.threshold is not None:
        edge = float(optimizer.threshold(hyper))
        inside, outside = theory.iteration_contraction(
            optimizer.iteration(hyper, np.array([1 - 1e-6, 1 + 1e-6]) * edge)
        )
        _holds(
            inside <= 1 < outside,
            f"the iteration is stable up to threshold={edge}: its radius is {inside} under it, {outside} over it",
        )
    if optimizer.preconditioner is None and optimizer.schedule is None:
        _close(
            _measured(optimizer, values), radius, 2e-2, "the iteration is that of the update, measured on quadratics"
        )


def _measured(optimizer: Optimizer, values: np.ndarray, *, steps: int = 400) -> np.ndarray:
    """Factor a step by which the updates shrink the components of a quadratic, each normalized anew before it under- or overflows."""
    curvatures = jnp.asarray(values)
    x, grown = jnp.ones_like(curvatures), np.zeros(len(values))
    state = optimizer.init(x)

    @jax.jit
    def advance(x: Any, state: Any) -> tuple[Any, Any]:
        step, state = optimizer.transform.update(curvatures * x, state, x)
        return optax.apply_updates(x, step), state

    for count in range(steps):
        x, state = advance(x, state)
        if count % 20 == 19:  # linear: momentum is scaled with x
            size = jnp.maximum(
                jnp.abs(x), jnp.abs(momentum_of(state)) / curvatures if momentum_of(state) is not None else 0
            )
            grown += np.log(np.asarray(size, np.float64))
            x = x / size
            state = jax.tree.map(functools.partial(_divided, by=size), state)
    return np.exp(grown / steps)


def _divided(leaf: Any, *, by: Any) -> Any:
    """The moments of a state divided; its numbers and counts as they are."""
    return leaf / by if jnp.shape(leaf) == by.shape else leaf


def _check_reading(reading: Reading, probe: Probe, whole: Objective, params: Any, size: int) -> None:
    values, residuals = reading.eigenvalues, reading.residuals
    for name, array in (
        ("eigenvalues", values),
        ("residuals", residuals),
        ("gradient_overlaps", reading.gradient_overlaps),
    ):
        if array is not None:
            _holds(isinstance(array, np.ndarray) and array.dtype == np.float64, f"{name} is a float64 numpy array")
            _holds(
                array.shape == (len(values),), f"{name} has one entry an eigenvalue, and has the shape {array.shape}"
            )
    _holds(bool((np.diff(values) >= 0).all()), "eigenvalues ascend")
    _holds(bool((residuals >= 0).all()), "residuals are not negative")
    _holds(
        not reading.complete or len(values) == size,
        f"a complete reading has all {size} eigenvalues, and has {len(values)}",
    )
    if reading.gradient_overlaps is not None:
        shares = reading.gradient_overlaps
        _holds(bool((shares >= 0).all() and shares.sum() <= 1 + 1e-3), "overlaps with the gradient are shares of 1")
    operator = operator_name(reading)
    _holds(operator in quantities.OPERATORS, f"operator is one of {', '.join(quantities.OPERATORS)}, and is {operator}")
    if len(values) and size <= SMALL and "samples" not in reading.extra:
        op = operator_of(whole, params, operator=operator)
        promise = f"an eigenvalue of the {quantities.OPERATORS[operator]} lies within each residual"
        _check_residuals(op, values, residuals, params, promise)
    described = {quantity.name for quantity in (*quantities.QUANTITIES, *probe.quantities)}
    for name, scalar in reading.scalars.items():
        _holds(scalar is None or np.ndim(scalar) == 0, f"the scalar {name} is a number or None")
        _holds(name in described, f"the scalar {name} is described: add curvexp.Quantity to probe.quantities")


def _check_residuals(op: Operator, values: np.ndarray, residuals: np.ndarray, params: Any, promise: str) -> None:
    exact = np.linalg.eigvalsh(np.asarray(op.dense(), np.float64))
    nearest = np.abs(exact[None] - values[:, None]).min(axis=1)
    # the reference has rounding of its own, n·eps of the largest at most
    floor = op.size * eps_of(params) * float(np.abs(exact).max())
    _holds(bool((nearest <= residuals + floor).all()), promise)


def _holds(truth: bool, promise: str) -> None:
    if not truth:
        raise ContractError(f"broken promise: {promise}.")


def _close(found: Any, expected: Any, tolerance: float, promise: str, *, relative: bool = True) -> None:
    """Compares two pytrees, by the largest difference; a relative tolerance is one of the largest expected entry."""
    a, b = (
        np.concatenate([np.ravel(np.asarray(leaf, np.float64)) for leaf in jax.tree.leaves(tree)])
        for tree in (found, expected)
    )
    bound = tolerance * max(float(np.abs(b).max()), 1e-30) if relative else tolerance
    worst = float(np.abs(a - b).max()) if a.shape == b.shape else math.inf
    _holds(worst <= bound, f"{promise}; they differ by {worst:.3g}, {bound:.3g} is allowed")


def _equal(a: Any, b: Any) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda leaf: (jnp.shape(leaf), str(jnp.result_type(leaf))), tree), jax.tree.structure(tree)
