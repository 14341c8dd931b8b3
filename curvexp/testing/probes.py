"""The contract of a probe."""

import jax
import numpy as np
from jaxtyping import Float64

from curvexp import quantities
from curvexp.curvature import Objective, Operator
from curvexp.probe import Probe, eps_of, operator_name, operator_of
from curvexp.problem import Problem
from curvexp.record import Reading
from curvexp.testing.promises import SMALL, holds
from curvexp.training import over_all_data
from curvexp.types import Params


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
    holds(isinstance(reading, Reading), f"measure returns (Reading, state), and returned {type(reading).__name__}")
    holds(np.array_equal(reading.eigenvalues, again.eigenvalues, equal_nan=True), "one key gives one reading")
    _check_reading(reading, probe, whole, params, size)
    moved = jax.tree.map(lambda leaf: leaf * 1.01, params)
    second, _ = probe.measure(whole, moved, state, key)
    _check_reading(second, probe, whole, moved, size)


def _check_reading(reading: Reading, probe: Probe, whole: Objective, params: Params, size: int) -> None:
    values, residuals = reading.eigenvalues, reading.residuals
    for name, array in (
        ("eigenvalues", values),
        ("residuals", residuals),
        ("gradient_overlaps", reading.gradient_overlaps),
    ):
        if array is not None:
            holds(isinstance(array, np.ndarray) and array.dtype == np.float64, f"{name} is a float64 numpy array")
            holds(array.shape == (len(values),), f"{name} has one entry an eigenvalue, and has the shape {array.shape}")
    holds(bool((np.diff(values) >= 0).all()), "eigenvalues ascend")
    holds(
        bool((residuals >= 0).all()),
        f"residuals are numbers of at least 0, and one is {residuals[~(residuals >= 0)][:1]}; what is no eigenvalue belongs into `scalars`",
    )
    holds(
        not reading.complete or len(values) == size,
        f"a complete reading has all {size} eigenvalues, and has {len(values)}",
    )
    if reading.gradient_overlaps is not None:
        shares = reading.gradient_overlaps
        holds(bool((shares >= 0).all() and shares.sum() <= 1 + 1e-3), "overlaps with the gradient are shares of 1")
    operator = operator_name(reading)
    holds(operator in quantities.OPERATORS, f"operator is one of {', '.join(quantities.OPERATORS)}, and is {operator}")
    if len(values) and size <= SMALL and "samples" not in reading.extra:
        op = operator_of(whole, params, operator=operator)
        promise = f"an eigenvalue of the {quantities.OPERATORS[operator]} lies within each residual"
        _check_residuals(op, values, residuals, params, promise)
    described = {quantity.name for quantity in (*quantities.QUANTITIES, *probe.quantities)}
    for name, scalar in reading.scalars.items():
        holds(scalar is None or np.ndim(scalar) == 0, f"the scalar {name} is a number or None")
        holds(name in described, f"the scalar {name} is described: add curvexp.Quantity to probe.quantities")


def _check_residuals(
    op: Operator, values: Float64[np.ndarray, "k"], residuals: Float64[np.ndarray, "k"], params: Params, promise: str
) -> None:
    exact = np.linalg.eigvalsh(np.asarray(op.dense(), np.float64))
    nearest = np.abs(exact[None] - values[:, None]).min(axis=1)
    # the reference has rounding of its own, n·eps of the largest at most
    floor = op.size * eps_of(params) * float(np.abs(exact).max())
    holds(bool((nearest <= residuals + floor).all()), promise)
